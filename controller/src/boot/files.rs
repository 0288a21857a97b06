//! The boot files that firmware fetches over TFTP or HTTP: iPXE, by known names only.

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

/// A directory of boot files and what was read of it.
pub struct BootFiles {
    dir: PathBuf,
    cache: Mutex<HashMap<&'static str, Cached>>,
}

struct Cached {
    modified: SystemTime,
    content: Arc<[u8]>,
}

impl BootFiles {
    /// Nothing is read yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), cache: Mutex::default() }
    }

    /// The known name that `name` is.
    pub fn known(name: &str) -> Option<&'static str> {
        NAMES.into_iter().find(|known| *known == name)
    }

    /// The file's content, read again if the file was replaced. Blocks.
    pub fn read(&self, name: &'static str) -> io::Result<Arc<[u8]>> {
        let file = fs::File::open(self.dir.join(name))?;
        let metadata = file.metadata()?;
        let (modified, bytes) = (metadata.modified()?, metadata.len());
        if bytes > MAX_FILE_BYTES {
            return Err(io::Error::other(format!("{bytes} bytes are too many for a boot file")));
        }
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache().get(name)
            && cached.modified == modified
            && cached.content.len() as u64 == bytes
        {
            return Ok(cached.content.clone());
        }
        let mut content = Vec::new();
        (&file).take(MAX_FILE_BYTES).read_to_end(&mut content)?;
        let content: Arc<[u8]> = content.into();
        cache().insert(name, Cached { modified, content: content.clone() });
        Ok(content)
    }
}
