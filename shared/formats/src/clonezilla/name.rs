//! What a file of an image is, by its name alone.
//!
//! `<partition>.<filesystem>-ptcl-img.<compression>[.<piece>]` today; before 2011 also
//! `<partition>.<filesystem>-img[.<piece>]`, and either without the compression, which only the
//! content tells then.

use super::{DirectoryError, Form, RAW};
use crate::stream::Compression;
use std::collections::BTreeMap;

/// Longest device name that is believed.
const MAX_DEVICE_BYTES: usize = 64;

/// Most letters in a piece's suffix (3 with WebDAV repositories).
const MAX_PIECE_LETTERS: usize = 4;

/// Most pieces that are listed as missing, before it is only said that there are more.
const MAX_MISSING_LISTED: usize = 16;

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Data of a partition; the text is the piece's suffix, empty if it is not split.
    Data(DataName, String),
    /// Data in a form that cannot be read here.
    Unsupported(String),
    /// Something else.
    Other,
}

/// What all pieces of an image have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DataName {
    /// File name without the piece's suffix.
    pub(super) stem: String,
    pub(super) partition: String,
    pub(super) filesystem: String,
    pub(super) form: Form,
    pub(super) compression: Option<Compression>,
}

/// Whether this is a file that only Metalcast writes.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with("metalcast.")
}

/// Whether this may begin a file name: no way out of the directory, nothing hidden.
pub(super) fn is_device(name: &str) -> bool {
    (1..=MAX_DEVICE_BYTES).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
}

/// Whether a partition of this name, with a filesystem of this kind, has a file of a new image: the name
/// says again which partition and filesystem it is, and does not leave the directory.
pub fn has_data_file(partition: &str, filesystem: &str) -> bool {
    match classify(&format!("{partition}.{filesystem}-ptcl-img.zst")) {
        Kind::Data(data, piece) => {
            data.partition == partition && data.filesystem == filesystem && piece.is_empty()
        }
        Kind::Unsupported(_) | Kind::Other => false,
    }
}

/// Whether a file of this name may lie beside the partitions' data: it is none of those, no list of
/// checksums, nothing of ours, and does not leave the directory.
pub fn is_side_file(name: &str) -> bool {
    is_device(name)
        && classify(name) == Kind::Other
        && !is_ours(name)
        && !super::sums::FILES.contains(&name)
}

/// The name of a partition: `sda5`, but `nvme0n1p5` and `loop0p5`, as the kernel names them.
pub fn partition_name(disk: &str, number: u32) -> String {
    let infix = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{infix}{number}")
}

fn is_filesystem(name: &str) -> bool {
    (1..=16).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '+')
}

fn is_piece(suffix: &str) -> bool {
    (2..=MAX_PIECE_LETTERS).contains(&suffix.len())
        && suffix.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// Whether this is the suffix of a piece and not of a compression. It was written before there were
/// suffixes of three letters.
fn is_bare_piece(suffix: &str) -> bool {
    suffix.len() == 2 && is_piece(suffix) && Compression::from_suffix(suffix).is_none()
}

/// Tells data from everything else.
pub(super) fn classify(file: &str) -> Kind {
    let marker = if file.contains("-ptcl-img") { "-ptcl-img" } else { "-img" };
    let Some((left, right)) = file.split_once(marker) else { return Kind::Other };
    let Some((partition, filesystem)) = left.rsplit_once('.') else { return Kind::Other };
    if !is_device(partition) || !is_filesystem(filesystem) {
        return Kind::Other;
    }
    let words: Vec<&str> = right.split('.').collect();
    let (suffix, piece) = match words[..] {
        [""] => (None, ""),
        ["", piece] if is_bare_piece(piece) => (None, piece),
        ["", suffix] => (Some(suffix), ""),
        ["", suffix, piece] if is_piece(piece) => (Some(suffix), piece),
        _ => return Kind::Other,
    };
    let form = match (filesystem, marker) {
        // What kind of partition it was.
        (RAW, _) if suffix == Some("info") => return Kind::Other,
        (RAW, _) => Form::Raw,
        ("ntfs", "-img") => Form::NtfsClone,
        _ => Form::Partclone,
    };
    let compression = match suffix.map(|suffix| (suffix, Compression::from_suffix(suffix))) {
        None => None,
        Some((_, Some(compression))) => Some(compression),
        Some((suffix, None)) => return Kind::Unsupported(format!("the compression .{suffix}")),
    };
    let data = DataName {
        stem: stem(file, piece),
        partition: partition.to_owned(),
        filesystem: filesystem.to_owned(),
        form,
        compression,
    };
    Kind::Data(data, piece.to_owned())
}

fn stem(file: &str, piece: &str) -> String {
    match piece {
        "" => file.to_owned(),
        piece => file[..file.len() - piece.len() - 1].to_owned(),
    }
}

/// Which pieces are missing between the first and the last one that is there. `pieces` maps
/// suffixes to files.
pub(super) fn missing_pieces(
    data: &DataName,
    pieces: &BTreeMap<String, String>,
) -> Result<Vec<String>, DirectoryError> {
    let letters = pieces.keys().next().map_or(0, String::len);
    if pieces.keys().any(|suffix| suffix.len() != letters) {
        let what = "there are pieces with suffixes of different lengths";
        return Err(DirectoryError::invalid(&data.stem, what));
    }
    if letters == 0 {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    let mut expected = 0;
    for suffix in pieces.keys() {
        let number = number_of(suffix);
        for absent in expected..number {
            if missing.len() == MAX_MISSING_LISTED {
                missing.push(format!("more pieces of {}", data.stem));
                return Ok(missing);
            }
            missing.push(format!("{}.{}", data.stem, piece_suffix(absent, letters)));
        }
        expected = number + 1;
    }
    Ok(missing)
}

fn number_of(suffix: &str) -> usize {
    suffix.bytes().fold(0, |number, letter| number * 26 + usize::from(letter - b'a'))
}

/// The suffix of a piece, as `split` numbers them: `aa`, `ab` ...
pub fn piece_suffix(mut number: usize, letters: usize) -> String {
    let mut suffix = vec![b'a'; letters];
    for letter in suffix.iter_mut().rev() {
        *letter += (number % 26) as u8;
        number /= 26;
    }
    String::from_utf8_lossy(&suffix).into_owned()
}
