//! Clones: the system that runs on a node, put into a slot of others. One job: the source's task sends an
//! archive into the store, those of the others await it and deploy it, and then it is removed.
//!
//! ```text
//! source   waiting -> ... -> running -> done ──┐ all of it is in the store
//! others   awaiting-source ────────────────────┴─> waiting -> ... -> done;  all have ended: it is removed
//! ```
//!
//! What follows from the source's end is found out by looking, whenever something has happened and once a
//! second: so nothing is forgotten when the controller, or its disk, fails in between.

mod settle;

pub(super) use settle::broken_off;

use super::{
    Refusal, Service,
    core::Core,
    deploy::{
        Problems, check_adaptation, check_host_name, chosen, finish, netboot_limit_ms, not_ready,
    },
    operator::{busy, find},
    target::Target,
    view::{CloneAnswer, CloneRequest, DeployRequest, PlanView},
};
use crate::{
    images::clones,
    store::{JobSpec, NodeRecord, Work},
};
use metalcast_formats::tar::BLOCK_BYTES;
use metalcast_shared::{
    fresh::Fresh,
    id::{JobId, Revision},
    manifest::{ARCHIVE, ARCHIVE_NAME, Partition},
};

impl Service {
    /// Plans a clone, and begins it unless it is a dry run.
    ///
    /// # Errors
    /// When something that is named does not exist or will not do, a node is busy, or data would be
    /// lost that is not ours.
    pub async fn clone_system(
        &self,
        request: &CloneRequest,
        who: &str,
    ) -> Result<CloneAnswer, Refusal> {
        let mut core = self.core().await;
        let source = source(&core, &request.from)?.clone();
        let image = clones::of_job(JobId(core.last_job + 1));
        let deploy = deployment(request, &image);
        check_adaptation(&deploy.adaptation)?;
        let (kind, label) = (request.fs.unwrap_or_default(), request.label.clone());
        let partition = to_come();
        let target = Target::of_archive(&image, (request.slot, &partition), Fresh { kind, label });
        let nodes = chosen(&core, &request.nodes)?;
        check_host_name(&deploy, nodes.len())?;
        let (mut planned, mut problems) = (Vec::new(), Problems::default());
        for node in nodes {
            if node.id == source.id {
                let message = format!("{} cannot be cloned to itself; name other nodes", node.name);
                return Err(Refusal::Invalid(message));
            }
            match self.plan_node(&core, &deploy, &target, node).await {
                Ok(plan) => planned.push(plan),
                Err(refusal) => problems.add(&node.name, refusal)?,
            }
        }
        problems.check()?;
        let plan = PlanView {
            image: image.clone(),
            target: target.view(),
            adaptation: deploy.adaptation.clone(),
            nodes: planned.iter().map(|plan| plan.view.clone()).collect(),
        };
        let golden = core.is_golden(source.id);
        let mut answer = CloneAnswer { from: source.name.clone(), golden, plan, job: None };
        if request.dry_run {
            return Ok(answer);
        }
        if answer.plan.nodes.iter().any(|node| node.needs_yes) {
            return Err(Refusal::NeedsYes { plan: Box::new(answer.plan) });
        }
        let (slot, finish) = (request.slot, finish(request.report));
        let spec = JobSpec::Clone { from: source.name.clone(), slot, finish };
        let limit = netboot_limit_ms(request.timeout_seconds)?;
        let mut tasks = vec![(source, Work::Golden { image, is_saved: false })];
        tasks.extend(planned.into_iter().map(|plan| (plan.node, plan.work)));
        answer.job = Some(self.begin(&mut core, spec, tasks, limit, who).await?);
        Ok(answer)
    }
}

/// The node that is cloned. Whether its system is there to be sent is seen later.
fn source<'c>(core: &'c Core, name: &str) -> Result<&'c NodeRecord, Refusal> {
    let node = find(core, name)?;
    if !node.state.is_ready() {
        return Err(not_ready(node));
    }
    match core.job_of(node.id) {
        Some(job) => Err(busy(&node.name, job)),
        None => Ok(node),
    }
}

/// What each of the others does.
fn deployment(request: &CloneRequest, image: &Revision) -> DeployRequest {
    DeployRequest {
        image: image.to_string(),
        slot: Some(request.slot),
        nodes: request.nodes.clone(),
        disk: request.disk.clone(),
        layout: request.layout.clone(),
        hostname: request.hostname.clone(),
        report: request.report,
        adaptation: request.adaptation.clone(),
        fs: request.fs,
        label: request.label.clone(),
        timeout_seconds: request.timeout_seconds,
        yes: request.yes,
        ..DeployRequest::default()
    }
}

/// An archive of which nothing is known yet.
fn to_come() -> Partition {
    Partition {
        name: ARCHIVE_NAME.to_owned(),
        filesystem: ARCHIVE.to_owned(),
        file: String::new(),
        block_bytes: BLOCK_BYTES as u32,
        total_blocks: 0,
        used_blocks: 0,
        device_bytes: 0,
        chunk_blocks: 0,
        chunks: 0,
        head_bytes: 0,
        file_bytes: 0,
        pages: Vec::new(),
    }
}
