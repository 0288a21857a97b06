//! Captures: the plan, the job, and what agents may send for it.

use super::{
    Refusal, Service, UploadAnswer,
    core::Core,
    deploy::{netboot_limit_ms, usable, will_not_do},
    operator::find,
    tasks::task_id,
    to_its_end,
    view::{CaptureAnswer, CapturePlanView, CaptureRequest},
};
use crate::{
    images::{UploadOrder, clones},
    jobs::plan::{self, CaptureAsk, SlotStage, SlotUse, Wanted},
    store::{Change, EventRecord, JobSpec, NodeRecord, Noted, TaskRecord, Work},
};
use anyhow::{Context, bail};
use metalcast_formats::capture::is_device_name;
use metalcast_shared::{
    hash::Hash,
    id::{ImageName, NodeId, Revision, TaskId},
    manifest::ARCHIVE_NAME,
    upload::MAX_PARTITIONS,
};

/// What a disk is called in an image unless the operator says otherwise.
const DISK_NAME: &str = "sda";

impl Service {
    /// Plans a capture, and begins it unless it is a dry run.
    ///
    /// # Errors
    /// When something that is named does not exist or will not do, or the node is busy.
    pub async fn capture(
        &self,
        request: &CaptureRequest,
        who: &str,
    ) -> Result<CaptureAnswer, Refusal> {
        let image: ImageName =
            request.image.parse().map_err(|error| Refusal::Invalid(format!("{error}")))?;
        clones::check(&image).map_err(Refusal::Invalid)?;
        let numbers = partition_numbers(request)?;
        check_form(request)?;
        let mut core = self.core().await;
        let node = find(&core, &request.node)?.clone();
        let plan = self.plan_capture(&core, request, &numbers, &node).await?;
        let name = name_in_image(request)?;
        let view = CapturePlanView {
            image: image.clone(),
            node: node.name.clone(),
            online: core.sessions.contains_key(&node.id),
            disk: plan.disk.to_string(),
            disk_bytes: plan.disk.bytes,
            contents: plan.disk.contents.iter().map(ToString::to_string).collect(),
            source: plan.source.clone(),
            present: plan.present.as_ref().map(|used| used.image.clone()),
            name: name.clone(),
            force: request.force,
            raw: request.raw,
            tar: request.tar,
        };
        if request.dry_run {
            return Ok(CaptureAnswer { plan: view, job: None });
        }
        let spec = JobSpec::Capture {
            image: image.clone(),
            disk: plan.selector.clone(),
            source: plan.source.clone(),
        };
        let work = Work::Capture {
            image,
            disk: plan.selector,
            source: plan.source,
            name,
            force: request.force,
            raw: request.raw,
            tar: request.tar,
            held: plan.present.as_ref().map(held),
            saved: None,
        };
        let limit = netboot_limit_ms(request.timeout_seconds)?;
        let job = self.begin(&mut core, spec, vec![(node, work)], limit, who).await?;
        Ok(CaptureAnswer { plan: view, job: Some(job) })
    }

    async fn plan_capture(
        &self,
        core: &Core,
        request: &CaptureRequest,
        numbers: &[u16],
        node: &NodeRecord,
    ) -> Result<plan::CapturePlan, Refusal> {
        let what = match (request.slot, numbers) {
            (Some(slot), []) => Wanted::Slot(slot),
            (Some(_), _) => {
                return Err(Refusal::Invalid("name a slot or partitions, not both".into()));
            }
            (None, []) => Wanted::Disk,
            (None, numbers) => Wanted::Partitions(numbers),
        };
        if request.slot.is_none() && request.disk.is_none() {
            let message = "say what to save: --slot NUMBER, or --disk SERIAL for a whole disk";
            return Err(Refusal::Invalid(message.into()));
        }
        let inventory = usable(core, node)?;
        let layout = request.layout.as_deref().unwrap_or(self.layout_of(node));
        let slots = self.store().slots(node.id).await?;
        let ask = CaptureAsk {
            inventory,
            slots: &slots,
            layout: self.layout_named(layout)?,
            disk: request.disk.as_deref(),
            what,
            force: request.force,
        };
        plan::capture(&ask).map_err(will_not_do)
    }

    /// Whether the node's agent has this task, which is a capture that is not to be stopped, and the key
    /// is the one of the node's latest enrolment.
    pub fn may_upload(&self, node: NodeId, key: Hash, task: TaskId) -> bool {
        let granted = self.granted();
        granted.get(&node).is_some_and(|right| right.key == key && right.upload == Some(task))
    }

    /// What the agent of a task that may upload is to send.
    ///
    /// # Errors
    /// When it may not, and why.
    pub async fn upload_order(
        &self,
        node: NodeId,
        key: Hash,
        task: TaskId,
    ) -> anyhow::Result<UploadAnswer> {
        if !self.may_upload(node, key, task) {
            bail!("this node has no such task, or not any more");
        }
        let core = self.core().await;
        let active = core.tasks.get(&node).filter(|active| task_id(&active.record) == task);
        let record = &active.context("the task has ended")?.record;
        if let Work::Golden { image, is_saved } = &record.work {
            return Ok(match is_saved {
                true => UploadAnswer::Saved(image.clone()),
                false => UploadAnswer::Send(golden_order(image, record)),
            });
        }
        let Work::Capture { image, disk, source, held, saved, .. } = &record.work else {
            bail!("the task is no capture");
        };
        if let Some(revision) = saved {
            return Ok(UploadAnswer::Saved(revision.clone()));
        }
        let mut provenance = format!("{} of node {}", source.of(disk), record.node_name);
        if let Some(held) = held {
            provenance.push_str(&format!(", which held {held}"));
        }
        provenance.push_str(&format!(", job {}", record.job));
        let order = UploadOrder { image: image.clone(), provenance, disk_bytes: disk.bytes };
        Ok(UploadAnswer::Send(order))
    }

    /// Notes that what a task captured is in the store.
    ///
    /// # Errors
    /// When the store refuses, or the task has ended meanwhile: the revision stays.
    pub async fn uploaded(
        &self,
        node: NodeId,
        task: TaskId,
        revision: &Revision,
    ) -> anyhow::Result<()> {
        let (service, revision) = (self.clone(), revision.clone());
        to_its_end(async move { service.note_upload(node, task, revision).await }).await
    }

    async fn note_upload(
        &self,
        node: NodeId,
        task: TaskId,
        revision: Revision,
    ) -> anyhow::Result<()> {
        let mut core = self.core().await;
        if clones::is_clone(&revision.image) {
            // Whatever becomes of the task: it is removed when nobody needs it.
            core.clones.insert(revision.clone(), 0);
        }
        let active = core.tasks.get(&node).filter(|active| task_id(&active.record) == task);
        let mut record = active.context("the task has ended")?.record.clone();
        match &mut record.work {
            Work::Capture { saved, .. } => *saved = Some(revision.clone()),
            Work::Golden { image, is_saved } if *image == revision => *is_saved = true,
            Work::Golden { image, .. } => bail!("it was to become {image}, not {revision}"),
            Work::Deploy { .. }
            | Work::DeployDisk { .. }
            | Work::DeployPartitions { .. }
            | Work::SelectSlot { .. }
            | Work::Compare { .. } => bail!("the task is no capture"),
        }
        let event = EventRecord {
            seq: 0,
            job: task.job,
            node,
            generation: task.generation,
            number: None,
            at: self.now(),
            what: Noted::Note(match record.work.is_golden() {
                true => "all of it is here".to_owned(),
                false => format!("saved as {revision}"),
            }),
        };
        let changes = [Change::Task(Box::new(record.clone())), Change::Event(event)];
        self.store().apply(&changes).await.context("noting what was captured")?;
        tracing::info!(node = %record.node_name, job = %task.job, "saved as {revision}");
        if let Some(active) = core.tasks.get_mut(&node) {
            active.record = record;
        }
        self.publish(&core);
        Ok(())
    }
}

/// What a machine that runs its own system is to send: an archive, which is of no one disk's size.
fn golden_order(image: &Revision, record: &TaskRecord) -> UploadOrder {
    let provenance = format!("the running system of node {}, job {}", record.node_name, record.job);
    UploadOrder { image: image.image.clone(), provenance, disk_bytes: 0 }
}

/// An archive is of the files of one filesystem, and has no names of partitions in it.
fn check_form(request: &CaptureRequest) -> Result<(), Refusal> {
    let message = match request {
        CaptureRequest { tar: false, .. } => return Ok(()),
        CaptureRequest { slot: None, .. } => {
            "a tar archive is made of the files in a slot: name it with --slot"
        }
        CaptureRequest { raw: true, .. } => "save files (--tar) or every block (--raw), not both",
        CaptureRequest { name: Some(_), .. } => "--name is for partitions; a tar archive has none",
        _ => return Ok(()),
    };
    Err(Refusal::Invalid(message.into()))
}

/// What was in a slot, for the provenance of its image.
fn held(used: &SlotUse) -> String {
    let stage = match used.stage {
        SlotStage::Writing => "not complete",
        SlotStage::Deployed => "deployed",
        SlotStage::Confirmed => "which had reported in",
    };
    format!("{} ({stage})", used.image)
}

/// Partitions by their numbers, or by names that end with them.
fn partition_numbers(request: &CaptureRequest) -> Result<Vec<u16>, Refusal> {
    let mut numbers = Vec::new();
    for name in &request.partitions {
        let shown: String = name.chars().take(40).collect();
        let digits = &name[name.len() - trailing_digits(name)..];
        let number = digits.parse::<u16>().ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| {
            Refusal::Invalid(format!("{shown:?} is no partition: write sda1 or 1"))
        })?;
        if numbers.contains(&number) {
            return Err(Refusal::Invalid(format!("partition {number} is named twice")));
        }
        numbers.push(number);
    }
    if numbers.len() > MAX_PARTITIONS {
        return Err(Refusal::Invalid(format!("name at most {MAX_PARTITIONS} partitions")));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn trailing_digits(name: &str) -> usize {
    name.bytes().rev().take_while(u8::is_ascii_digit).count()
}

fn name_in_image(request: &CaptureRequest) -> Result<String, Refusal> {
    if request.tar {
        return Ok(ARCHIVE_NAME.to_owned());
    }
    let name = match (&request.name, request.slot) {
        (Some(name), _) => name.clone(),
        (None, Some(slot)) => format!("{DISK_NAME}{slot}"),
        (None, None) => DISK_NAME.to_owned(),
    };
    if is_device_name(&name) {
        return Ok(name);
    }
    let shown: String = name.chars().take(40).collect();
    let message = format!("{shown:?} cannot be the name of a disk or partition: write sda or sda1");
    Err(Refusal::Invalid(message))
}
