//! Bundles: programs with the libraries and files that they need, packed as one file.
//!
//! A bundle lies in the initramfs, or beside the RAM image where the controller gives it out. The
//! table of all bundles is in the initramfs and holds their hashes, so that a bundle from elsewhere
//! is the one that was built with this initramfs. What is in one *inside* is in no other: unpack
//! those first.

use metalcast_shared::hash::Hash;
use serde::{Deserialize, Serialize};

/// Where the table lies.
pub const TABLE_PATH: &str = "lib/metalcast/bundles";
/// Directory of the bundles in the initramfs, and beside the kernel; see [`Bundle::file_name`].
pub const INSIDE_DIR: &str = "lib/metalcast/tools";
/// Directory of the other bundles, beside the kernel.
pub const BESIDE_DIR: &str = "tools";
/// Longest packed bundle; lvm's has less than a tenth.
pub const PACKED_LIMIT: u32 = 32 << 20;

/// A bundle as the table lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// What the manifest calls it: `ext`, `xfs` ...
    pub name: String,
    /// Its programs by absolute path.
    pub programs: Vec<String>,
    /// Whether it lies in the initramfs.
    pub inside: bool,
    /// Length of the packed file.
    pub packed_bytes: u32,
    /// BLAKE3 of the packed file.
    pub hash: Hash,
}

impl Bundle {
    /// Whether it has a program of this name.
    pub fn has(&self, program: &str) -> bool {
        self.programs.iter().any(|path| path.rsplit('/').next() == Some(program))
    }

    /// The name of its file in [`INSIDE_DIR`] or [`BESIDE_DIR`]: its hash, so that bundles of several
    /// RAM images can lie in one directory.
    pub fn file_name(&self) -> String {
        file_name(self.hash)
    }
}

/// The name of the file of the bundle with this hash.
pub fn file_name(hash: Hash) -> String {
    format!("{hash}{}", crate::packed::SUFFIX)
}

/// Writes the table.
pub fn write_table(bundles: &[Bundle]) -> Vec<u8> {
    postcard::to_allocvec(bundles).expect("writing to memory cannot fail")
}

/// Reads the table.
pub fn read_table(bytes: &[u8]) -> Result<Vec<Bundle>, postcard::Error> {
    postcard::from_bytes(bytes)
}

/// One file of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File<'b> {
    /// Where it belongs, an absolute path.
    pub path: &'b str,
    /// Whether it is a program or library.
    pub executable: bool,
    /// What is in it.
    pub bytes: &'b [u8],
}

/// A bundle's content before it is packed. Its programs come last, so that where those are everything
/// is.
pub fn content(files: &[File<'_>]) -> Vec<u8> {
    postcard::to_allocvec(files).expect("writing to memory cannot fail")
}

/// The files of an unpacked bundle, in the order in which they are to be written.
pub fn files(content: &[u8]) -> Result<Vec<File<'_>>, postcard::Error> {
    postcard::from_bytes(content)
}
