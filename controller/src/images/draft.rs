//! A revision in the making: its directory, which is deleted unless it is published, and what its
//! manifest will say.
//!
//! ```text
//! partition(s), side files ──> .import-<random>/ ── B2SUMS, all flushed, signed manifest ──rename──> <n>/
//! ```
//!
//! Where the content comes from is its users' business: `import` reads a directory, `upload` is sent one.

mod pages;

use super::{
    DraftError, Images, StoreError,
    layout::{MANIFEST, Temporary, sync_dir},
    output::{FileSum, Output},
    quota::Share,
    side_files::write_sums,
};
use metalcast_formats::{chunk::Sealed, stream::Algorithm};
use metalcast_shared::{
    codec,
    id::{ImageName, Revision},
    manifest::{ARCHIVE, Manifest, Partition, SignedManifest},
    version,
};
use pages::PageFile;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::PoisonError,
    time::SystemTime,
};

/// How the files of a revision are hashed.
pub(super) const SUMS: [Algorithm; 1] = [Algorithm::Blake2b];

/// Left free beside the estimated size of a revision: for the database and the leases, which are on
/// the same disk unless they were put elsewhere.
pub(super) const RESERVE_BYTES: u64 = 64 << 20;

/// The revision.
pub(super) struct Draft {
    dir: Temporary,
    pages: PageFile,
    partitions: Vec<Partition>,
    sums: Vec<FileSum>,
    share: Share,
}

/// The file of a partition, written from front to back.
pub(super) struct PartitionFile {
    name: String,
    filesystem: String,
    path: PathBuf,
    output: Output,
    chunks: u32,
}

/// What a partition is, beside its chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) block_bytes: u32,
    pub(super) total_blocks: u64,
    pub(super) used_blocks: u64,
    pub(super) device_bytes: u64,
    pub(super) head_bytes: u32,
}

impl Draft {
    pub(super) fn begin(images: &Images, name: &ImageName) -> Result<Self, DraftError> {
        let dir = images.layout.temporary()?;
        let pages = PageFile::create(dir.path())?;
        let share = Share::new(&images.ledger, name.project());
        Ok(Self { dir, pages, partitions: Vec::new(), sums: Vec::new(), share })
    }

    /// Where its files are made.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Partitions that are complete.
    pub(super) fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Takes files that lie in the directory already.
    pub(super) fn list(&mut self, sums: Vec<FileSum>) -> Result<(), DraftError> {
        let bytes = sums.iter().map(|sum| sum.bytes).sum();
        self.sums.extend(sums);
        self.share.add(bytes)
    }

    /// Begins the file of the next partition.
    pub(super) fn partition(
        &self,
        name: &str,
        filesystem: &str,
    ) -> Result<PartitionFile, DraftError> {
        let file = match filesystem {
            ARCHIVE => format!("{name}.{ARCHIVE}.zst"),
            _ => format!("{name}.{filesystem}-ptcl-img.zst"),
        };
        Ok(PartitionFile {
            name: name.to_owned(),
            filesystem: filesystem.to_owned(),
            path: self.path().join(&file),
            output: Output::create(self.path(), &file, &SUMS)?,
            chunks: 0,
        })
    }

    /// Takes the next chunk of a partition.
    pub(super) fn push(
        &mut self,
        file: &mut PartitionFile,
        sealed: Sealed,
    ) -> Result<(), DraftError> {
        let Sealed { frame, mut chunk } = sealed;
        chunk.offset = file.output.bytes();
        file.output.write(&frame)?;
        file.chunks += 1;
        self.pages.push(chunk)?;
        self.share.add(frame.len() as u64)
    }

    /// Makes the file of a partition durable; all its chunks were pushed.
    pub(super) fn end_partition(
        &mut self,
        file: PartitionFile,
        shape: &Shape,
    ) -> Result<(), DraftError> {
        let PartitionFile { name, filesystem, output, chunks, .. } = file;
        let sum = output.finish()?;
        self.partitions.push(Partition {
            name,
            filesystem,
            file: sum.name.clone(),
            block_bytes: shape.block_bytes,
            total_blocks: shape.total_blocks,
            used_blocks: shape.used_blocks,
            device_bytes: shape.device_bytes,
            chunk_blocks: Partition::chunk_blocks_for(shape.block_bytes),
            chunks,
            head_bytes: shape.head_bytes,
            file_bytes: sum.bytes,
            pages: self.pages.end_partition()?,
        });
        self.sums.push(sum);
        self.share.add(shape.head_bytes.into())
    }

    /// Writes a small file.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Result<(), DraftError> {
        let mut output = Output::create(self.path(), name, &SUMS)?;
        output.write(content)?;
        let sum = output.finish()?;
        self.list(vec![sum])
    }

    /// Writes the checksums, gives the revision its number, signs the manifest and moves the directory into place. One at a
    /// time does so.
    pub(super) fn publish(
        self,
        images: &Images,
        name: &ImageName,
        provenance: String,
    ) -> Result<Revision, DraftError> {
        let Self { dir, pages, partitions, sums, mut share } = self;
        share.check()?;
        pages.finish()?;
        write_sums(dir.path(), &sums, &SUMS)?;
        sync_dir(dir.path())?;
        let _numbering = images.numbering.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = images.layout.numbers(name)?.highest;
        let number = highest
            .checked_add(1)
            .ok_or_else(|| DraftError::TooLarge("it has no revision number left".into()))?;
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
        Manifest::decode(&root).map_err(|error| DraftError::TooLarge(error.to_string()))?;
        let signature = (images.sign)(&root);
        write_manifest(dir.path(), &codec::encode(&SignedManifest { root, signature }))?;
        images.layout.publish(dir, &revision)?;
        Ok(revision)
    }
}

impl PartitionFile {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.output.bytes()
    }

    /// How many chunks were pushed.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Writes header and bitmap as a frame of their own; its length.
    pub(super) fn head(
        &mut self,
        write: impl FnOnce(&mut Output) -> io::Result<()>,
    ) -> Result<u32, DraftError> {
        write(&mut self.output).map_err(|source| self.output.failed(source))?;
        u32::try_from(self.output.bytes())
            .map_err(|_| DraftError::TooLarge("its bitmap does not fit into a frame".into()))
    }

    /// Writes what the caller knows to belong there.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), DraftError> {
        Ok(self.output.write(bytes)?)
    }

    /// Makes what was written durable, so that not too much waits for that at the end.
    pub(super) fn sync(&mut self) -> Result<(), DraftError> {
        Ok(self.output.sync()?)
    }

    /// Gives it up.
    pub(super) fn discard(self) -> Result<(), DraftError> {
        fs::remove_file(&self.path).map_err(StoreError::io("deleting", &self.path))?;
        Ok(())
    }
}

fn write_manifest(dir: &Path, bytes: &[u8]) -> Result<(), DraftError> {
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
