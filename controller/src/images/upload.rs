//! A revision that an agent sends, piece by piece and in order: [`metalcast_shared::upload`].
//!
//! ```text
//! head, chunks (each partition) ── checked ──┐
//! files beside them ── names, lengths ───────┴─> .import-<random>/ ── read as an import would ──> published
//! ```
//!
//! What an agent says of what it sends is never taken for true: which chunks there are follows from the
//! bitmap, and what is in them from the frames themselves; an archive is read as an import reads it. An error that is the agent's leaves the upload
//! as it was before; [`Upload::position`] says where it goes on.

mod archive;
mod head;
mod partition;

use super::{
    DraftError, Images, UploadError,
    archive::remark,
    draft::{Draft, RESERVE_BYTES},
    space::{self, MIB},
};
use archive::OpenArchive;
use head::OpenHead;
use metalcast_formats::{
    clonezilla::{Directory, RAW, has_data_file, is_side_file},
    partclone::MAX_BLOCKS,
    tar::BLOCK_BYTES,
};
use metalcast_shared::{
    id::{ImageName, Revision},
    manifest::{ARCHIVE, Chunk, MAX_BLOCK_BYTES, Partition},
    upload::{
        MAX_FILE_BYTES, MAX_FILES, MAX_FILES_BYTES, MAX_PARTITIONS, MAX_REMARK_BYTES, MAX_REMARKS,
        Survey, SurveyPartition, UploadPosition,
    },
};
use partition::OpenPartition;
use std::path::PathBuf;

/// What an agent may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadOrder {
    /// It becomes the next revision of this image.
    pub image: ImageName,
    /// Where it comes from, for people.
    pub provenance: String,
    /// Size of the disk that it is read from, in bytes: no partition is larger.
    pub disk_bytes: u64,
}

/// A revision that is being sent.
pub struct Upload {
    draft: Draft,
    order: UploadOrder,
    survey: Survey,
    /// The partition under way.
    open: Option<Open>,
    /// Files beside the partitions' data.
    files: Vec<String>,
    files_bytes: u64,
    store: PathBuf,
}

enum Open {
    Head(OpenHead),
    Chunks(Box<OpenPartition>),
    Archive(Box<OpenArchive>),
}

impl Upload {
    pub(super) fn begin(
        images: &Images,
        order: UploadOrder,
        survey: Survey,
    ) -> Result<Self, UploadError> {
        check(&survey, &order)?;
        let store = images.layout.root().to_owned();
        check_space(&store, &survey)?;
        images.ledger.check(order.image.project(), 0)?;
        let draft = Draft::begin(images, &order.image)?;
        let (files, files_bytes) = (Vec::new(), 0);
        Ok(Self { draft, order, survey, open: None, files, files_bytes, store })
    }

    /// What is being sent.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Where it goes on. A head that is not complete is forgotten.
    ///
    /// # Errors
    /// When that cannot be deleted.
    pub fn position(&mut self) -> Result<UploadPosition, UploadError> {
        if let Some(Open::Head(head)) = self.open.take_if(|open| matches!(open, Open::Head(_))) {
            head.discard()?;
        }
        Ok(UploadPosition {
            partitions: as_u32(self.draft.partitions().len()),
            head: matches!(self.open, Some(Open::Chunks(_))),
            chunks: match &self.open {
                Some(Open::Chunks(partition)) => partition.chunks(),
                Some(Open::Archive(archive)) => archive.chunks(),
                Some(Open::Head(_)) | None => 0,
            },
            files: as_u32(self.files.len()),
        })
    }

    /// Takes a piece of the frame with the next partition's header and bitmap.
    ///
    /// # Errors
    /// When it is not that, or cannot be written.
    pub fn head(&mut self, piece: &[u8], is_last: bool) -> Result<(), UploadError> {
        let next = self.next_partition()?.clone();
        if [RAW, ARCHIVE].contains(&next.filesystem.as_str()) {
            return Err(UploadError::sent("a head of what has none"));
        }
        let head = match self.open.take() {
            None => OpenHead::begin(&self.draft, &next),
            Some(Open::Head(head)) => Ok(head),
            Some(other @ (Open::Chunks(_) | Open::Archive(_))) => {
                self.open = Some(other);
                return Err(UploadError::sent("a second head of a partition"));
            }
        };
        let mut head = head?;
        match head.write(piece) {
            Ok(()) if !is_last => {
                self.open = Some(Open::Head(head));
                Ok(())
            }
            Ok(()) => {
                let open = OpenPartition::with_head(head, &next)?;
                self.go_on(open)
            }
            Err(error) => {
                head.discard()?;
                Err(error)
            }
        }
    }

    /// Takes the next chunk of the partition under way.
    ///
    /// # Errors
    /// When it is not that one, its frame does not hold what it should, or cannot be written.
    pub fn chunk(&mut self, chunk: Chunk, frame: Vec<u8>) -> Result<(), UploadError> {
        let taken = match self.open.take() {
            Some(Open::Chunks(open)) => self.partition_chunk(open, chunk, frame),
            Some(Open::Archive(open)) => self.archive_chunk(open, &chunk, &frame),
            Some(head @ Open::Head(_)) => {
                self.open = Some(head);
                Err(UploadError::sent("a chunk within a head"))
            }
            None => {
                let next = self.next_partition()?;
                match next.filesystem.as_str() {
                    RAW => {
                        let open = OpenPartition::raw(&self.draft, next)?;
                        self.partition_chunk(Box::new(open), chunk, frame)
                    }
                    ARCHIVE => {
                        let open = OpenArchive::begin(&self.draft, next)?;
                        self.archive_chunk(Box::new(open), &chunk, &frame)
                    }
                    _ => Err(UploadError::sent("a chunk before its partition's head")),
                }
            }
        };
        if taken? {
            // The partition can be large and the disk be filled by others.
            let free = space::free_bytes(&self.store).map_err(DraftError::from)?;
            if free < RESERVE_BYTES {
                return Err(self.no_space(free));
            }
        }
        Ok(())
    }

    /// Whether it made all so far durable, as below.
    fn partition_chunk(
        &mut self,
        mut open: Box<OpenPartition>,
        chunk: Chunk,
        frame: Vec<u8>,
    ) -> Result<bool, UploadError> {
        let taken = open.take(&mut self.draft, chunk, frame);
        let gone_on = self.go_on(*open);
        taken.and_then(|is_due| gone_on.map(|()| is_due))
    }

    fn archive_chunk(
        &mut self,
        mut open: Box<OpenArchive>,
        chunk: &Chunk,
        frame: &[u8],
    ) -> Result<bool, UploadError> {
        let taken = open.take(&mut self.draft, chunk, frame);
        self.open = Some(Open::Archive(open));
        taken
    }

    /// Takes a file beside the partitions' data, all of which has come.
    ///
    /// # Errors
    /// When it is none that belongs there, or cannot be written.
    pub fn file(&mut self, name: &str, content: &[u8]) -> Result<(), UploadError> {
        if self.draft.partitions().len() < self.survey.partitions.len() {
            return Err(UploadError::sent("a file before the end of the partitions"));
        }
        if !is_side_file(name) {
            let shown: String = name.chars().take(80).collect();
            return Err(UploadError::sent(format!("{shown:?} is no file of an image")));
        }
        if self.files.iter().any(|known| known == name) || self.files.len() >= MAX_FILES {
            return Err(UploadError::sent(format!("{name} is one file too many")));
        }
        let bytes = content.len() as u64;
        if bytes > MAX_FILE_BYTES.into() || self.files_bytes + bytes > MAX_FILES_BYTES {
            return Err(UploadError::sent(format!("{name} is too long")));
        }
        self.draft.file(name, content)?;
        self.files.push(name.to_owned());
        self.files_bytes += bytes;
        Ok(())
    }

    /// Publishes it: the directory is one that an import would take, or make.
    pub(super) fn publish(mut self, images: &Images) -> Result<Revision, UploadError> {
        let left_out = match self.open.take() {
            Some(Open::Archive(open)) => remark(&open.end(&mut self.draft)?).to_owned(),
            Some(Open::Head(_) | Open::Chunks(_)) | None => self.check_directory()?,
        };
        let Self { draft, order, survey, .. } = self;
        let mut provenance = format!("{}, saved by agent {}", order.provenance, survey.agent);
        provenance.push_str(&left_out);
        if survey.left_out_bytes > 0 {
            let bytes = survey.left_out_bytes;
            provenance.push_str(&format!("; {bytes} bytes of page and swap files left out"));
        }
        for remark in &survey.remarks {
            provenance.push_str(&format!("; {remark}"));
        }
        Ok(draft.publish(images, &order.image, provenance)?)
    }

    /// That all has come, and can be read; what is to be said of it.
    fn check_directory(&self) -> Result<String, UploadError> {
        let (have, all) = (self.draft.partitions().len(), self.survey.partitions.len());
        if have < all {
            return Err(UploadError::sent(format!("only {have} of {all} partitions have come")));
        }
        let directory = Directory::open(self.draft.path())?;
        let found = directory.partitions.iter().map(|partition| &partition.name);
        if !found.eq(self.survey.partitions.iter().map(|partition| &partition.name)) {
            return Err(UploadError::sent("the list `parts` has other partitions than were sent"));
        }
        Ok(match directory.left_out.is_empty() {
            true => String::new(),
            false => format!("; left out: {}", directory.left_out()),
        })
    }

    fn next_partition(&self) -> Result<&SurveyPartition, UploadError> {
        let next = self.survey.partitions.get(self.draft.partitions().len());
        next.ok_or_else(|| UploadError::sent("data after the last partition"))
    }

    /// A partition all of whose chunks have come is complete.
    fn go_on(&mut self, open: OpenPartition) -> Result<(), UploadError> {
        match open.is_complete() {
            true => Ok(open.end(&mut self.draft)?),
            false => {
                self.open = Some(Open::Chunks(Box::new(open)));
                Ok(())
            }
        }
    }

    fn no_space(&self, free: u64) -> UploadError {
        UploadError::Space {
            path: self.store.clone(),
            needed_mib: needed_bytes(&self.survey) / MIB,
            free_mib: free / MIB,
        }
    }
}

/// An estimate, in bytes: systems compress to half of their size and better. One that needs more is
/// stopped when only the reserve is left.
fn needed_bytes(survey: &Survey) -> u64 {
    (survey.used_bytes() / 2).saturating_add(RESERVE_BYTES)
}

fn check_space(store: &std::path::Path, survey: &Survey) -> Result<(), UploadError> {
    let (needed, free) =
        (needed_bytes(survey), space::free_bytes(store).map_err(DraftError::from)?);
    if free >= needed {
        return Ok(());
    }
    let path = store.to_owned();
    Err(UploadError::Space { path, needed_mib: needed / MIB, free_mib: free / MIB })
}

/// Whether it can be what an agent found on that disk.
fn check(survey: &Survey, order: &UploadOrder) -> Result<(), UploadError> {
    let bad = |what: String| Err(UploadError::Survey(what));
    let Survey { agent, partitions, remarks, .. } = survey;
    if partitions.is_empty() || partitions.len() > MAX_PARTITIONS {
        return bad(format!("{} partitions", partitions.len()));
    }
    let texts = || remarks.iter().chain([agent]);
    if remarks.len() > MAX_REMARKS
        || texts().any(|text| text.len() > MAX_REMARK_BYTES || text.contains(char::is_control))
    {
        return bad("remarks that are too many, too long or no text".to_owned());
    }
    let is_archive = |one: &SurveyPartition| one.filesystem == ARCHIVE;
    if partitions.iter().any(is_archive) {
        return match &partitions[..] {
            [one] if one.block_bytes == BLOCK_BYTES as u32 => Ok(()),
            _ => bad("an archive beside something else, or in other blocks".to_owned()),
        };
    }
    for (position, one) in partitions.iter().enumerate() {
        let SurveyPartition { name, block_bytes, total_blocks, used_blocks, device_bytes, .. } =
            one;
        let is_ours = |other: &SurveyPartition| other.name == *name;
        let bytes = total_blocks.checked_mul((*block_bytes).into());
        let problem = if !has_data_file(name, &one.filesystem) {
            "its name"
        } else if partitions[..position].iter().any(is_ours) {
            "a second one of its name"
        } else if !(512..=MAX_BLOCK_BYTES).contains(block_bytes) {
            "the size of its blocks"
        } else if *total_blocks > MAX_BLOCKS || bytes.is_none_or(|bytes| bytes > *device_bytes) {
            "the number of its blocks"
        } else if *device_bytes > order.disk_bytes {
            "a size beyond that of its disk"
        } else if used_blocks > total_blocks
            || (one.filesystem == RAW && used_blocks != total_blocks)
        {
            "the number of its used blocks"
        } else {
            continue;
        };
        let shown: String = name.chars().take(80).collect();
        return bad(format!("partition {shown:?}: {problem}"));
    }
    Ok(())
}

/// What an opener has to know of a partition.
fn facts(partition: &SurveyPartition, head_bytes: u32) -> Partition {
    Partition {
        name: partition.name.clone(),
        filesystem: partition.filesystem.clone(),
        file: String::new(),
        block_bytes: partition.block_bytes,
        total_blocks: partition.total_blocks,
        used_blocks: partition.used_blocks,
        device_bytes: partition.device_bytes,
        chunk_blocks: partition.chunk_blocks(),
        chunks: 0,
        head_bytes,
        file_bytes: 0,
        pages: Vec::new(),
    }
}

fn as_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
