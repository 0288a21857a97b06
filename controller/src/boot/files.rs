//! The files that machines boot: iPXE, which firmware fetches over TFTP or HTTP, and the RAM image. By known names only,
//! and kept in memory: a rack that powers on wants the same files at the same time.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// iPXE for BIOS, over the card's own UNDI driver.
pub const BIOS_FILE: &str = "undionly.kpxe";
/// iPXE for x64 UEFI, with its own drivers.
pub const X64_FILE: &str = "ipxe.efi";
/// iPXE for x64 UEFI, over the firmware's network protocol.
const X64_SNP_FILE: &str = "snponly.efi";

const NAMES: [&str; 3] = [BIOS_FILE, X64_FILE, X64_SNP_FILE];

/// Largest boot file; iPXE's have about 1 MiB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Largest file of a RAM image, which has to fit into the memory of a small node beside its own content; ours have a
/// tenth of it.
const MAX_RAM_IMAGE_BYTES: u64 = 512 << 20;

/// A directory of boot files and what was read of it.
pub struct BootFiles {
    dir: PathBuf,
    max_bytes: u64,
    cache: Mutex<HashMap<&'static str, Cached>>,
}

struct Cached {
    modified: SystemTime,
    content: Arc<[u8]>,
}

impl BootFiles {
    /// iPXE. Nothing is read yet.
    pub fn ipxe(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), max_bytes: MAX_FILE_BYTES, cache: Mutex::default() }
    }

    /// A RAM image. Nothing is read yet.
    pub fn ram_image(dir: &Path) -> Self {
        Self { max_bytes: MAX_RAM_IMAGE_BYTES, ..Self::ipxe(dir) }
    }

    /// The known name of an iPXE file that `name` is.
    pub fn known(name: &str) -> Option<&'static str> {
        NAMES.into_iter().find(|known| *known == name)
    }

    /// Where a file lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The file's content, read again if the file was replaced. Blocks.
    pub fn read(&self, name: &'static str) -> io::Result<Arc<[u8]>> {
        let file = fs::File::open(self.path(name))?;
        let metadata = file.metadata()?;
        let (modified, bytes) = (metadata.modified()?, metadata.len());
        if bytes > self.max_bytes {
            return Err(io::Error::other(format!("{bytes} bytes are too many for a boot file")));
        }
        // Who comes while it is read waits, instead of reading it too.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache.get(name)
            && cached.modified == modified
            && cached.content.len() as u64 == bytes
        {
            return Ok(cached.content.clone());
        }
        let mut content = Vec::new();
        (&file).take(self.max_bytes).read_to_end(&mut content)?;
        let content: Arc<[u8]> = content.into();
        cache.insert(name, Cached { modified, content: content.clone() });
        Ok(content)
    }
}
