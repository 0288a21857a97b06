//! A Clonezilla directory: every partition becomes frames, everything else is copied.

use super::transcode::transcode;
use crate::images::{
    Images, ImportError, Progress,
    draft::{Draft, SUMS},
    side_files,
};
use metalcast_formats::{
    clonezilla::{Directory, Form, PartitionImage},
    stream::Compression,
};
use metalcast_shared::id::{ImageName, Revision};
use std::path::Path;

/// See [`Images::import`].
pub(in crate::images) fn import(
    images: &Images,
    source: &Path,
    name: &ImageName,
    progress: &dyn Fn(Progress),
) -> Result<Revision, ImportError> {
    let directory = Directory::open(source)?;
    side_files::check(&directory)?;
    let needed_bytes = check_room(images, name, &directory)?;
    build(images, &directory, name, progress).map_err(|error| error.with_need(needed_bytes))
}

fn build(
    images: &Images,
    directory: &Directory,
    name: &ImageName,
    progress: &dyn Fn(Progress),
) -> Result<Revision, ImportError> {
    let mut draft = Draft::begin(images, name)?;
    let sums = side_files::copy::<ImportError>(&directory.side_files, draft.path(), &SUMS)?;
    draft.list(sums)?;
    let total_bytes = directory.partitions.iter().map(bytes_to_read).sum();
    let mut before = 0;
    for image in &directory.partitions {
        let report = |file: String, bytes: u64| {
            progress(Progress { file, done_bytes: before + bytes, total_bytes });
        };
        transcode(image, &mut draft, &report)?;
        before += bytes_to_read(image);
    }
    Ok(draft.publish(images, name, provenance(directory))?)
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
fn check_room(
    images: &Images,
    name: &ImageName,
    directory: &Directory,
) -> Result<u64, ImportError> {
    let data: u64 = directory.partitions.iter().map(estimate).sum();
    let side: u64 = directory.side_files.iter().map(|file| file.bytes).sum();
    let least = directory.partitions.iter().map(least).sum();
    super::check_room(images, name, data.saturating_add(side), least)
}

/// Bytes that a partition will hardly be less than in the store.
fn least(image: &PartitionImage) -> u64 {
    match image.compression {
        Some(Compression::None) | None => image.bytes() / 8,
        Some(_) => image.bytes() / 2,
    }
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
