//! A revision as a whole disk: what its side files say of table, boot code and swap.

use super::{Images, SideFileError, side_files};
use metalcast_formats::clonezilla::{self, Contents, Directory, DirectoryError, SavedDisk};
use metalcast_shared::{
    hash::Hash,
    id::Revision,
    manifest::Partition,
    to_agent::Placed,
    whole_disk::{MAX_GAP_BYTES, SideFile, WholeDisk},
};

/// A whole disk that can be deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// What the disk becomes.
    pub whole: WholeDisk,
    /// Which partition of the revision goes where.
    pub partitions: Vec<Placed>,
}

impl DiskImage {
    /// What the image calls, or would call, a partition of its disk: `sda2`.
    pub fn name_of(&self, number: u16) -> Option<String> {
        let prefix = |placed: &Placed| {
            placed.partition.strip_suffix(&placed.number.to_string()).map(str::to_owned)
        };
        let prefix = self.partitions.iter().find_map(prefix)?;
        Some(format!("{prefix}{number}"))
    }
}

/// Why a revision is none of a whole disk, or cannot be read as one.
#[derive(Debug, thiserror::Error)]
pub enum WholeDiskError {
    /// Its files say so.
    #[error(transparent)]
    Image(#[from] clonezilla::WholeDiskError),
    /// One of them is not what it was.
    #[error(transparent)]
    SideFile(#[from] SideFileError),
    /// What started the disk does not fit on it.
    #[error("{file} has {bytes} bytes of boot loader, between MBR and first partition are {room}")]
    Gap {
        /// The file.
        file: String,
        /// Its length without the zeros at its end.
        bytes: usize,
        /// What there is room for.
        room: u64,
    },
    /// It has neither a table nor a filesystem.
    #[error("it is a tar archive, which goes into a slot (--slot)")]
    Archive,
    /// It has no such file.
    #[error("it has no file {0}")]
    NoFile(String),
}

impl From<DirectoryError> for WholeDiskError {
    fn from(error: DirectoryError) -> Self {
        Self::Image(error.into())
    }
}

impl Images {
    /// What a revision, which must exist, says of its whole disk. Every file that is read is held
    /// against its checksum.
    pub fn whole_disk(&self, revision: &Revision) -> Result<DiskImage, WholeDiskError> {
        let loaded = self.load(revision);
        if loaded.is_ok_and(|loaded| loaded.manifest.partitions.iter().any(Partition::is_archive)) {
            return Err(WholeDiskError::Archive);
        }
        let directory = Directory::open(&self.layout.revision(revision))?;
        let mut contents = Contents::new();
        for piece in directory.disk_files()? {
            contents.insert(piece.name.clone(), side_files::read(piece)?);
        }
        let SavedDisk { mut whole, gap, partitions, .. } = SavedDisk::of(&directory, &contents)?;
        if let Some((file, room)) = gap {
            let content = read(&directory, &file)?;
            let limit = room.min(u64::from(MAX_GAP_BYTES));
            let bytes =
                u32::try_from(content.len()).ok().filter(|bytes| u64::from(*bytes) <= limit);
            let bytes = bytes.ok_or_else(|| WholeDiskError::Gap {
                file: file.clone(),
                bytes: content.len(),
                room: limit,
            })?;
            if bytes > 0 {
                let hash = Hash::of(&content);
                whole.boot.gap = Some(SideFile { name: file, bytes, hash });
            }
        }
        Ok(DiskImage { whole, partitions })
    }

    /// A small file beside the data of a revision, which must exist, without the zeros at its end.
    pub fn side_file(&self, revision: &Revision, name: &str) -> Result<Vec<u8>, WholeDiskError> {
        read(&Directory::open(&self.layout.revision(revision))?, name)
    }
}

fn read(directory: &Directory, name: &str) -> Result<Vec<u8>, WholeDiskError> {
    let piece = directory.side_files.iter().find(|piece| piece.name == name);
    let piece = piece.ok_or_else(|| WholeDiskError::NoFile(name.to_owned()))?;
    let mut content = side_files::read(piece)?;
    let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    content.truncate(end);
    Ok(content)
}
