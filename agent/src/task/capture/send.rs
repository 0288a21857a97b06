//! Step `capture`: reads what is to be saved and sends it, in order. Where the controller lost track, the
//! disk is read again from there: nothing is kept for it.

use super::{Sending, Surveyed, Uploader, attempts};
use crate::{
    capture,
    disk::Device,
    task::{StepLog, note_memory},
};
use anyhow::Context;
use jiff::Timestamp;
use metalcast_formats::capture::{Planned, Source, log as clonezilla_log, side_files};
use metalcast_shared::upload::{MAX_HEAD_PIECE_BYTES, UploadPart, UploadPosition};
use std::io::{self, BufWriter, Write};

/// The log of the image, which comes last.
const LOG: &str = "clonezilla-img";

/// Sends all.
pub(in crate::task) fn run(
    source: &Source<Device<'_>>,
    surveyed: &Surveyed,
    uploader: &dyn Uploader,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let mut run = Run { source, surveyed, log, wire: 0 };
    let revision =
        attempts::run(&surveyed.survey, uploader, log, |from, sending| run.attempt(from, sending))?;
    let used = surveyed.survey.used_bytes();
    log.note(format!("saved as {revision}: {used} bytes read, {} sent", run.wire));
    note_memory(log);
    Ok(())
}

struct Run<'r> {
    source: &'r Source<Device<'r>>,
    surveyed: &'r Surveyed,
    log: &'r StepLog<'r>,
    /// Bytes sent, those of an earlier attempt included.
    wire: u64,
}

impl Run<'_> {
    /// On one connection.
    fn attempt(&mut self, from: UploadPosition, sending: &mut dyn Sending) -> anyhow::Result<()> {
        let with_data = self.surveyed.planned.iter().filter(|planned| planned.map().is_some());
        let complete = usize::try_from(from.partitions).context("counting partitions")?;
        let mut done = with_data.clone().take(complete).map(Planned::bytes).sum();
        let mut at = UploadPosition { partitions: 0, files: 0, ..from };
        for planned in with_data.skip(complete) {
            self.partition(planned, at, &mut done, sending)
                .with_context(|| format!("saving {}", planned.facts.name))?;
            at = UploadPosition::default();
        }
        self.files(from.files, sending)
    }

    /// From a position within it on.
    fn partition(
        &mut self,
        planned: &Planned,
        from: UploadPosition,
        done: &mut u64,
        sending: &mut dyn Sending,
    ) -> anyhow::Result<()> {
        let Some(map) = planned.map() else { return Ok(()) };
        if !from.head {
            self.head(planned, sending)?;
        }
        let total = self.surveyed.survey.used_bytes();
        *done += planned.bytes_of_first(from.chunks);
        let (wire, log) = (&mut self.wire, self.log);
        capture::seal_from(from.chunks, self.source, planned, log.cancel(), |sealed| {
            let bytes = u64::from(sealed.chunk.blocks()) * u64::from(map.block_bytes);
            *wire += u64::from(sealed.chunk.frame_bytes);
            sending.send(&UploadPart::Chunk(sealed.chunk), &sealed.frame)?;
            *done += bytes;
            log.progress(*done, total, *wire);
            Ok(())
        })
    }

    /// The frame with header and bitmap, in pieces. A raw image has none.
    fn head(&mut self, planned: &Planned, sending: &mut dyn Sending) -> anyhow::Result<()> {
        let pieces = Pieces { sending, wire: &mut self.wire, failed: None };
        let mut buffered = BufWriter::with_capacity(MAX_HEAD_PIECE_BYTES as usize, pieces);
        let written = planned.write_head(&mut buffered).and_then(|()| buffered.flush());
        // What is in it after an error is not sent once more when it is dropped.
        let (mut pieces, _) = buffered.into_parts();
        if let Some(error) = pieces.failed.take() {
            return Err(error);
        }
        written.context("making the image's head")?;
        if planned.has_head() {
            let end = UploadPart::Head { bytes: 0, is_last: true };
            sending.send(&end, &[])?;
        }
        Ok(())
    }

    /// The files beside the data, but for those that have come already.
    fn files(&mut self, skip: u32, sending: &mut dyn Sending) -> anyhow::Result<()> {
        let (mut number, wire) = (0, &mut self.wire);
        let mut give = |name: &str, content: &[u8]| -> anyhow::Result<()> {
            number += 1;
            if number <= skip {
                return Ok(());
            }
            let bytes = u32::try_from(content.len()).context("a file is too long")?;
            *wire += u64::from(bytes);
            sending.send(&UploadPart::File { name: name.to_owned(), bytes }, content)
        };
        side_files(self.source, &self.surveyed.planned, &mut give)?;
        let from = self.source.medium.path().display().to_string();
        let log = clonezilla_log(&self.surveyed.planned, &from, Timestamp::now());
        give(LOG, log.as_bytes())
    }
}

/// Sends what is written as pieces of a head.
struct Pieces<'s> {
    sending: &'s mut dyn Sending,
    wire: &'s mut u64,
    failed: Option<anyhow::Error>,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_HEAD_PIECE_BYTES as usize)];
        let part = UploadPart::Head { bytes: piece.len() as u32, is_last: false };
        match self.sending.send(&part, piece) {
            Ok(()) => {
                *self.wire += piece.len() as u64;
                Ok(piece.len())
            }
            Err(error) => {
                self.failed = Some(error);
                Err(io::Error::other("a piece was not sent"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
