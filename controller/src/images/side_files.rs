//! The files beside the partitions' data: small, and copied as they are.

use super::SideFileError;
use super::output::{FileSum, Output, WriteError};
use metalcast_formats::{
    clonezilla::Directory,
    stream::{self, Algorithm, Piece},
};
use std::{
    io::{self, Read},
    path::Path,
};

/// Longest file beside the partitions' data. The largest that Clonezilla writes is the hidden data
/// before the first partition, 1 MiB on any disk of the last 15 years.
const MAX_BYTES: u64 = 64 << 20;

/// Whether they are what they should be, by their lengths.
pub(super) fn check(directory: &Directory) -> Result<(), SideFileError> {
    match directory.side_files.iter().find(|file| file.bytes > MAX_BYTES) {
        None => Ok(()),
        Some(file) => Err(SideFileError::TooLarge {
            file: file.name.clone(),
            bytes: file.bytes,
            limit: MAX_BYTES,
        }),
    }
}

/// Copies files, verified against the source's checksums.
pub(super) fn copy<E: From<SideFileError> + From<WriteError>>(
    files: &[Piece],
    to: &Path,
    algorithms: &[Algorithm],
) -> Result<Vec<FileSum>, E> {
    let copy = |piece: &Piece| {
        let content = read(piece)?;
        let mut output = Output::create(to, &piece.name, algorithms)?;
        output.write(&content)?;
        Ok(output.finish()?)
    };
    files.iter().map(copy).collect()
}

/// Reads a file and holds it against its checksums.
pub(super) fn read(piece: &Piece) -> Result<Vec<u8>, SideFileError> {
    let failed = |source| SideFileError::Read { file: piece.name.clone(), source };
    let mut content = Vec::new();
    let mut stream = stream::open_raw(vec![piece.clone()]).stream.take(MAX_BYTES + 1);
    stream.read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(failed(io::Error::other("it grew beyond the limit while it was read")));
    }
    Ok(content)
}

/// Writes a file of checksums for each algorithm, of what Clonezilla would list itself.
pub(super) fn write_sums(
    dir: &Path,
    sums: &[FileSum],
    algorithms: &[Algorithm],
) -> Result<(), WriteError> {
    for algorithm in algorithms {
        let mut output = Output::create(dir, algorithm.file_name(), &[])?;
        output.write(FileSum::list(sums, *algorithm).as_bytes())?;
        output.finish()?;
    }
    Ok(())
}
