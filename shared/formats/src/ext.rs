//! The superblock of ext2, ext3 and ext4: who the file system is, how large, and in what state.
//!
//! Reads only what identifies and measures; block groups and inodes are no concern of this module. A
//! wrong checksum is reported, not refused: whoever shows what is on a disk must see damaged ones too.

use uuid::Uuid;

/// Where the superblock is, in bytes from the start of the file system.
pub const OFFSET_BYTES: u64 = 1024;
/// Its size in bytes.
pub const SUPERBLOCK_BYTES: usize = 1024;

const MAGIC: u16 = 0xef53;
/// Block sizes are 1 KiB << n; the kernel takes up to 64 KiB.
const MAX_LOG_BLOCK_SIZE: u32 = 6;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CSUM_SEED: u32 = 0x2000;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_LARGE_FILE: u32 = 0x2;
const RO_COMPAT_BTREE_DIR: u32 = 0x4;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
const STATE_CLEAN: u16 = 0x1;
const STATE_ERRORS: u16 = 0x2;

/// Which of the family it is, by the features it has: the rule of libblkid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// No journal, no newer feature.
    Ext2,
    /// A journal, no newer feature.
    Ext3,
    /// Newer features.
    Ext4,
    /// Not a file system: the journal of another one.
    JournalDevice,
}

/// What the superblock's own checksum says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The file system has none.
    Absent,
    /// It fits.
    Valid,
    /// It does not: the superblock is damaged.
    Wrong,
}

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// ext2, 3 or 4.
    pub generation: Generation,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its label, empty if it has none.
    pub label: String,
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// Size of the file system in blocks.
    pub blocks: u64,
    /// Blocks not in use, as last written; the count of a mounted or damaged one may be stale.
    pub free_blocks: u64,
    /// Number of inodes.
    pub inodes: u32,
    /// The three feature words: compatible, incompatible, read-only compatible.
    pub features: Features,
    /// Unmounted properly.
    pub clean: bool,
    /// The kernel has found errors in it.
    pub has_errors: bool,
    /// The journal holds changes that have to be replayed.
    pub needs_recovery: bool,
    /// Whether the superblock fits its checksum.
    pub checksum: Checksum,
}

/// Feature bits as on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// May be ignored.
    pub compatible: u32,
    /// Must be known to mount.
    pub incompatible: u32,
    /// Must be known to write.
    pub read_only_compatible: u32,
}

impl Features {
    /// Whether there is a journal.
    pub fn has_journal(&self) -> bool {
        self.compatible & COMPAT_HAS_JOURNAL != 0
    }

    /// Whether the UUID can change without all checksums changing.
    pub fn has_checksum_seed(&self) -> bool {
        self.incompatible & INCOMPAT_CSUM_SEED != 0
    }
}

/// Why bytes are not a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer than 1024 bytes.
    #[error("an ext superblock has 1024 bytes, {bytes} were read")]
    Short {
        /// How many there were.
        bytes: usize,
    },
    /// Not ext2, ext3 or ext4.
    #[error("no ext superblock: the magic number is {magic:#06x}")]
    Magic {
        /// What stands in its place.
        magic: u16,
    },
    /// A block size that no ext has.
    #[error("the ext superblock has a block size of 2^{log2} KiB")]
    BlockSize {
        /// Its logarithm.
        log2: u32,
    },
}

impl Superblock {
    /// Takes the 1024 bytes at [`OFFSET_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let Some((bytes, _)) = bytes.split_first_chunk::<SUPERBLOCK_BYTES>() else {
            return Err(ParseError::Short { bytes: bytes.len() });
        };
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let magic = u16_at(0x38);
        if magic != MAGIC {
            return Err(ParseError::Magic { magic });
        }
        let log2 = u32_at(0x18);
        if log2 > MAX_LOG_BLOCK_SIZE {
            return Err(ParseError::BlockSize { log2 });
        }
        let features = Features {
            compatible: u32_at(0x5c),
            incompatible: u32_at(0x60),
            read_only_compatible: u32_at(0x64),
        };
        let count = |low: usize, high: usize| {
            let has_high = features.incompatible & INCOMPAT_64BIT != 0;
            let high = if has_high { u64::from(u32_at(high)) << 32 } else { 0 };
            high | u64::from(u32_at(low))
        };
        let state = u16_at(0x3a);
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[0x68..0x78]);
        let label = bytes[0x78..0x88].split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(Self {
            generation: generation(features),
            uuid: Uuid::from_bytes(uuid),
            label: String::from_utf8_lossy(label).into_owned(),
            block_bytes: 1024 << log2,
            blocks: count(0x04, 0x150),
            free_blocks: count(0x0c, 0x158),
            inodes: u32_at(0x00),
            features,
            clean: state & STATE_CLEAN != 0,
            has_errors: state & STATE_ERRORS != 0,
            needs_recovery: features.incompatible & INCOMPAT_RECOVER != 0,
            checksum: checksum(bytes, features),
        })
    }

    /// Size of the file system in bytes, which may be less than its partition's.
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_bytes))
    }
}

fn generation(features: Features) -> Generation {
    let old_ro = RO_COMPAT_SPARSE_SUPER | RO_COMPAT_LARGE_FILE | RO_COMPAT_BTREE_DIR;
    let old_incompatible = INCOMPAT_FILETYPE | INCOMPAT_META_BG | INCOMPAT_RECOVER;
    let is_old = features.read_only_compatible & !old_ro == 0
        && features.incompatible & !old_incompatible == 0;
    if features.incompatible & INCOMPAT_JOURNAL_DEV != 0 {
        Generation::JournalDevice
    } else if !is_old {
        Generation::Ext4
    } else if features.has_journal() {
        Generation::Ext3
    } else {
        Generation::Ext2
    }
}

fn checksum(superblock: &[u8; SUPERBLOCK_BYTES], features: Features) -> Checksum {
    if features.read_only_compatible & RO_COMPAT_METADATA_CSUM == 0 {
        return Checksum::Absent;
    }
    let (covered, stored) = superblock.split_at(SUPERBLOCK_BYTES - 4);
    if crc32c(covered).to_le_bytes() == stored { Checksum::Valid } else { Checksum::Wrong }
}

/// CRC-32C as the kernel uses it for metadata: start value all ones, no final inversion. Bit by bit:
/// it is a kilobyte, once.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
        })
    })
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Generation::Ext2 => "ext2",
            Generation::Ext3 => "ext3",
            Generation::Ext4 => "ext4",
            Generation::JournalDevice => "jbd",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn run(command: &mut Command) -> String {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn made_by_mke2fs(args: &[&str], path: &std::path::Path) -> Vec<u8> {
        run(Command::new("mke2fs").args(["-q", "-F"]).args(args).arg(path));
        std::fs::read(path).unwrap()[1024..2048].to_vec()
    }

    /// The values in the listing of `dumpe2fs -h`.
    fn dumpe2fs(path: &std::path::Path) -> impl Fn(&str) -> String {
        let text = run(Command::new("dumpe2fs").arg("-h").arg(path));
        move |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
        }
    }

    #[test]
    fn reads_what_dumpe2fs_reads() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(40 << 20).unwrap();
        let cases: [(&[&str], Generation, Checksum); 6] = [
            (&["-t", "ext2"], Generation::Ext2, Checksum::Absent),
            (&["-t", "ext3", "-L", "three"], Generation::Ext3, Checksum::Absent),
            (&["-t", "ext4", "-L", "sixteen bytes ok"], Generation::Ext4, Checksum::Valid),
            (&["-t", "ext4", "-O", "^metadata_csum,^64bit"], Generation::Ext4, Checksum::Absent),
            (
                &["-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed"],
                Generation::Ext4,
                Checksum::Valid,
            ),
            (&["-O", "journal_dev", "-b", "4096"], Generation::JournalDevice, Checksum::Absent),
        ];
        for (args, generation, checksum) in cases {
            let superblock = made_by_mke2fs(args, file.path());
            let superblock = Superblock::parse(&superblock).unwrap();
            assert_eq!(superblock.generation, generation, "{args:?}");
            if generation == Generation::JournalDevice {
                continue;
            }
            assert_eq!(superblock.checksum, checksum, "{args:?}");
            let value = dumpe2fs(file.path());
            assert_eq!(superblock.uuid.to_string(), value("Filesystem UUID"));
            assert_eq!(superblock.blocks.to_string(), value("Block count"));
            assert_eq!(superblock.free_blocks.to_string(), value("Free blocks"));
            assert_eq!(superblock.block_bytes.to_string(), value("Block size"));
            assert_eq!(superblock.inodes.to_string(), value("Inode count"));
            assert_eq!(superblock.bytes(), 40 << 20);
            let volume = value("Filesystem volume name");
            assert_eq!(superblock.label, volume.replace("<none>", ""));
            let named = |feature: &str| value("Filesystem features").contains(feature);
            assert_eq!(superblock.features.has_journal(), named("has_journal"));
            assert_eq!(superblock.features.has_checksum_seed(), named("metadata_csum_seed"));
            assert!(superblock.clean && !superblock.has_errors && !superblock.needs_recovery);
        }
    }

    #[test]
    fn a_damaged_one_is_read_and_called_damaged() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        let mut bytes = made_by_mke2fs(&["-t", "ext4"], file.path());
        bytes[0x3a] = 0x2;
        bytes[0x60] |= 0x4;
        let superblock = Superblock::parse(&bytes).unwrap();
        assert_eq!(superblock.checksum, Checksum::Wrong);
        assert!(!superblock.clean && superblock.has_errors && superblock.needs_recovery);
        bytes[0x18] = 7;
        assert_eq!(Superblock::parse(&bytes), Err(ParseError::BlockSize { log2: 7 }));
        bytes[0x38] = 0;
        assert_eq!(Superblock::parse(&bytes), Err(ParseError::Magic { magic: 0xef00 }));
        assert_eq!(Superblock::parse(&bytes[..1023]), Err(ParseError::Short { bytes: 1023 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
            let _ = Superblock::parse(&bytes);
            if bytes.len() > 0x40 {
                bytes[0x18..0x1c].fill(0);
                bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
                prop_assert_eq!(Superblock::parse(&bytes).is_ok(), bytes.len() >= 1024);
            }
        }
    }
}
