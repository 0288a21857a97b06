//! A stream into a temporary file: a disk is read here and there.

use super::{RESERVE_BYTES, temporary::TemporaryDisk};
use crate::images::{
    Images, ImportError, Progress,
    space::{MIB, free_bytes},
};
use std::io::{self, Read};

/// What is written at a time.
const PIECE_BYTES: usize = 1 << 20;

/// How often it is looked whether there is room for more.
const LOOK_EVERY_BYTES: u64 = 16 << 20;

/// What a stream is called where a file would be.
pub(super) const STREAM: &str = "standard input";

/// Reads a stream to its end. Memory: 1 MiB.
pub(super) fn spool(
    images: &Images,
    stream: &mut dyn Read,
    progress: &dyn Fn(Progress),
) -> Result<TemporaryDisk, ImportError> {
    let disk = TemporaryDisk::create(images)?;
    let mut buffer = Vec::with_capacity(PIECE_BYTES);
    let (mut received, mut looked) = (0_u64, None);
    loop {
        if looked.is_none_or(|at| received - at >= LOOK_EVERY_BYTES) {
            check_space(images, received)?;
            looked = Some(received);
        }
        buffer.clear();
        if let Err(source) = fill(stream, &mut buffer) {
            let bytes = received + buffer.len() as u64;
            return Err(ImportError::BrokenOff { bytes, source });
        }
        disk.write(&buffer, received)?;
        received += buffer.len() as u64;
        progress(Progress { file: STREAM.to_owned(), done_bytes: received, total_bytes: 0 });
        if buffer.len() < PIECE_BYTES {
            disk.set_bytes(received)?;
            return Ok(disk);
        }
    }
}

/// A whole piece, or what is left.
fn fill(stream: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    stream.take(PIECE_BYTES as u64).read_to_end(buffer).map(drop)
}

fn check_space(images: &Images, received: u64) -> Result<(), ImportError> {
    let path = images.layout.root();
    let free = free_bytes(path)?;
    if free >= RESERVE_BYTES {
        return Ok(());
    }
    let (received_mib, free_mib) = (received / MIB, free / MIB);
    Err(ImportError::StreamSpace { path: path.to_owned(), received_mib, free_mib })
}
