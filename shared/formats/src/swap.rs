//! The header that makes a partition swap space: what `mkswap` writes, as one page of bytes.
//!
//! Pages of 4 KiB, the only size on x86. The kernel reads this page at `swapon`; the rest of the
//! partition may hold anything.

use uuid::Uuid;

/// Size of a page and of the header, in bytes.
pub const PAGE_BYTES: usize = 4096;
/// Longest label, in bytes; the field has one more for a final NUL.
pub const MAX_LABEL_BYTES: usize = 15;
/// `mkswap` refuses less than this, and so does the kernel.
const MIN_PAGES: u64 = 10;

/// `swap_header` in the kernel's `include/linux/swap.h`: 1 KiB for boot code, then version, last page,
/// number of bad pages, UUID, label; the magic ends the page.
const VERSION: usize = 1024;
const LAST_PAGE: usize = 1028;
const UUID: usize = 1036;
const LABEL: usize = 1052;
const MAGIC: usize = PAGE_BYTES - 10;

/// Names that distributions give a swap file, in the root directory.
pub const FILE_NAMES: [&str; 2] = ["swapfile", "swap.img"];

/// Whether a swap file that begins with this page holds nothing to keep: one with a system that was
/// suspended does not begin so.
pub fn is_plain(page: &[u8; PAGE_BYTES]) -> bool {
    &page[MAGIC..] == b"SWAPSPACE2"
}

/// Why no header can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwapError {
    /// Less than ten pages, or more than 2^32.
    #[error("{bytes} bytes are no size for swap space; 40 KiB to 16 TiB are")]
    Size {
        /// Size of the partition.
        bytes: u64,
    },
    /// The label is too long.
    #[error("swap label {label:?} is longer than {MAX_LABEL_BYTES} bytes")]
    Label {
        /// The label.
        label: String,
    },
}

/// The first page of a swap partition of `bytes` bytes. An empty label is none.
pub fn header(bytes: u64, uuid: Uuid, label: &str) -> Result<[u8; PAGE_BYTES], SwapError> {
    let pages = bytes / PAGE_BYTES as u64;
    let last_page =
        u32::try_from(pages.saturating_sub(1)).map_err(|_| SwapError::Size { bytes })?;
    if pages < MIN_PAGES {
        return Err(SwapError::Size { bytes });
    }
    if label.len() > MAX_LABEL_BYTES || label.contains('\0') {
        return Err(SwapError::Label { label: label.to_owned() });
    }
    let mut page = [0; PAGE_BYTES];
    page[VERSION..VERSION + 4].copy_from_slice(&1u32.to_le_bytes());
    page[LAST_PAGE..LAST_PAGE + 4].copy_from_slice(&last_page.to_le_bytes());
    page[UUID..UUID + 16].copy_from_slice(uuid.as_bytes());
    page[LABEL..LABEL + label.len()].copy_from_slice(label.as_bytes());
    page[MAGIC..].copy_from_slice(b"SWAPSPACE2");
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn output_of(command: &mut Command) -> String {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_page_is_that_of_mkswap() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
        for (bytes, label) in [(40960, ""), (8 << 20, "swap"), (10_000_000, "fifteen bytes !")] {
            file.as_file().set_len(0).unwrap();
            file.as_file().set_len(bytes).unwrap();
            let mut mkswap = Command::new("mkswap");
            mkswap.args(["-U", &uuid.to_string(), "-L", label]).arg(file.path());
            output_of(&mut mkswap);
            let theirs = std::fs::read(file.path()).unwrap();
            let ours = header(bytes, uuid, label).unwrap();
            assert!(ours == theirs[..PAGE_BYTES], "{bytes} bytes, label {label:?}");
            assert!(theirs[PAGE_BYTES..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn other_tools_recognise_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let uuid = Uuid::from_u128(7);
        let mut content = header(1 << 20, uuid, "metal").unwrap().to_vec();
        content.resize(1 << 20, 0);
        std::fs::write(file.path(), content).unwrap();
        let label = output_of(Command::new("swaplabel").arg(file.path()));
        assert!(label.contains("metal") && label.contains(&uuid.to_string()), "{label}");
        let blkid = output_of(Command::new("blkid").arg("-p").arg(file.path()));
        assert!(blkid.contains("TYPE=\"swap\""), "{blkid}");
    }

    #[test]
    fn sizes_and_labels_that_cannot_be_are_refused() {
        let make = |bytes, label: &str| header(bytes, Uuid::nil(), label);
        assert!(matches!(make(40959, ""), Err(SwapError::Size { .. })));
        assert!(matches!(make(0, ""), Err(SwapError::Size { .. })));
        assert!(matches!(make((1 << 44) + 4096, ""), Err(SwapError::Size { .. })));
        assert!(make(1 << 44, "").is_ok());
        assert!(matches!(make(1 << 20, "sixteen bytes !!"), Err(SwapError::Label { .. })));
    }
}
