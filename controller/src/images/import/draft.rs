//! A revision that is being made: a directory that is deleted unless it is published.

use super::{SUMS, pages::PageFile};
use crate::images::{
    Images, ImportError, StoreError,
    layout::{MANIFEST, Temporary, sync_dir},
    output::{FileSum, Output},
    quota::Share,
    side_files::write_sums,
};
use metalcast_formats::chunk::Sealed;
use metalcast_shared::{
    codec,
    id::{ImageName, Revision},
    manifest::{Manifest, Partition, SignedManifest},
    version,
};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::PoisonError,
    time::SystemTime,
};

/// The directory, and what is known of its files.
pub(super) struct Draft<'i> {
    dir: Temporary,
    pages: PageFile,
    sums: Vec<FileSum>,
    partitions: Vec<Partition>,
    share: Share<'i>,
}

/// The file of a partition in it.
pub(super) struct PartitionFile<'d, 'i> {
    draft: &'d mut Draft<'i>,
    output: Output,
    head_bytes: u32,
    chunks: u32,
}

/// What a partition is, beside its chunks.
pub(super) struct Shape {
    /// Its name.
    pub(super) name: String,
    /// partclone's suffix for it, such as `ext4`.
    pub(super) filesystem: String,
    pub(super) block_bytes: u32,
    pub(super) total_blocks: u64,
    pub(super) used_blocks: u64,
    pub(super) device_bytes: u64,
}

impl<'i> Draft<'i> {
    pub(super) fn begin(images: &'i Images, name: &ImageName) -> Result<Self, ImportError> {
        let dir = images.layout.temporary()?;
        let pages = PageFile::create(dir.path())?;
        let share = Share::new(images, name.project());
        Ok(Self { dir, pages, sums: Vec::new(), partitions: Vec::new(), share })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Lists files that were written there by others.
    pub(super) fn list(&mut self, sums: Vec<FileSum>) -> Result<(), ImportError> {
        let bytes = sums.iter().map(|sum| sum.bytes).sum();
        self.sums.extend(sums);
        self.share.add(bytes)
    }

    /// Writes a small file.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Result<(), ImportError> {
        let mut output = Output::create(self.path(), name, &SUMS)?;
        output.write(content)?;
        let sum = output.finish()?;
        self.list(vec![sum])
    }

    /// Begins the file of a partition.
    pub(super) fn partition(&mut self, file: &str) -> Result<PartitionFile<'_, 'i>, ImportError> {
        let output = Output::create(self.path(), file, &SUMS)?;
        Ok(PartitionFile { draft: self, output, head_bytes: 0, chunks: 0 })
    }

    /// Gives the revision its number, signs the manifest and moves the directory into place. One import
    /// at a time does so.
    pub(super) fn publish(
        self,
        images: &Images,
        name: &ImageName,
        provenance: String,
    ) -> Result<Revision, ImportError> {
        let Self { dir, pages, sums, partitions, mut share } = self;
        share.check()?;
        pages.finish()?;
        write_sums(dir.path(), &sums, &SUMS)?;
        sync_dir(dir.path())?;
        let _numbering = images.numbering.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = images.layout.numbers(name)?.highest;
        let number = highest
            .checked_add(1)
            .ok_or_else(|| ImportError::TooLarge("it has no revision number left".into()))?;
        let revision = Revision { image: name.clone(), number };
        let manifest = Manifest {
            version: version::MANIFEST,
            revision: revision.clone(),
            created_unix: now_unix(),
            provenance,
            partitions,
        };
        let root = manifest.encode();
        // What would not be read again must not be published.
        Manifest::decode(&root).map_err(|error| ImportError::TooLarge(error.to_string()))?;
        let signature = (images.sign)(&root);
        write_manifest(dir.path(), &codec::encode(&SignedManifest { root, signature }))?;
        images.layout.publish(dir, &revision)?;
        Ok(revision)
    }
}

impl PartitionFile<'_, '_> {
    /// Writes what it begins with: header and bitmap, as a frame of their own.
    pub(super) fn head(
        &mut self,
        write: impl FnOnce(&mut Output) -> io::Result<()>,
    ) -> Result<(), ImportError> {
        write(&mut self.output).map_err(|source| self.output.failed(source))?;
        self.head_bytes = u32::try_from(self.output.bytes())
            .map_err(|_| ImportError::TooLarge("its bitmap does not fit into a frame".into()))?;
        self.draft.share.add(self.output.bytes())
    }

    /// Writes the next chunk.
    pub(super) fn chunk(&mut self, sealed: Sealed) -> Result<(), ImportError> {
        let Sealed { frame, mut chunk } = sealed;
        chunk.offset = self.output.bytes();
        self.output.write(&frame)?;
        self.draft.pages.push(chunk)?;
        self.chunks += 1;
        self.draft.share.add(frame.len() as u64)
    }

    /// Makes it a partition of the revision.
    pub(super) fn finish(self, shape: Shape) -> Result<(), ImportError> {
        let Self { draft, output, head_bytes, chunks } = self;
        let sum = output.finish()?;
        draft.partitions.push(Partition {
            name: shape.name,
            filesystem: shape.filesystem,
            file: sum.name.clone(),
            block_bytes: shape.block_bytes,
            total_blocks: shape.total_blocks,
            used_blocks: shape.used_blocks,
            device_bytes: shape.device_bytes,
            chunk_blocks: Partition::chunk_blocks_for(shape.block_bytes),
            chunks,
            head_bytes,
            file_bytes: sum.bytes,
            pages: draft.pages.end_partition()?,
        });
        draft.sums.push(sum);
        Ok(())
    }
}

fn write_manifest(dir: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let path = dir.join(MANIFEST);
    let unfinished = dir.join(format!("{MANIFEST}.tmp"));
    let write = || {
        let mut file = File::create_new(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)
    };
    write().map_err(StoreError::io("writing", &path))?;
    Ok(sync_dir(dir)?)
}

fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
