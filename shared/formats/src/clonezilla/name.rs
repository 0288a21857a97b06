//! What a file of an image is, by its name alone.
//!
//! `<partition>.<filesystem>-ptcl-img.<compression>[.<piece>]` today; before 2011 also
//! `<partition>.<filesystem>-img[.<piece>]`, whose compression only the content tells.

use super::DirectoryError;
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
    /// Data in a form that cannot be restored here.
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

fn is_filesystem(name: &str) -> bool {
    (1..=16).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '+')
}

fn is_piece(suffix: &str) -> bool {
    (2..=MAX_PIECE_LETTERS).contains(&suffix.len())
        && suffix.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// Tells data from everything else.
pub(super) fn classify(file: &str) -> Kind {
    let (marker, old) = match () {
        () if file.contains("-ptcl-img.") => ("-ptcl-img.", false),
        () if file.ends_with("-img") || file.contains("-img.") => ("-img", true),
        () => return Kind::Other,
    };
    let Some((left, right)) = file.split_once(marker) else { return Kind::Other };
    let Some((partition, filesystem)) = left.rsplit_once('.') else { return Kind::Other };
    if !is_device(partition) || !is_filesystem(filesystem) {
        return Kind::Other;
    }
    if filesystem == "dd" {
        return match right.ends_with("info") {
            true => Kind::Other,
            false => Kind::Unsupported("a raw (dd) image".to_owned()),
        };
    }
    if old {
        old_data(file, right, partition, filesystem)
    } else {
        data(file, right, partition, filesystem)
    }
}

fn data(file: &str, right: &str, partition: &str, filesystem: &str) -> Kind {
    let (suffix, piece) = match right.split_once('.') {
        Some((suffix, piece)) if is_piece(piece) => (suffix, piece),
        None => (right, ""),
        Some(_) => return Kind::Other,
    };
    let Some(compression) = Compression::from_suffix(suffix) else {
        return Kind::Unsupported(format!("the compression .{suffix}"));
    };
    let data = DataName {
        stem: stem(file, piece),
        partition: partition.to_owned(),
        filesystem: filesystem.to_owned(),
        compression: Some(compression),
    };
    Kind::Data(data, piece.to_owned())
}

fn old_data(file: &str, right: &str, partition: &str, filesystem: &str) -> Kind {
    let piece = match right.strip_prefix('.') {
        Some(piece) if is_piece(piece) => piece,
        None if right.is_empty() => "",
        _ => return Kind::Other,
    };
    if filesystem == "ntfs" {
        return Kind::Unsupported("an image made by ntfsclone".to_owned());
    }
    let data = DataName {
        stem: stem(file, piece),
        partition: partition.to_owned(),
        filesystem: filesystem.to_owned(),
        compression: None,
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
            missing.push(format!("{}.{}", data.stem, suffix_of(absent, letters)));
        }
        expected = number + 1;
    }
    Ok(missing)
}

fn number_of(suffix: &str) -> usize {
    suffix.bytes().fold(0, |number, letter| number * 26 + usize::from(letter - b'a'))
}

fn suffix_of(mut number: usize, letters: usize) -> String {
    let mut suffix = vec![b'a'; letters];
    for letter in suffix.iter_mut().rev() {
        *letter += (number % 26) as u8;
        number /= 26;
    }
    String::from_utf8_lossy(&suffix).into_owned()
}
