//! Imports a Clonezilla directory: every partition becomes frames, everything else is copied, and
//! the manifest comes last.
//!
//! ```text
//! Directory ──> transcode (each partition) ──> .import-<random>/ ──rename──> <project>/<name>/<n>/
//!          └──> side files, fresh B2SUMS ─────────^        ^── signed manifest, when all is flushed
//! ```

mod output;
mod pages;
mod transcode;

use super::{
    Images, ImportError, ImportProgress, StoreError,
    layout::{MANIFEST, Temporary, sync_dir},
};
use metalcast_formats::{
    clonezilla::{Directory, PartitionImage},
    stream::{self, Algorithm, Compression, Piece},
};
use metalcast_shared::{
    codec,
    id::{ImageName, Revision},
    manifest::{Manifest, Partition, SignedManifest},
    version,
};
use nix::sys::statvfs::statvfs;
use output::{FileSum, Output};
use pages::PageFile;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    sync::PoisonError,
    time::SystemTime,
};

/// Longest file beside the partitions' data. The largest that Clonezilla writes is the hidden data
/// before the first partition, 1 MiB on any disk of the last 15 years.
const MAX_SIDE_FILE_BYTES: u64 = 64 << 20;

/// Left free beside the estimated size of an import: for the database and the leases, which are on
/// the same disk unless they were put elsewhere.
const RESERVE_BYTES: u64 = 64 << 20;

const MIB: u64 = 1 << 20;

/// See [`Images::import`].
pub(super) fn import(
    images: &Images,
    source: &Path,
    name: &ImageName,
    progress: &dyn Fn(ImportProgress),
) -> Result<Revision, ImportError> {
    let directory = Directory::open(source)?;
    check_side_files(&directory)?;
    let needed_bytes = check_space(images.layout.root(), &directory)?;
    build(images, &directory, name, progress).map_err(|error| error.with_need(needed_bytes))
}

fn build(
    images: &Images,
    directory: &Directory,
    name: &ImageName,
    progress: &dyn Fn(ImportProgress),
) -> Result<Revision, ImportError> {
    let build = images.layout.temporary()?;
    let mut sums = copy_side_files(directory, build.path())?;
    let mut pages = PageFile::create(build.path())?;
    let total_bytes = directory.partitions.iter().map(PartitionImage::bytes).sum();
    let mut before = 0;
    let mut partitions = Vec::new();
    for image in &directory.partitions {
        let report = |file: String, bytes: u64| {
            progress(ImportProgress { file, done_bytes: before + bytes, total_bytes });
        };
        let (partition, sum) = transcode::transcode(image, build.path(), &mut pages, &report)?;
        partitions.push(partition);
        sums.push(sum);
        before += image.bytes();
    }
    pages.finish()?;
    write_sums(build.path(), sums)?;
    sync_dir(build.path())?;
    publish(images, build, name, directory, partitions)
}

fn check_side_files(directory: &Directory) -> Result<(), ImportError> {
    match directory.side_files.iter().find(|file| file.bytes > MAX_SIDE_FILE_BYTES) {
        None => Ok(()),
        Some(file) => Err(ImportError::SideFileTooLarge {
            file: file.name.clone(),
            bytes: file.bytes,
            limit: MAX_SIDE_FILE_BYTES,
        }),
    }
}

/// Bytes that a partition will hardly exceed in the store.
fn estimate(image: &PartitionImage) -> u64 {
    match image.compression {
        // Ours is better.
        Some(Compression::None | Compression::Gzip | Compression::Lz4 | Compression::Lzop) => {
            image.bytes()
        }
        // Better compressors than ours were at work, or may have been.
        Some(
            Compression::Zstd
            | Compression::Bzip2
            | Compression::Lzma
            | Compression::Xz
            | Compression::Lzip
            | Compression::Lrzip,
        )
        | None => image.bytes().saturating_add(image.bytes() / 4),
    }
}

/// An estimate, in bytes, that spares most hopeless imports; a disk that fills up later is an error then.
fn check_space(root: &Path, directory: &Directory) -> Result<u64, ImportError> {
    let data: u64 = directory.partitions.iter().map(estimate).sum();
    let side: u64 = directory.side_files.iter().map(|file| file.bytes).sum();
    let needed = data.saturating_add(side).saturating_add(RESERVE_BYTES);
    let stat = statvfs(root)
        .map_err(|errno| StoreError::io("asking for the free space of", root)(errno.into()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free >= needed {
        return Ok(needed);
    }
    let path = root.to_owned();
    Err(ImportError::Space { path, needed_mib: needed / MIB, free_mib: free / MIB })
}

/// Copies everything that is not data of a partition, verified against the source's checksums.
fn copy_side_files(directory: &Directory, to: &Path) -> Result<Vec<FileSum>, ImportError> {
    let mut sums = Vec::new();
    for piece in &directory.side_files {
        let read = read_side_file(piece)?;
        // Clonezilla restores what is listed: not what was left out.
        let content = if piece.name == "parts" { directory.parts.as_bytes() } else { &read };
        let mut output = Output::create(to, &piece.name)?;
        output.write(content)?;
        sums.push(output.finish()?);
    }
    Ok(sums)
}

fn read_side_file(piece: &Piece) -> Result<Vec<u8>, ImportError> {
    let failed = |source| ImportError::SideFile { file: piece.name.clone(), source };
    let mut content = Vec::new();
    let mut stream = stream::open_raw(vec![piece.clone()]).stream.take(MAX_SIDE_FILE_BYTES + 1);
    stream.read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_SIDE_FILE_BYTES {
        return Err(failed(io::Error::other("it grew beyond the limit while it was read")));
    }
    Ok(content)
}

/// Checksums of what Clonezilla would list itself: its logs and `Info-*` are written after them.
fn write_sums(dir: &Path, mut sums: Vec<FileSum>) -> Result<(), ImportError> {
    sums.retain(|sum| sum.name != "clonezilla-img" && !sum.name.starts_with("Info-"));
    sums.sort_by(|a, b| a.name.cmp(&b.name));
    let text: String = sums.iter().map(FileSum::line).collect();
    let mut output = Output::create(dir, Algorithm::Blake2b.file_name())?;
    output.write(text.as_bytes())?;
    output.finish().map(drop)
}

/// Gives the revision its number, signs the manifest and moves the directory into place. One import
/// at a time does so.
fn publish(
    images: &Images,
    build: Temporary,
    name: &ImageName,
    directory: &Directory,
    partitions: Vec<Partition>,
) -> Result<Revision, ImportError> {
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
        provenance: provenance(directory),
        partitions,
    };
    let root = manifest.encode();
    // What would not be read again must not be published.
    Manifest::decode(&root).map_err(|error| ImportError::TooLarge(error.to_string()))?;
    let signature = (images.sign)(&root);
    write_manifest(build.path(), &codec::encode(&SignedManifest { root, signature }))?;
    images.layout.publish(build, &revision)?;
    Ok(revision)
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

fn provenance(directory: &Directory) -> String {
    let what = match directory.disks.is_empty() {
        false => directory.disks.join(" "),
        true => directory.partitions.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(" "),
    };
    let mut text = format!("Clonezilla directory {} ({what}", directory.path.display());
    if let Some(saved) = &directory.saved {
        text.push_str(&format!(", saved {saved}"));
    }
    text.push(')');
    if !directory.left_out.is_empty() {
        text.push_str(&format!("; left out: {}", directory.left_out()));
    }
    text
}

fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
