//! A disk or partition, or a file that stands for one: saved as an agent saves a real one.

use super::{
    BEST_RATIO,
    archive::{self, Archive, Form},
    medium::Medium,
    spool::{STREAM, spool},
    temporary::TemporaryDisk,
    unpack::unpack,
};
use crate::images::{
    Images, ImportError, Progress,
    draft::{Draft, Shape},
    pipeline,
};
use jiff::Timestamp;
use metalcast_formats::{
    capture::{self, Blocks, CaptureError, Planned, Source, SourceFacts, log, plan, side_files},
    clonezilla::RAW,
    disk_file::{DiskFormat, recognise},
    region::{ReadAt, Region},
};
use metalcast_shared::id::{ImageName, Revision};
use serde::{Deserialize, Serialize};
use std::{
    io::{Cursor, Read},
    path::Path,
};

/// What a disk is called unless it is said.
const USUAL_NAME: &str = "sda";

/// What parted calls the model of a disk that is a file.
const FILE_MODEL: &str = "(file)";

/// Room for the files beside the partitions' data: the gap before the first partition is at most 16 MiB.
const SIDE_FILES_BYTES: u64 = 20 << 20;

/// How a disk is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskOptions {
    /// What it is called in the image: `sda` unless this says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Save every block, whatever is in it.
    #[serde(default)]
    pub exact: bool,
    /// Take what is in use, and all blocks of filesystems that were not unmounted properly.
    #[serde(default)]
    pub force: bool,
}

/// See [`Images::import_file`].
pub(in crate::images) fn import_file(
    images: &Images,
    path: &Path,
    options: &DiskOptions,
    name: &ImageName,
    progress: &dyn Fn(Progress),
) -> Result<Revision, ImportError> {
    let what = path.display().to_string();
    if let Some((form, file, bytes)) = Form::of_file(path) {
        archive::check_options(options, &what)?;
        return Archive { images, name, what: &what, bytes, progress }.import(form, file);
    }
    let medium = Medium::open(path, options.force)?;
    Import { images, options, name, what: &what, progress }.recognised(medium, path)
}

/// See [`Images::import_stream`].
pub(in crate::images) fn import_stream(
    images: &Images,
    stream: &mut (dyn Read + Send),
    options: &DiskOptions,
    name: &ImageName,
    progress: &dyn Fn(Progress),
) -> Result<Revision, ImportError> {
    let start = archive::beginning(stream)?;
    let form = archive::form_of_stream(&start);
    let mut stream = Cursor::new(start).chain(stream);
    if let Some(form) = form {
        archive::check_options(options, STREAM)?;
        let archive = Archive { images, name, what: STREAM, bytes: 0, progress };
        return archive.import(form, stream);
    }
    let stream = &mut stream;
    let disk = spool(images, stream, progress)?;
    let import = Import { images, options, name, what: STREAM, progress };
    let medium = import.reopened(&disk)?;
    import.recognised(medium, &disk.path())
}

/// What is imported, and how.
struct Import<'i> {
    images: &'i Images,
    options: &'i DiskOptions,
    name: &'i ImageName,
    /// Where it comes from, for people.
    what: &'i str,
    progress: &'i dyn Fn(Progress),
}

impl Import<'_> {
    /// A file that may have to be unpacked first.
    fn recognised(&self, medium: Medium, path: &Path) -> Result<Revision, ImportError> {
        let refused = |source| ImportError::DiskFile { what: self.what.to_owned(), source };
        let format = recognise(&medium, medium.bytes).map_err(refused)?;
        let bytes = medium.bytes;
        if format == DiskFormat::Raw {
            return self.raw(medium, format, &format!("{bytes} bytes"));
        }
        drop(medium);
        let disk = unpack(self.images, path, format, self.what, self.progress)?;
        let medium = self.reopened(&disk)?;
        let bytes = medium.bytes;
        self.raw(medium, format, &format!("virtual size {bytes} bytes"))
    }

    fn reopened(&self, disk: &TemporaryDisk) -> Result<Medium, ImportError> {
        let failed = |source| ImportError::Unreadable { path: disk.path(), source };
        Medium::of_file(disk.file().map_err(failed)?).map_err(failed)
    }

    /// The bytes of a disk or partition, which came in this format.
    fn raw(&self, medium: Medium, format: DiskFormat, size: &str) -> Result<Revision, ImportError> {
        let name = self.options.device.clone().unwrap_or_else(|| USUAL_NAME.to_owned());
        let facts = SourceFacts {
            name: name.clone(),
            model: FILE_MODEL.to_owned(),
            bytes: medium.bytes,
            sector_bytes: medium.sector_bytes,
            is_partition: medium.is_partition,
        };
        let source = Source::read(medium, facts)?;
        let planned = self.plan(&source)?;
        let provenance = format!("{format} {} ({name}, {size}){}", self.what, notes(&planned));
        let total_bytes = planned.iter().map(Planned::bytes).sum();
        let needed_bytes = super::check_room(
            self.images,
            self.name,
            total_bytes + SIDE_FILES_BYTES,
            total_bytes / BEST_RATIO,
        )?;
        let save = || -> Result<Revision, ImportError> {
            let mut draft = Draft::begin(self.images, self.name)?;
            let mut before = 0;
            for partition in &planned {
                let report = |done: u64| {
                    let file = partition.facts.name.clone();
                    (self.progress)(Progress { file, done_bytes: before + done, total_bytes });
                };
                self.partition(&source, partition, &mut draft, &report)?;
                before += partition.bytes();
            }
            side_files(&source, &planned, |name, content| {
                Ok::<_, ImportError>(draft.file(name, content)?)
            })?;
            let log = log(&planned, self.what, Timestamp::now());
            draft.file("clonezilla-img", log.as_bytes())?;
            Ok(draft.publish(self.images, self.name, provenance)?)
        };
        save().map_err(|error| error.with_need(needed_bytes))
    }

    fn plan<S: ReadAt>(&self, source: &Source<S>) -> Result<Vec<Planned>, CaptureError> {
        let blocks = match (self.options.exact, self.options.force) {
            (true, _) => Blocks::Every,
            (false, true) => Blocks::UsedOrUnclean,
            (false, false) => Blocks::Used,
        };
        let planned = plan(source, blocks)?;
        for planned in &planned {
            tracing::info!(from = self.what, "{planned}");
        }
        Ok(planned)
    }

    fn partition(
        &self,
        source: &Source<Medium>,
        planned: &Planned,
        draft: &mut Draft,
        report: &dyn Fn(u64),
    ) -> Result<(), ImportError> {
        let Some(map) = planned.map() else { return Ok(()) };
        let mut file = draft.partition(&planned.facts.name, map.program)?;
        let head_bytes = match map.program {
            RAW => 0,
            _ => file.head(|out| planned.write_head(out))?,
        };
        let region = Region::new(&source.medium, planned.start, planned.bytes_of_partition);
        let mut done = 0;
        let go_on = || Ok::<_, ImportError>(());
        capture::seal(region, planned, pipeline::workers(), go_on, |sealed| {
            done += u64::from(sealed.chunk.blocks()) * u64::from(map.block_bytes);
            draft.push(&mut file, sealed)?;
            report(done);
            Ok(())
        })?;
        let shape = Shape {
            block_bytes: map.block_bytes,
            total_blocks: map.used.blocks(),
            used_blocks: map.used.count_used(),
            device_bytes: map.device_bytes,
            head_bytes,
        };
        Ok(draft.end_partition(file, &shape)?)
    }
}

/// What is to be known of partitions that are not in the image as they should be.
fn notes(planned: &[Planned]) -> String {
    let left_out = |planned: &Planned| {
        let what = match (planned.is_extended(), planned.is_swap()) {
            (true, _) => "extended",
            (_, true) => "swap",
            (false, false) => return None,
        };
        Some(format!("{} ({what})", planned.facts.name))
    };
    let unclean = |planned: &Planned| {
        let is_unclean = planned.map().is_some_and(|map| !map.unclean.is_empty());
        is_unclean.then(|| planned.facts.name.clone())
    };
    let mut text = String::new();
    let mut note = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            text.push_str(&format!("; {what}: {}", names.join(", ")));
        }
    };
    note("left out", planned.iter().filter_map(left_out).collect());
    note("not unmounted properly, with every block", planned.iter().filter_map(unclean).collect());
    text
}
