//! A revision opened for reading: its manifest, and its files read at any offset.

use super::{
    ImageState, PartitionSummary, Sign, StoreError,
    layout::{MANIFEST, PAGES},
};
use crate::causes::with_causes;
use metalcast_formats::{
    clonezilla::{Directory, DirectoryError},
    tar,
};
use metalcast_shared::{
    codec,
    hash::Hash,
    id::Revision,
    manifest::{
        Chunk, MAX_FRAME_BYTES, MAX_PAGE_BYTES, MAX_ROOT_BYTES, Manifest, Page, Partition,
        SignedManifest,
    },
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// A signed manifest is its root, a signature of 64 bytes and their lengths.
const MAX_MANIFEST_BYTES: usize = MAX_ROOT_BYTES + 1024;

/// An open revision.
pub(super) struct Loaded {
    revision: Revision,
    pub(super) manifest: Manifest,
    pub(super) signed: SignedManifest,
    pages: Part,
    /// As many as the manifest has partitions.
    data: Vec<Part>,
}

/// A file of a revision.
struct Part {
    path: PathBuf,
    file: File,
}

impl Loaded {
    /// Reads and checks the manifest, and that the files have the lengths that it says.
    pub(super) fn open(dir: &Path, revision: &Revision, sign: &Sign) -> Result<Self, StoreError> {
        let path = dir.join(MANIFEST);
        let damaged = |reason: String| StoreError::Damaged {
            revision: revision.clone(),
            path: path.clone(),
            offset: 0,
            reason,
        };
        let bytes = match read_limited(&path, MAX_MANIFEST_BYTES) {
            Ok(bytes) => bytes.ok_or_else(|| damaged("longer than a manifest can be".into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound(revision.clone()));
            }
            Err(error) => return Err(StoreError::io("reading", &path)(error)),
        };
        let signed: SignedManifest = codec::decode(&bytes, MAX_MANIFEST_BYTES)
            .map_err(|error| damaged(with_causes(&error)))?;
        if sign(&signed.root) != signed.signature {
            return Err(damaged("altered, or signed by another controller".into()));
        }
        let manifest =
            Manifest::decode(&signed.root).map_err(|error| damaged(with_causes(&error)))?;
        if manifest.revision != *revision {
            return Err(damaged(format!("this is the manifest of {}", manifest.revision)));
        }
        let pages_end = |partition: &Partition| {
            partition.pages.last().map_or(0, |page| page.offset.saturating_add(page.bytes.into()))
        };
        let pages_bytes = manifest.partitions.iter().map(pages_end).max().unwrap_or(0);
        let pages = Part::open(dir.join(PAGES), pages_bytes, revision)?;
        let data = manifest
            .partitions
            .iter()
            .map(|partition| Part::open(dir.join(&partition.file), partition.file_bytes, revision))
            .collect::<Result<_, _>>()?;
        Ok(Self { revision: revision.clone(), manifest, signed, pages, data })
    }

    /// Its directory as that of an image, for its checksums and the files beside the data.
    pub(super) fn directory(&self, dir: &Path) -> Result<Directory, DirectoryError> {
        match &self.manifest.partitions[..] {
            [archive] if archive.is_archive() => {
                Directory::of_archive(dir, &archive.name, &archive.file)
            }
            _ => Directory::open(dir),
        }
    }

    pub(super) fn summary(&self) -> ImageState {
        let partitions: Vec<_> = self
            .manifest
            .partitions
            .iter()
            .map(|partition| PartitionSummary {
                name: partition.name.clone(),
                filesystem: partition.filesystem.clone(),
                device_bytes: partition.device_bytes,
                used_bytes: partition.used_bytes(),
                stored_bytes: partition.file_bytes,
            })
            .collect();
        ImageState::Ready {
            created_unix: self.manifest.created_unix,
            provenance: self.manifest.provenance.clone(),
            stored_bytes: partitions.iter().map(|partition| partition.stored_bytes).sum(),
            partitions,
        }
    }

    pub(super) fn page(&self, partition: &str, page: u32) -> Result<Vec<u8>, StoreError> {
        let (_, facts) = self.partition(partition)?;
        let reference = facts.pages.get(page as usize).ok_or_else(|| StoreError::NoPage {
            revision: self.revision.clone(),
            partition: partition.to_owned(),
            page,
        })?;
        self.read(
            &self.pages,
            reference.offset,
            reference.bytes as usize,
            MAX_PAGE_BYTES,
            reference.hash,
        )
    }

    pub(super) fn frame(&self, partition: &str, chunk: &Chunk) -> Result<Vec<u8>, StoreError> {
        let (at, _) = self.partition(partition)?;
        self.read(
            &self.data[at],
            chunk.offset,
            chunk.frame_bytes as usize,
            MAX_FRAME_BYTES as usize,
            chunk.frame_hash,
        )
    }

    /// That something in its files is damaged.
    pub(super) fn damaged(
        &self,
        path: PathBuf,
        offset: u64,
        reason: impl Into<String>,
    ) -> StoreError {
        StoreError::Damaged { revision: self.revision.clone(), path, offset, reason: reason.into() }
    }

    /// All chunks of one of its partitions, in order. A damaged page is one error, and its chunks are
    /// left out.
    pub(super) fn chunks<'l>(
        &'l self,
        partition: &'l Partition,
    ) -> impl Iterator<Item = Result<Chunk, StoreError>> + Send + 'l {
        (0..partition.pages.len()).flat_map(|number| match self.decoded_page(partition, number) {
            Ok(page) => page.chunks.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    fn decoded_page(&self, partition: &Partition, number: usize) -> Result<Page, StoreError> {
        let index = u32::try_from(number).expect("chunks are numbered with 32 bits");
        let bytes = self.page(&partition.name, index)?;
        partition.decode_page(number, &bytes).map_err(|error| {
            let offset = partition.pages[number].offset;
            self.damaged(self.pages.path.clone(), offset, with_causes(&error))
        })
    }

    /// What the last frame of an archive says of all of it.
    pub(super) fn archive_index(&self, partition: &str) -> Result<tar::Index, StoreError> {
        let (at, facts) = self.partition(partition)?;
        let damaged = |reason: String| self.damaged(self.data[at].path.clone(), 0, reason);
        let last = facts.pages.len().checked_sub(1).filter(|_| facts.is_archive());
        let last = last.ok_or_else(|| damaged(format!("{partition} is no tar archive")))?;
        let page = self.decoded_page(facts, last)?;
        let chunk = page.chunks.last().ok_or_else(|| damaged("it has no frames".into()))?;
        let frame = self.frame(partition, chunk)?;
        let context = tar::context_of(&frame).map_err(|error| damaged(with_causes(&error)))?;
        context.index.ok_or_else(|| damaged("its last frame does not say what is in it".into()))
    }

    /// The file with the frames of a partition.
    pub(super) fn data(&self, partition: &str) -> Result<&File, StoreError> {
        let (at, _) = self.partition(partition)?;
        Ok(&self.data[at].file)
    }

    fn partition(&self, name: &str) -> Result<(usize, &Partition), StoreError> {
        let mut partitions = self.manifest.partitions.iter().enumerate();
        partitions.find(|(_, partition)| partition.name == name).ok_or_else(|| {
            StoreError::NoPartition { revision: self.revision.clone(), partition: name.to_owned() }
        })
    }

    /// Bytes of a file that must have this hash.
    fn read(
        &self,
        part: &Part,
        offset: u64,
        bytes: usize,
        limit: usize,
        expected: Hash,
    ) -> Result<Vec<u8>, StoreError> {
        let damaged = |reason: String| self.damaged(part.path.clone(), offset, reason);
        if bytes > limit {
            return Err(damaged(format!("{bytes} bytes are wanted, but the limit is {limit}")));
        }
        let mut buffer = vec![0; bytes];
        match part.file.read_exact_at(&mut buffer, offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged(format!("the file ends within the {bytes} bytes wanted")));
            }
            Err(error) => return Err(StoreError::io("reading", &part.path)(error)),
        }
        let found = Hash::of(&buffer);
        if found != expected {
            return Err(damaged(format!("{bytes} bytes hash to {found} instead of {expected}")));
        }
        Ok(buffer)
    }
}

impl Part {
    fn open(path: PathBuf, bytes: u64, revision: &Revision) -> Result<Self, StoreError> {
        let damaged = |offset: u64, reason: String, path: PathBuf| StoreError::Damaged {
            revision: revision.clone(),
            path,
            offset,
            reason,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(0, "the file is missing".into(), path));
            }
            Err(error) => return Err(StoreError::io("opening", path)(error)),
        };
        let length = file.metadata().map_err(StoreError::io("reading", &path))?.len();
        if length != bytes {
            let reason = format!("the file has {length} bytes instead of {bytes}");
            return Err(damaged(length.min(bytes), reason, path));
        }
        Ok(Self { path, file })
    }
}

/// A whole file, or `None` if it is longer than `limit`.
fn read_limited(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let bytes = fs::metadata(path)?.len();
    if bytes > limit as u64 { Ok(None) } else { fs::read(path).map(Some) }
}
