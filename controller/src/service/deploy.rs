//! Deployments: the plan first, then the job. Both are made under one lock, so what was shown is
//! what is done.

use super::{
    Refusal, Service,
    core::{ActiveTask, Core},
    is_host_name,
    operator::{busy, find, no_image},
    post_install::Added,
    tasks::GOLDEN,
    view::{
        BootAnswer, BootRequest, DeployAnswer, DeployRequest, NodePlanView, PlanView, ReportMode,
    },
};
use crate::{
    images::clones,
    jobs::{
        plan,
        task::{DEFAULT_NETBOOT_LIMIT_MS, Finish, Life},
    },
    store::{Change, EventRecord, JobRecord, JobSpec, NodeRecord, Noted, TaskRecord, Work},
};
use metalcast_shared::{
    fix_up::{Adaptation, FixUpStep, MAX_AUTHORIZED_KEYS, MAX_KERNEL_ARGS},
    id::{ImageRef, JobId, NodeId, Revision},
    node_set::NodeSet,
};
use std::{collections::BTreeSet, sync::Arc};

/// Most nodes in one job.
pub const MAX_NODES_PER_JOB: usize = 4096;

/// Longest time that nodes may get to netboot: a week.
const MAX_TIMEOUT_SECONDS: u64 = 7 * 24 * 3600;

/// What a deployment does to one node.
pub(super) struct Planned {
    pub(super) node: NodeRecord,
    pub(super) view: NodePlanView,
    pub(super) work: Work,
}

impl Service {
    /// Plans a deployment, and begins it unless it is a dry run.
    ///
    /// # Errors
    /// When something that is named does not exist or will not do, a node is busy, or data would be
    /// lost that is not ours.
    pub async fn deploy(
        &self,
        request: &DeployRequest,
        who: &str,
    ) -> Result<DeployAnswer, Refusal> {
        let image: ImageRef =
            request.image.parse().map_err(|error| Refusal::Invalid(format!("{error}")))?;
        clones::check(&image.image).map_err(Refusal::Invalid)?;
        let added = self.added(&image.image, &request.adaptation.without).await?;
        let mut request = request.clone();
        request.adaptation.post_install = added.as_ref().map(Added::what);
        let request = &request;
        let mut core = self.core().await;
        let revision = self.revision(&image).await?;
        // Not from memory: its files may be gone.
        let manifest = self.read_manifest(&mut core, &revision).await?;
        let manifest = manifest.ok_or_else(|| no_image(&revision))?;
        let target = self.target(request, &manifest.0).await?;
        let nodes = chosen(&core, &request.nodes)?;
        check_host_name(request, nodes.len())?;
        check_adaptation(&request.adaptation)?;
        let mut planned = Vec::with_capacity(nodes.len());
        let mut problems = Problems::default();
        for node in nodes {
            match self.plan_node(&core, request, &target, node).await {
                Ok(plan) => planned.push(plan),
                Err(refusal) => problems.add(&node.name, refusal)?,
            }
        }
        problems.check()?;
        let plan = PlanView {
            image: revision.clone(),
            target: target.view(),
            adaptation: request.adaptation.clone(),
            nodes: planned.iter().map(|plan| plan.view.clone()).collect(),
        };
        if request.dry_run {
            return Ok(DeployAnswer { plan, job: None });
        }
        if plan.nodes.iter().any(|node| node.needs_yes) {
            return Err(Refusal::NeedsYes { plan: Box::new(plan) });
        }
        let spec = target.spec(revision, finish(request.report));
        let limit = netboot_limit_ms(request.timeout_seconds)?;
        let tasks = planned.into_iter().map(|plan| (plan.node, plan.work)).collect();
        if let Some(added) = added {
            self.keep_added(&core, added).await?;
        }
        let job = self.begin(&mut core, spec, tasks, limit, who).await?;
        Ok(DeployAnswer { plan, job: Some(job) })
    }

    /// Begins to start another slot of nodes.
    ///
    /// # Errors
    /// When a node does not exist, is busy, or has nothing of ours in the slot.
    pub async fn boot_slot(&self, request: &BootRequest, who: &str) -> Result<BootAnswer, Refusal> {
        let mut core = self.core().await;
        let mut tasks = Vec::new();
        let mut problems = Problems::default();
        for node in chosen(&core, &request.nodes)? {
            match self.plan_selection(&core, request.slot, node).await {
                Ok(work) => tasks.push((node.clone(), work)),
                Err(refusal) => problems.add(&node.name, refusal)?,
            }
        }
        problems.check()?;
        let spec = JobSpec::Boot { slot: request.slot };
        let limit = netboot_limit_ms(request.timeout_seconds)?;
        let job = self.begin(&mut core, spec, tasks, limit, who).await?;
        Ok(BootAnswer { job })
    }

    async fn revision(&self, image: &ImageRef) -> Result<Revision, Refusal> {
        if let Some(number) = image.number {
            return Ok(Revision { image: image.image.clone(), number });
        }
        let (catalog, name) = (Arc::clone(&self.shared.parts.catalog), image.image.clone());
        let latest = tokio::task::spawn_blocking(move || catalog.latest(&name))
            .await
            .map_err(anyhow::Error::from)??;
        latest.ok_or_else(|| {
            let image = &image.image;
            Refusal::NotFound(format!(
                "there is no image {image}; `metalcast image list` shows all"
            ))
        })
    }

    async fn plan_selection(
        &self,
        core: &Core,
        slot: u16,
        node: &NodeRecord,
    ) -> Result<Work, Refusal> {
        let inventory = usable(core, node)?;
        let slots = self.store().slots(node.id).await?;
        let (_, disk, used) = plan::selection(inventory, &slots, slot).map_err(will_not_do)?;
        Ok(Work::SelectSlot { disk, layout: used.layout, slot })
    }

    pub(super) async fn begin(
        &self,
        core: &mut Core,
        spec: JobSpec,
        tasks: Vec<(NodeRecord, Work)>,
        netboot_limit_ms: i64,
        who: &str,
    ) -> Result<JobId, Refusal> {
        let (id, now) = (JobId(core.last_job + 1), self.now());
        let nodes: NodeSet = tasks.iter().map(|(node, _)| &node.name).collect();
        let what = spec.to_string();
        tracing::info!(job = %id, who, %nodes, "{what}");
        let mut changes = vec![
            self.audit(who, format!("job {id}: {what} of {nodes}")),
            Change::Job(JobRecord {
                id,
                spec,
                created: now,
                created_by: who.into(),
                netboot_limit_ms,
            }),
        ];
        let source = tasks.iter().find(|(_, work)| work.is_golden()).map(|(node, _)| node.id);
        let records: Vec<TaskRecord> = tasks
            .into_iter()
            .map(|(node, work)| TaskRecord {
                job: id,
                node: node.id,
                node_name: node.name,
                life: match source {
                    Some(source) if source != node.id => Life::awaiting(source, now),
                    Some(_) | None => Life::new(now),
                },
                work,
                changed: now,
            })
            .collect();
        for record in &records {
            changes.push(Change::Task(Box::new(record.clone())));
            changes.push(Change::Event(EventRecord {
                seq: 0,
                job: id,
                node: record.node,
                generation: 0,
                number: None,
                at: now,
                what: Noted::State { name: record.life.state.name().to_owned(), why: None },
            }));
        }
        self.store().apply(&changes).await?;
        core.last_job = id.0;
        let nodes: Vec<NodeId> = records.iter().map(|record| record.node).collect();
        for record in records {
            core.tasks.insert(record.node, ActiveTask::new(record, netboot_limit_ms, 0));
        }
        self.publish(core);
        for node in nodes {
            self.wake(core, node).await?;
        }
        Ok(id)
    }
}

/// Gathers what is wrong with each node, so that an operator sees all of it at once.
#[derive(Default)]
pub(super) struct Problems {
    code: Option<&'static str>,
    messages: Vec<String>,
}

impl Problems {
    pub(super) fn add(&mut self, node: &str, refusal: Refusal) -> Result<(), Refusal> {
        match refusal {
            Refusal::Conflict { code, message } => {
                self.code.get_or_insert(code);
                let named = message.starts_with(node);
                self.messages.push(if named { message } else { format!("{node}: {message}") });
                Ok(())
            }
            Refusal::Invalid(_)
            | Refusal::NotFound(_)
            | Refusal::NeedsYes { .. }
            | Refusal::Internal(_) => Err(refusal),
        }
    }

    pub(super) fn check(self) -> Result<(), Refusal> {
        match self.code {
            Some(code) => Err(Refusal::Conflict { code, message: self.messages.join("; ") }),
            None => Ok(()),
        }
    }
}

pub(super) fn will_not_do(error: plan::PlanError) -> Refusal {
    let message = format!("{:#}", anyhow::Error::from(error));
    Refusal::Conflict { code: "disk-will-not-do", message }
}

pub(super) fn not_ready(node: &NodeRecord) -> Refusal {
    let (name, state) = (&node.name, node.state.name());
    let message = format!("{name} is {state}: approve it with `metalcast node approve {name}`");
    Refusal::Conflict { code: "node-not-approved", message }
}

pub(super) fn usable<'n>(
    core: &Core,
    node: &'n NodeRecord,
) -> Result<&'n metalcast_shared::inventory::Inventory, Refusal> {
    let name = &node.name;
    if !node.state.is_ready() {
        return Err(not_ready(node));
    }
    if let Some(job) = core.job_of(node.id) {
        return Err(busy(name, job));
    }
    if core.is_golden(node.id) {
        let message = format!(
            "{name} runs its own system and offers it to be cloned, it does no other work: end {GOLDEN} on it"
        );
        return Err(Refusal::Conflict { code: "node-is-golden", message });
    }
    node.inventory.as_ref().ok_or_else(|| {
        let message = format!("{name} has not reported its hardware yet: netboot it once");
        Refusal::Conflict { code: "node-not-registered", message }
    })
}

pub(super) fn chosen<'c>(core: &'c Core, names: &[String]) -> Result<Vec<&'c NodeRecord>, Refusal> {
    if names.is_empty() || names.len() > MAX_NODES_PER_JOB {
        return Err(Refusal::Invalid(format!("name 1 to {MAX_NODES_PER_JOB} nodes")));
    }
    let mut seen = BTreeSet::new();
    let mut nodes = Vec::with_capacity(names.len());
    for name in names {
        let node = find(core, name)?;
        if seen.insert(node.id) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

pub(super) fn check_host_name(request: &DeployRequest, nodes: usize) -> Result<(), Refusal> {
    let Some(name) = &request.hostname else { return Ok(()) };
    if nodes > 1 {
        return Err(Refusal::Invalid(
            "--hostname is for one node; leave it out for several".into(),
        ));
    }
    if !is_host_name(name) {
        return Err(Refusal::Invalid(format!(
            "{name:?} cannot be a host name: write 1 to 63 of a-z, 0-9 and '-'"
        )));
    }
    Ok(())
}

/// What is asked for and left out at once was not meant.
pub(super) fn check_adaptation(adaptation: &Adaptation) -> Result<(), Refusal> {
    let Adaptation { without, authorized_keys, kernel_args, .. } = adaptation;
    for (step, option, asked, most) in [
        (
            FixUpStep::AuthorizedKeys,
            "--authorized-keys",
            authorized_keys.len(),
            MAX_AUTHORIZED_KEYS,
        ),
        (FixUpStep::BootConfig, "--kernel-arg", kernel_args.len(), MAX_KERNEL_ARGS),
    ] {
        if asked > most {
            return Err(Refusal::Invalid(format!("{asked} times {option}; at most {most} go")));
        }
        if asked > 0 && without.contains(&step) {
            let message = format!("{option} is done by {step}, which --without leaves out");
            return Err(Refusal::Invalid(message));
        }
    }
    Ok(())
}

pub(super) fn finish(report: ReportMode) -> Finish {
    match report {
        ReportMode::Unit => Finish::Report,
        ReportMode::None => Finish::LocalBoot,
    }
}

pub(super) fn netboot_limit_ms(seconds: Option<u64>) -> Result<i64, Refusal> {
    let Some(seconds) = seconds else { return Ok(DEFAULT_NETBOOT_LIMIT_MS) };
    if !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds) {
        return Err(Refusal::Invalid(format!("--timeout must be 1 to {MAX_TIMEOUT_SECONDS} s")));
    }
    i64::try_from(seconds * 1000).map_err(|error| Refusal::Internal(error.into()))
}
