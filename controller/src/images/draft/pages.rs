//! The sidecar with the pages of all partitions, written as the chunks come.

use crate::images::{DraftError, layout::PAGES, output::Output};
use metalcast_shared::{
    hash::Hash,
    manifest::{CHUNKS_PER_PAGE, Chunk, MAX_PAGE_BYTES, Page, PageRef},
};
use std::path::Path;

/// The sidecar of a revision.
pub(super) struct PageFile {
    output: Output,
    page: Page,
    references: Vec<PageRef>,
}

impl PageFile {
    pub(super) fn create(dir: &Path) -> Result<Self, DraftError> {
        let output = Output::create(dir, PAGES, &[])?;
        Ok(Self { output, page: Page::default(), references: Vec::new() })
    }

    /// Takes the next chunk of the current partition.
    pub(super) fn push(&mut self, chunk: Chunk) -> Result<(), DraftError> {
        self.page.chunks.push(chunk);
        if self.page.chunks.len() == CHUNKS_PER_PAGE { self.write_page() } else { Ok(()) }
    }

    /// Ends a partition: the pages it has.
    pub(super) fn end_partition(&mut self) -> Result<Vec<PageRef>, DraftError> {
        if !self.page.chunks.is_empty() {
            self.write_page()?;
        }
        Ok(std::mem::take(&mut self.references))
    }

    pub(super) fn finish(self) -> Result<(), DraftError> {
        self.output.finish()?;
        Ok(())
    }

    fn write_page(&mut self) -> Result<(), DraftError> {
        let bytes = std::mem::take(&mut self.page).encode();
        if bytes.len() > MAX_PAGE_BYTES {
            return Err(DraftError::TooLarge(format!("a page of {} bytes", bytes.len())));
        }
        self.references.push(PageRef {
            hash: Hash::of(&bytes),
            offset: self.output.bytes(),
            bytes: bytes.len() as u32,
        });
        Ok(self.output.write(&bytes)?)
    }
}
