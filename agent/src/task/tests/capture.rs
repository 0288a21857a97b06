//! Captures of what was deployed, into a store in memory that has the faults of real ones.

use super::rig::{Outcome, Rig, TestImage, tool};
use crate::task::{Begun, Fault, Sending, Uploader};
use metalcast_formats::chunk;
use metalcast_shared::{
    event::{Step, TaskEvent},
    id::Revision,
    manifest::{ARCHIVE, Chunk, Partition},
    to_agent::{Capture, CaptureSource, Overwrite},
    upload::{Survey, SurveyPartition, UploadPart, UploadPosition},
};
use std::{
    process::Command,
    sync::{Mutex, MutexGuard},
};

/// A store that takes one partition.
#[derive(Default)]
pub(super) struct TestStore {
    pub(super) state: Mutex<State>,
    /// The connection breaks after so many parts, again and again.
    pub(super) breaks_after: Option<usize>,
    /// Refuses each chunk of this number.
    pub(super) refuses: Option<(usize, Fault)>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) survey: Survey,
    head: Vec<u8>,
    has_head: bool,
    pub(super) chunks: Vec<(Chunk, Vec<u8>)>,
    files: Vec<(String, Vec<u8>)>,
    pub(super) begun: usize,
}

impl TestStore {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Uploader for TestStore {
    fn begin(&self, survey: &Survey) -> anyhow::Result<Begun<'_>> {
        let mut state = self.state();
        state.begun += 1;
        assert!(state.begun == 1 || state.survey == *survey, "another survey");
        state.survey = survey.clone();
        if !state.has_head {
            state.head.clear();
        }
        let is_complete = !state.files.is_empty();
        let from = UploadPosition {
            partitions: is_complete.into(),
            head: state.has_head && !is_complete,
            chunks: if is_complete { 0 } else { state.chunks.len() as u32 },
            files: state.files.len() as u32,
        };
        Ok(Begun::From(from, Box::new(Stream { store: self, parts: 0 })))
    }
}

struct Stream<'s> {
    store: &'s TestStore,
    parts: usize,
}

impl Sending for Stream<'_> {
    fn send(&mut self, part: &UploadPart, body: &[u8]) -> anyhow::Result<()> {
        if self.store.breaks_after == Some(self.parts) {
            return Err(Fault::Lost.into());
        }
        self.parts += 1;
        let mut state = self.store.state();
        match part {
            UploadPart::Head { bytes, is_last } => {
                assert_eq!(*bytes as usize, body.len());
                state.head.extend(body);
                state.has_head = *is_last;
            }
            UploadPart::Chunk(chunk) => {
                if let Some((number, fault)) = &self.store.refuses
                    && *number == state.chunks.len()
                {
                    return Err(fault.clone().into());
                }
                assert!(state.has_head || state.survey.partitions[0].filesystem == ARCHIVE);
                state.chunks.push((chunk.clone(), body.to_vec()));
            }
            UploadPart::File { name, bytes } => {
                assert_eq!(*bytes as usize, body.len());
                state.files.push((name.clone(), body.to_vec()));
            }
            UploadPart::Finish => panic!("that is finish()'s"),
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<Revision> {
        Ok("lab/saved@3".parse()?)
    }
}

pub(super) fn order(rig: &Rig, slot: u16) -> Capture {
    let source = CaptureSource::Slot { layout: rig.layout.clone(), slot };
    let name = format!("sda{slot}");
    Capture { disk: rig.selector(), source, name, force: false, raw: false, tar: false }
}

/// Captures; the disk is as before whatever happens.
pub(super) fn capture(rig: &Rig, order: &Capture, store: &TestStore) -> Outcome {
    let before = rig.whole_hash();
    let outcome = rig.capture(order, store);
    assert!(outcome.operations().is_empty(), "{:?}", outcome.operations());
    assert!(before == rig.whole_hash(), "something was written");
    outcome
}

fn rig() -> Rig {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    rig
}

/// What an opener has to know of a partition.
pub(super) fn facts(surveyed: &SurveyPartition) -> Partition {
    Partition {
        name: surveyed.name.clone(),
        filesystem: surveyed.filesystem.clone(),
        file: String::new(),
        block_bytes: surveyed.block_bytes,
        total_blocks: surveyed.total_blocks,
        used_blocks: surveyed.used_blocks,
        device_bytes: surveyed.device_bytes,
        chunk_blocks: surveyed.chunk_blocks(),
        chunks: 0,
        head_bytes: 0,
        file_bytes: 0,
        pages: Vec::new(),
    }
}

/// What came is the slot's content, all of it and once.
fn is_slot(rig: &Rig, store: &TestStore) {
    let state = store.state();
    let [surveyed] = &state.survey.partitions[..] else { panic!("{:?}", state.survey) };
    let partition = facts(surveyed);
    let content = rig.read(rig.slot_start(5), surveyed.device_bytes);
    let mut blocks = 0;
    for (chunk, frame) in &state.chunks {
        let data = chunk::open(frame, chunk, &partition).unwrap();
        let mut rest = &data[..];
        for (offset, length) in chunk.extents(&partition) {
            assert!(
                rest[..length] == content[offset as usize..][..length],
                "chunk {}",
                chunk.index
            );
            rest = &rest[length..];
        }
        blocks += u64::from(chunk.blocks());
    }
    assert_eq!(blocks, surveyed.used_blocks);
    assert!(state.chunks.is_sorted_by(|a, b| a.0.index < b.0.index));
    let names: Vec<&str> = state.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["dev-fs.list", "blkid.list", "parts", "clonezilla-img"]);
    assert_eq!(state.files[2].1, b"sda5\n");
}

#[test]
fn a_slot_is_sent_as_it_is_and_nothing_is_written() {
    let (rig, store) = (rig(), TestStore::default());
    let outcome = capture(&rig, &order(&rig, 5), &store).expect();
    is_slot(&rig, &store);
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("survey: sda5: ext4"), "{notes}");
    assert!(notes.contains("capture: saved as lab/saved@3: "), "{notes}");
    assert!(notes.contains("capture: the agent used at most "), "{notes}");
    assert!(outcome.has_said(&TaskEvent::Done { reports: false }));
}

#[test]
fn however_often_the_connection_breaks_nothing_is_lost_or_sent_twice() {
    let rig = rig();
    let store = TestStore { breaks_after: Some(9), ..TestStore::default() };
    capture(&rig, &order(&rig, 5), &store).expect();
    is_slot(&rig, &store);
    assert!(store.state().begun > 2, "the image is too small to tell");
}

#[test]
fn what_the_store_refuses_ends_the_task_with_its_reason() {
    let rig = rig();
    for (may_retry, attempts) in [(false, 1), (true, 5)] {
        let fault = Fault::Refused { reason: "the disk is full".into(), may_retry };
        let store = TestStore { refuses: Some((2, fault)), ..TestStore::default() };
        let cause = capture(&rig, &order(&rig, 5), &store).cause();
        assert!(cause.starts_with("capture: ") && cause.ends_with("the disk is full"), "{cause}");
        // The first attempt came further than nothing.
        let begun = store.state().begun;
        assert!((attempts..=attempts + 1).contains(&begun), "{begun} attempts");
    }
}

#[test]
fn what_should_not_be_saved_is_refused_first() {
    let rig = rig();
    let check = |order: &Capture, expected: &str| {
        let store = TestStore::default();
        let cause = capture(&rig, order, &store).cause();
        assert!(cause.contains(expected), "{cause}");
        assert_eq!(store.state().begun, 0);
    };
    let mut other = order(&rig, 5);
    other.disk.serial = Some("ANOTHER".into());
    check(&other, "check-disk: no disk with serial ANOTHER");
    let mut layout = rig.layout.clone();
    layout.slot_mib -= 1;
    let source = CaptureSource::Slot { layout, slot: 5 };
    check(&Capture { source, ..order(&rig, 5) }, "check-disk: the disk does not have layout small");
    let source = CaptureSource::Partitions(vec![5, 9]);
    check(&Capture { source, ..order(&rig, 5) }, "has no partition 9; it has 1, 2, 3, 4, 5");
    let source = CaptureSource::Partitions(vec![4]);
    check(&Capture { source, ..order(&rig, 5) }, "partition 4 only holds other partitions");

    let mounted = tempfile::tempdir().unwrap();
    tool(Command::new("mount").args(["-o", "ro"]).arg(rig.node(1)).arg(mounted.path()));
    let outcome = rig.capture(&order(&rig, 5), &TestStore::default());
    tool(Command::new("umount").arg(mounted.path()));
    assert!(outcome.cause().contains("it is in use"), "{}", outcome.cause());

    tool(Command::new("debugfs").args(["-w", "-R", "ssv state 0"]).arg(rig.node(5)));
    tool(Command::new("blockdev").arg("--flushbufs").arg(rig.node(5)));
    let cause = capture(&rig, &order(&rig, 5), &TestStore::default()).cause();
    assert!(cause.starts_with("survey: sda5: ") && cause.contains("with --force"), "{cause}");
    let store = TestStore::default();
    let outcome = capture(&rig, &Capture { force: true, ..order(&rig, 5) }, &store).expect();
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("; every block of it is saved"), "{notes}");
    let surveyed = store.state().survey.clone();
    assert_eq!(surveyed.partitions[0].used_blocks, surveyed.partitions[0].total_blocks);
    assert_eq!(surveyed.remarks, ["sda5 was not unmounted properly"]);
    is_slot(&rig, &store);
}

#[test]
fn an_order_to_stop_is_heard_in_the_middle() {
    let rig = rig();
    let store = TestStore::default();
    let outcome = rig.capture_watched(&order(&rig, 5), &store, |(event, cancel)| {
        if matches!(event, TaskEvent::StepStarted { step: Step::Capture }) {
            cancel.cancel("by the operator");
        }
    });
    assert_eq!(outcome.cause(), "capture: cancelled: by the operator");
    assert!(store.state().files.is_empty());
}
