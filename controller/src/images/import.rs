//! Imports a Clonezilla directory: every partition becomes frames, everything else is copied, and
//! the manifest comes last.
//!
//! ```text
//! Directory ──> transcode (each partition) ──> .import-<random>/ ──rename──> <project>/<name>/<n>/
//!          └──> side files, fresh B2SUMS ─────────^        ^── signed manifest, when all is flushed
//! ```

mod pages;
mod transcode;

use super::{
    Images, ImportError, Progress, StoreError,
    layout::{MANIFEST, Temporary, sync_dir},
    side_files::{self, write_sums},
    space::{self, MIB},
};
use metalcast_formats::{
    clonezilla::{Directory, Form, PartitionImage},
    stream::{Algorithm, Compression},
};
use metalcast_shared::{
    codec,
    id::{ImageName, Revision},
    manifest::{Manifest, Partition, SignedManifest},
    version,
};
use pages::PageFile;
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::PoisonError,
    time::SystemTime,
};

/// How the files of a revision are hashed.
const SUMS: [Algorithm; 1] = [Algorithm::Blake2b];

/// Left free beside the estimated size of an import: for the database and the leases, which are on
/// the same disk unless they were put elsewhere.
const RESERVE_BYTES: u64 = 64 << 20;

/// See [`Images::import`].
pub(super) fn import(
    images: &Images,
    source: &Path,
    name: &ImageName,
    progress: &dyn Fn(Progress),
) -> Result<Revision, ImportError> {
    let directory = Directory::open(source)?;
    side_files::check(&directory)?;
    let needed_bytes = check_space(images.layout.root(), &directory)?;
    build(images, &directory, name, progress).map_err(|error| error.with_need(needed_bytes))
}

fn build(
    images: &Images,
    directory: &Directory,
    name: &ImageName,
    progress: &dyn Fn(Progress),
) -> Result<Revision, ImportError> {
    let build = images.layout.temporary()?;
    let mut sums = side_files::copy::<ImportError>(&directory.side_files, build.path(), &SUMS)?;
    let mut pages = PageFile::create(build.path())?;
    let total_bytes = directory.partitions.iter().map(bytes_to_read).sum();
    let mut before = 0;
    let mut partitions = Vec::new();
    for image in &directory.partitions {
        let report = |file: String, bytes: u64| {
            progress(Progress { file, done_bytes: before + bytes, total_bytes });
        };
        let (partition, sum) = transcode::transcode(image, build.path(), &mut pages, &report)?;
        partitions.push(partition);
        sums.push(sum);
        before += bytes_to_read(image);
    }
    pages.finish()?;
    write_sums(build.path(), &sums, &SUMS)?;
    sync_dir(build.path())?;
    publish(images, build, name, directory, partitions)
}

/// Bytes that are read of a partition's files.
fn bytes_to_read(image: &PartitionImage) -> u64 {
    match image.form {
        Form::Partclone | Form::Raw => image.bytes(),
        // Once for the map of what is used.
        Form::NtfsClone => image.bytes().saturating_mul(2),
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
    let free = space::free_bytes(root)?;
    if free >= needed {
        return Ok(needed);
    }
    let path = root.to_owned();
    Err(ImportError::Space { path, needed_mib: needed / MIB, free_mib: free / MIB })
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
    if !directory.lacking.is_empty() {
        text.push_str(&format!("; not there: {}", directory.lacking.join(", ")));
    }
    text
}

fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
