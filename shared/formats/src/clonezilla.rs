//! A Clonezilla image directory: which files it has, what they are, and whether a restore has all it
//! needs.
//!
//! ```text
//! disk, parts            what was saved           <part>.<fs>-ptcl-img.<compression>[.aa ...]
//! <disk>-pt.sf / .parted the partition table      MD5SUMS ...  checksums of all of them
//! ```
//!
//! Opening reads names and small text files; nothing is decompressed or hashed yet. The directory is
//! not trusted: names never lead out of it, and links that do are refused.

mod files;
mod gdisk;
mod name;
mod save;
mod sfdisk;
mod sums;
mod table;
mod whole_disk;

pub use name::{has_data_file, is_side_file, partition_name, piece_suffix};
pub use save::{DiskFacts, DiskTable, PartitionFacts};
pub use table::{SavedTable, TableKind};
pub use whole_disk::{Contents, SavedDisk, WholeDiskError};

use crate::stream::{self, Compression, Opened, Piece, Start, StreamError};
use files::Files;
use metalcast_shared::manifest::ARCHIVE;
use name::{DataName, Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
};
use sums::Sums;

/// Most files that are looked at: a 16 TB image in pieces of 4 GB has 4000.
pub const MAX_FILES: usize = 20_000;

/// How the first file of an image made by partimage ends.
const PARTIMAGE: [&str; 2] = ["000", "aa"];

/// What stands in the name of a raw image where others have their filesystem.
pub const RAW: &str = "dd";

/// Longest text file that is read.
pub const MAX_TEXT_BYTES: u64 = 4 << 20;

/// A directory with everything that a restore needs.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Its path, without links.
    pub path: PathBuf,
    /// Disks that were saved whole; empty if only partitions were.
    pub disks: Vec<String>,
    /// Partition tables of those disks.
    pub tables: Vec<SavedTable>,
    /// Partitions with data, in the order of `parts`.
    pub partitions: Vec<PartitionImage>,
    /// What the disks have besides: partitions without data of their own.
    pub left_out: Vec<LeftOut>,
    /// Files that are not there, and without which a restored disk starts or is named otherwise.
    pub lacking: Vec<String>,
    /// Every other file, such as `parts` and `sda-mbr`: small, and copied as it is.
    pub side_files: Vec<Piece>,
    /// When it was saved, as Clonezilla writes it (`2024-0501-1230`).
    pub saved: Option<String>,
}

/// The image of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// Name of the partition, such as `sda1` or `nvme0n1p2`.
    pub name: String,
    /// partclone's program suffix: `ext4`, `vfat`, `ntfs` ...
    pub filesystem: String,
    /// What its files are, decompressed.
    pub form: Form,
    /// From the file name; old Clonezillas do not say.
    pub compression: Option<Compression>,
    /// Its files, in order.
    pub pieces: Vec<Piece>,
}

/// What the files of a partition are, decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// An image of partclone.
    Partclone,
    /// An image of ntfsclone, which old Clonezillas used for NTFS.
    NtfsClone,
    /// The bytes of the partition: what no other program knew to read.
    Raw,
}

/// A partition without data of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub partition: String,
    /// What it is, such as `swap`.
    pub what: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.partition, self.what)
    }
}

/// Why a directory is not an image that can be restored.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file or the directory cannot be read.
    #[error("{path} cannot be read")]
    Io {
        /// What was being read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file contradicts the format.
    #[error("{file}: {what}")]
    Invalid {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// A good image, but of a kind that cannot be restored here.
    #[error("{file}: {what} is not supported yet")]
    Unsupported {
        /// Name of the file.
        file: String,
        /// The kind.
        what: String,
    },
    /// Files that a restore needs are not there.
    #[error("{path} is not a complete Clonezilla image; missing: {}", .missing.join("; "))]
    Missing {
        /// The directory.
        path: PathBuf,
        /// What is missing, in words.
        missing: Vec<String>,
    },
}

fn list(left_out: &[LeftOut]) -> String {
    left_out.iter().map(LeftOut::to_string).collect::<Vec<_>>().join(", ")
}

impl DirectoryError {
    fn invalid(file: &str, what: impl Into<String>) -> Self {
        Self::Invalid { file: file.to_owned(), what: what.into() }
    }

    fn unsupported(file: &str, what: impl Into<String>) -> Self {
        Self::Unsupported { file: file.to_owned(), what: what.into() }
    }
}

impl PartitionImage {
    /// Opens its files as one stream.
    pub fn open(&self) -> Result<Opened, StreamError> {
        let start = match self.form {
            Form::Partclone | Form::NtfsClone => Start::Magic,
            Form::Raw => Start::Any,
        };
        stream::open(self.pieces.clone(), self.compression, start)
    }

    /// Length of its files in bytes.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }
}

impl Directory {
    /// What is left out, as text; empty if nothing is.
    pub fn left_out(&self) -> String {
        list(&self.left_out)
    }

    /// Reads the directory at `path` and checks that nothing is missing from it.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let files = Files::list(path)?;
        let sums = Sums::read(&files)?;
        let names = |file: &str| match files.text(file)? {
            Some(text) => device_names(file, &text),
            None => Ok(Vec::new()),
        };
        let (disks, parts) = (names("disk")?, names("parts")?);
        refuse_unsupported(&files)?;

        let mut missing = sums.missing(&files);
        if parts.is_empty() {
            missing.push("parts (the list of saved partitions)".to_owned());
        }
        let mut tables = Vec::new();
        for disk in &disks {
            tables.extend(SavedTable::read(&files, disk, &parts, &mut missing)?);
        }
        let Groups { images, mut used } = group_images(&files, &sums, &mut missing)?;
        let partitions = in_order(&files, &parts, images, &mut missing)?;
        if !missing.is_empty() {
            return Err(DirectoryError::Missing { path: files.root, missing });
        }
        let lacking: Result<Vec<_>, _> = tables.iter().map(|table| table.lacking(&files)).collect();
        let lacking = lacking?.concat();
        let left_out = tables.iter().flat_map(|table| table.without_data.iter().cloned()).collect();
        used.extend(sums::FILES.map(str::to_owned));
        let side_files = files
            .entries
            .keys()
            .filter(|name| !used.contains(*name) && !name::is_ours(name))
            .map(|name| files.piece(name, &sums))
            .collect();
        let saved = files.text("clonezilla-img").ok().flatten().and_then(|log| saved_at(&log));
        let path = files.root;
        Ok(Self { path, disks, tables, partitions, left_out, lacking, side_files, saved })
    }
}

impl Directory {
    /// The directory of a tar archive, which is no Clonezilla image but has its checksums beside it as
    /// one has: as one partition that is called `name`, with its data in `file`.
    pub fn of_archive(path: &Path, name: &str, file: &str) -> Result<Self, DirectoryError> {
        let files = Files::list(path)?;
        let sums = Sums::read(&files)?;
        let mut missing = sums.missing(&files);
        if !files.entries.contains_key(file) {
            missing.push(file.to_owned());
        }
        if !missing.is_empty() {
            return Err(DirectoryError::Missing { path: files.root, missing });
        }
        let archive = PartitionImage {
            name: name.to_owned(),
            filesystem: ARCHIVE.to_owned(),
            form: Form::Raw,
            compression: Some(Compression::Zstd),
            pieces: vec![files.piece(file, &sums)],
        };
        Ok(Self {
            path: files.root,
            disks: Vec::new(),
            tables: Vec::new(),
            partitions: vec![archive],
            left_out: Vec::new(),
            lacking: Vec::new(),
            side_files: Vec::new(),
            saved: None,
        })
    }
}

/// Names of disks or partitions from `disk` or `parts`, as they begin file names.
fn device_names(file: &str, text: &str) -> Result<Vec<String>, DirectoryError> {
    let mut names = Vec::new();
    for word in text.split_whitespace() {
        let device = word.strip_prefix("/dev/").unwrap_or(word).replace('/', "-");
        if !name::is_device(&device) {
            let shown: String = word.chars().take(64).collect();
            return Err(DirectoryError::invalid(file, format!("{shown:?} is not a device name")));
        }
        if names.contains(&device) {
            return Err(DirectoryError::invalid(file, format!("{device} is listed twice")));
        }
        names.push(device);
    }
    Ok(names)
}

/// What Clonezilla can save but cannot be put on a partition by itself.
fn refuse_unsupported(files: &Files) -> Result<(), DirectoryError> {
    let stacked = [
        ("lvm_vg_dev.list", "LVM"),
        ("luks-dev.list", "LUKS (opened while saving)"),
        ("dmraid.table", "dmraid"),
        ("ecryptfs.info", "an encrypted image"),
        ("gocryptfs.info", "an encrypted image"),
    ];
    for (file, what) in stacked {
        let text = files.text(file)?.unwrap_or_default();
        let is_used = text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'));
        if is_used {
            return Err(DirectoryError::unsupported(file, what));
        }
    }
    match files.entries.contains_key("00-pseudo-img-note.txt") {
        true => Err(DirectoryError::unsupported("00-pseudo-img-note.txt", "an image without data")),
        false => Ok(()),
    }
}

type Images = BTreeMap<String, PartitionImage>;

/// What the files with data are.
struct Groups {
    images: Images,
    /// Names of all files with data.
    used: BTreeSet<String>,
}

/// All data of partitions in the directory.
fn group_images(
    files: &Files,
    sums: &Sums,
    missing: &mut Vec<String>,
) -> Result<Groups, DirectoryError> {
    let mut groups: BTreeMap<DataName, BTreeMap<String, String>> = BTreeMap::new();
    let (mut images, mut used) = (Images::new(), BTreeSet::new());
    for file in files.entries.keys() {
        match name::classify(file) {
            Kind::Data(data, piece) => {
                groups.entry(data).or_default().insert(piece, file.clone());
            }
            Kind::Unsupported(what) => return Err(DirectoryError::unsupported(file, what)),
            Kind::Other => {}
        }
    }
    for (data, pieces) in groups {
        missing.extend(name::missing_pieces(&data, &pieces)?);
        used.extend(pieces.values().cloned());
        let image = PartitionImage {
            name: data.partition.clone(),
            filesystem: data.filesystem.clone(),
            form: data.form,
            compression: data.compression,
            pieces: pieces.values().map(|file| files.piece(file, sums)).collect(),
        };
        if images.insert(data.partition.clone(), image).is_some() {
            let what = format!("a second image of partition {}", data.partition);
            return Err(DirectoryError::invalid(&data.stem, what));
        }
    }
    Ok(Groups { images, used })
}

/// The images in the order of `parts`; nothing may be missing or left over.
fn in_order(
    files: &Files,
    parts: &[String],
    mut images: Images,
    missing: &mut Vec<String>,
) -> Result<Vec<PartitionImage>, DirectoryError> {
    let mut ordered = Vec::new();
    for part in parts {
        if let Some(image) = images.remove(part) {
            ordered.push(image);
            continue;
        }
        let of_partimage = PARTIMAGE.map(|suffix| format!("{part}.{suffix}"));
        if let Some(file) = of_partimage.iter().find(|file| files.entries.contains_key(*file)) {
            return Err(DirectoryError::unsupported(file, "an image made by partimage"));
        }
        missing.push(format!("{part}.*-ptcl-img.* (the data of partition {part})"));
    }
    match images.into_values().next() {
        Some(left) if !parts.is_empty() => {
            let what = "belongs to a partition that `parts` does not list";
            Err(DirectoryError::invalid(&left.pieces[0].name, what))
        }
        _ => Ok(ordered),
    }
}

/// The date in the last lines of Clonezilla's log.
fn saved_at(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| line.contains("Image created time:"))?;
    let date = line.rsplit("time:").next()?.trim_matches([' ', '#']);
    let is_date = date.len() == 14 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    is_date.then(|| date.to_owned())
}
