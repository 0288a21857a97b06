//! What the project of an image adds to the systems that are deployed from it.

use super::{Refusal, Service, core::Core};
use crate::{causes::with_causes, post_install};
use metalcast_shared::{
    fix_up::{Adaptation, FixUpStep},
    hash::Hash,
    id::ImageName,
    post_install::PostInstall,
};
use std::collections::BTreeSet;

/// Both steps that take something of it.
const STEPS: [FixUpStep; 2] = [FixUpStep::ProjectFiles, FixUpStep::ProjectScript];

/// What was read of a project's directory for a deployment.
pub(super) struct Added {
    what: PostInstall,
    packed: Vec<u8>,
}

impl Service {
    /// Reads what the image's project adds as it is now; `None` if there is nothing, or none of it is
    /// wanted.
    pub(super) async fn added(
        &self,
        image: &ImageName,
        without: &[FixUpStep],
    ) -> Result<Option<Added>, Refusal> {
        let project = self.settings().projects.get(image.project());
        let dir = project.and_then(|project| project.post_install.clone());
        let Some(dir) = dir.filter(|_| STEPS.iter().any(|step| !without.contains(step))) else {
            return Ok(None);
        };
        let packing = tokio::task::spawn_blocking(move || post_install::pack(&dir));
        let (what, packed) = packing.await.map_err(anyhow::Error::from)?.map_err(|error| {
            Refusal::Conflict {
                code: "post-install-will-not-do",
                message: format!(
                    "what project {} adds (post_install in the configuration): {}; leave it out with --without \
                     project-files,project-script",
                    image.project(),
                    with_causes(&error)
                ),
            }
        })?;
        Ok(Some(Added { what, packed }))
    }

    /// Keeps it for the agents of a job that begins, and nothing that no job needs.
    pub(super) async fn keep_added(&self, core: &Core, added: Added) -> Result<(), Refusal> {
        let of_task = |adaptation: &Adaptation| Some(adaptation.post_install.as_ref()?.hash);
        let needed: BTreeSet<Hash> = core
            .tasks
            .values()
            .filter_map(|task| task.record.work.adaptation().and_then(of_task))
            .collect();
        let shelf = self.settings().shelf.clone();
        let putting =
            tokio::task::spawn_blocking(move || shelf.put(added.what.hash, &added.packed, &needed));
        let put = putting.await.map_err(anyhow::Error::from)?;
        put.map_err(|error| Refusal::Internal(error.into()))
    }
}

impl Added {
    /// As a task names it.
    pub(super) fn what(&self) -> PostInstall {
        self.what.clone()
    }
}
