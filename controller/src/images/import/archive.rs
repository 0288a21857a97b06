//! A tar archive, from a file or a stream, compressed or not: verified to its end and cut into frames as
//! it comes, so that nothing of it is kept but what is remembered of each path.

use super::{BEST_RATIO, check_space, disk::DiskOptions};
use crate::images::{
    Images, ImportError, Progress, archive,
    draft::{Draft, PartitionFile},
    pipeline,
};
use metalcast_formats::{
    chunk::{Sealed, archive_sealer},
    disk_file::DiskFileError,
    stream::{Compression, Found, decompress},
    tar::{BLOCK_BYTES, Index, Packed, Packer, TarError, is_archive},
};
use metalcast_shared::{
    id::{ImageName, Revision},
    manifest::{ARCHIVE, ARCHIVE_NAME},
};
use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Read-ahead of compressed bytes; as many are looked at to tell what a stream is.
const BUFFER_BYTES: usize = 256 << 10;

/// How often it is looked whether there is room for more.
const LOOK_EVERY_BYTES: u64 = 16 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form(Compression);

/// What is imported.
pub(super) struct Archive<'i> {
    pub(super) images: &'i Images,
    pub(super) name: &'i ImageName,
    /// Where it comes from, for people.
    pub(super) what: &'i str,
    /// Bytes of the file; 0 if that is not known.
    pub(super) bytes: u64,
    pub(super) progress: &'i dyn Fn(Progress),
}

impl Form {
    /// Of a file, if it is an archive; anything else is somebody else's business.
    pub(super) fn of_file(path: &Path) -> Option<(Self, File, u64)> {
        let metadata = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let file = File::open(path).ok()?;
        let mut start = Vec::with_capacity(BLOCK_BYTES);
        (&file).take(BLOCK_BYTES as u64).read_to_end(&mut start).ok()?;
        let form = Self::of(&start, path.to_string_lossy().contains(".tar"))?;
        // Opened anew: its offset is at the first byte.
        let file = File::open(path).ok()?;
        let again = BufReader::with_capacity(BUFFER_BYTES, File::open(path).ok()?);
        form.has_archive(again).then_some((form, file, metadata.len()))
    }

    /// Of what begins so. What is compressed can be anything yet.
    fn of(start: &[u8], is_named: bool) -> Option<Self> {
        // One whose first header is damaged is told as that.
        let has_mark = start.get(257..262).is_some_and(|mark| mark == b"ustar");
        if has_mark || is_archive(start, is_named) {
            return Some(Self(Compression::None)).filter(|_| !is_appliance(start));
        }
        match Compression::detect(start) {
            Found::Known(
                compression @ (Compression::Gzip
                | Compression::Zstd
                | Compression::Bzip2
                | Compression::Lzop
                | Compression::Xz
                | Compression::Lzip
                | Compression::Lz4),
            ) => Some(Self(compression)),
            // lzma's mark is that of many other things too.
            Found::Known(Compression::None | Compression::Lzma | Compression::Lrzip)
            | Found::Unknown => None,
        }
    }

    fn has_archive(self, compressed: impl io::BufRead + Send) -> bool {
        let mut start = Vec::with_capacity(BLOCK_BYTES);
        if self.0 == Compression::None {
            return true;
        }
        let read = decompress(compressed, self.0)
            .and_then(|stream| stream.take(BLOCK_BYTES as u64).read_to_end(&mut start));
        read.is_ok() && is_archive(&start, true) && !is_appliance(&start)
    }
}

/// Whether it is a virtual machine (OVA), whose disks are files in an archive.
fn is_appliance(start: &[u8]) -> bool {
    let name = start.get(..100).unwrap_or_default().split(|byte| *byte == 0).next();
    name.is_some_and(|name| name.ends_with(b".ovf"))
}

/// The beginning of a stream, which is part of what is read later.
pub(super) fn beginning(stream: &mut (dyn Read + Send)) -> Result<Vec<u8>, ImportError> {
    let mut start = Vec::with_capacity(BUFFER_BYTES);
    match stream.take(BUFFER_BYTES as u64).read_to_end(&mut start) {
        Ok(_) => Ok(start),
        Err(source) => Err(ImportError::BrokenOff { bytes: start.len() as u64, source }),
    }
}

/// The form of a stream that begins so, if it is an archive, or compressed: no disk is taken compressed.
pub(super) fn form_of_stream(start: &[u8]) -> Option<Form> {
    Form::of(start, false)
}

/// That an archive is imported without what is for disks.
pub(super) fn check_options(options: &DiskOptions, what: &str) -> Result<(), ImportError> {
    match *options == DiskOptions::default() {
        true => Ok(()),
        false => Err(ImportError::ArchiveOptions(what.to_owned())),
    }
}

impl Archive<'_> {
    /// Imports it. Memory: some frames per processor, and what is remembered of each path.
    pub(super) fn import(
        &self,
        form: Form,
        source: impl Read + Send,
    ) -> Result<Revision, ImportError> {
        let least = self.bytes / if matches!(form.0, Compression::None) { BEST_RATIO } else { 2 };
        let needed_bytes = super::check_room(self.images, self.name, self.bytes, least)?;
        let read = Arc::new(AtomicU64::new(0));
        let source = Counted { source, read: Arc::clone(&read) };
        let source = BufReader::with_capacity(BUFFER_BYTES, source);
        let broken = |source| self.broken(0, source, &read);
        let mut stream = decompress(source, form.0).map_err(broken)?;
        let mut start = Vec::with_capacity(BLOCK_BYTES);
        let began = (&mut stream).take(BLOCK_BYTES as u64).read_to_end(&mut start);
        began.map_err(broken)?;
        let is_plain = form.0 == Compression::None;
        if !is_plain && (!is_archive(&start, true) || is_appliance(&start)) {
            return Err(self.no_archive(form));
        }
        let packer = Packer::new(Cursor::new(start).chain(stream));
        self.save(packer, form, &read).map_err(|error| error.with_need(needed_bytes))
    }

    fn save<R: Read + Send>(
        &self,
        mut packer: Packer<R>,
        form: Form,
        read: &AtomicU64,
    ) -> Result<Revision, ImportError> {
        let mut draft = Draft::begin(self.images, self.name)?;
        let mut writer = Writer {
            archive: self,
            file: draft.partition(ARCHIVE_NAME, ARCHIVE)?,
            draft: &mut draft,
            read,
            blocks: 0,
            looked: 0,
        };
        let mut index = None;
        let next = || -> Result<Option<Packed>, TarError> {
            let packed = packer.next_chunk()?;
            if let Some(packed) = &packed {
                index.clone_from(&packed.context.index);
            }
            Ok(packed)
        };
        let (packed, written) = pipeline::run(next, archive_sealer, |sealed| match sealed {
            Ok(sealed) => writer.take(sealed),
            Err(source) => {
                Err(ImportError::Compress { partition: ARCHIVE_NAME.to_owned(), source })
            }
        });
        packed.map_err(|source| self.damaged(source, read))?;
        written?;
        let index = index.expect("the last frame has an index");
        let Writer { file, blocks, .. } = writer;
        let shape = archive::shape(file.chunks(), blocks, &index);
        draft.end_partition(file, &shape)?;
        draft
            .publish(self.images, self.name, self.provenance(form, &index))
            .map_err(ImportError::from)
    }

    fn provenance(&self, Form(compression): Form, index: &Index) -> String {
        let mut text =
            format!("tar archive {} ({compression}, {} members)", self.what, index.members);
        text.push_str(archive::remark(index));
        text
    }

    fn damaged(&self, source: TarError, read: &AtomicU64) -> ImportError {
        let read_bytes = read.load(Ordering::Relaxed);
        ImportError::Archive { what: self.what.to_owned(), read_bytes, source }
    }

    fn broken(&self, offset: u64, source: io::Error, read: &AtomicU64) -> ImportError {
        self.damaged(TarError::Read { offset, source: Arc::new(source) }, read)
    }

    /// As what it would be refused that is no archive.
    fn no_archive(&self, Form(compression): Form) -> ImportError {
        let what = self.what.to_owned();
        let source = DiskFileError::Compressed(compression.to_string());
        ImportError::DiskFile { what, source }
    }
}

/// Writes frames into the draft.
struct Writer<'w> {
    archive: &'w Archive<'w>,
    file: PartitionFile,
    draft: &'w mut Draft,
    read: &'w AtomicU64,
    blocks: u64,
    looked: u64,
}

impl Writer<'_> {
    fn take(&mut self, sealed: Sealed) -> Result<(), ImportError> {
        self.blocks += u64::from(sealed.chunk.blocks());
        self.draft.push(&mut self.file, sealed)?;
        let Archive { images, what, bytes, progress, .. } = self.archive;
        if self.file.bytes() - self.looked >= LOOK_EVERY_BYTES {
            self.looked = self.file.bytes();
            check_space(images.layout.root(), 0)?;
        }
        let done_bytes = self.read.load(Ordering::Relaxed);
        progress(Progress { file: (*what).to_owned(), done_bytes, total_bytes: *bytes });
        Ok(())
    }
}

/// Counts what is read, for others to see.
struct Counted<R> {
    source: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}
