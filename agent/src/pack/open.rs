//! The content of a file while it is read, piece by piece.

use super::entry::Content;
use std::{io, os::unix::fs::FileExt};

/// A file that is being read.
pub(super) struct Open {
    pub(super) path: Vec<u8>,
    pub(super) content: Content,
    piece: usize,
    /// Bytes of that piece, and of all, that are done.
    in_piece: u64,
    pub(super) done: u64,
    /// Where it was seen to end, if that was before its end.
    pub(super) ended: Option<u64>,
}

impl Open {
    pub(super) fn new(path: Vec<u8>, content: Content) -> Self {
        Self { path, content, piece: 0, in_piece: 0, done: 0, ended: None }
    }

    pub(super) fn is_done(&self) -> bool {
        self.piece == self.content.pieces.len()
    }

    /// At most so many bytes of one piece.
    pub(super) fn advance(
        &mut self,
        room: usize,
        data: Option<&mut Vec<u8>>,
        is_live: bool,
    ) -> anyhow::Result<usize> {
        let Some(&piece) = self.content.pieces.get(self.piece) else { return Ok(0) };
        let bytes = (piece.bytes - self.in_piece).min(room as u64);
        if let Some(data) = data {
            let (at, offset) = (data.len(), piece.offset + self.in_piece);
            data.resize(at + bytes as usize, 0);
            let known = self.content.known_bytes.saturating_sub(offset).min(bytes) as usize;
            match is_live {
                true => self.read_what_is_there(&mut data[at..at + known], offset)?,
                false => self.read(&mut data[at..at + known], offset)?,
            }
        }
        self.in_piece += bytes;
        self.done += bytes;
        if self.in_piece == piece.bytes {
            (self.piece, self.in_piece) = (self.piece + 1, 0);
        }
        Ok(bytes as usize)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> anyhow::Result<()> {
        self.content.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                anyhow::anyhow!("it became shorter while it was read")
            }
            _ => unreadable(error, buffer.len(), offset),
        })
    }

    /// Reads as much as there is; what is behind its end stays zeros.
    fn read_what_is_there(&mut self, buffer: &mut [u8], offset: u64) -> anyhow::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let (rest, at) = (&mut buffer[done..], offset + done as u64);
            match self.content.file.read_at(rest, at) {
                Ok(0) => {
                    self.ended.get_or_insert(at);
                    return Ok(());
                }
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error, buffer.len(), offset)),
            }
        }
        Ok(())
    }
}

fn unreadable(error: io::Error, bytes: usize, offset: u64) -> anyhow::Error {
    anyhow::Error::from(error).context(format!(
        "reading {bytes} bytes at byte {offset} of it; nothing is put in their place"
    ))
}
