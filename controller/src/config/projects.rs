//! What is set for projects.

use super::{
    Project,
    file::{Wrong, absolute, wrong},
};
use crate::images::clones;
use metalcast_shared::id::ImageName;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, num::NonZeroU64, path::PathBuf};

const MIB: u64 = 1 << 20;

/// A project's keys.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectKeys {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_mib: Option<NonZeroU64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    post_install: Option<PathBuf>,
}

/// The projects by name.
pub(super) fn check(keys: Vec<ProjectKeys>) -> Result<BTreeMap<String, Project>, Wrong> {
    let mut projects = BTreeMap::new();
    for (position, ProjectKeys { name, quota_mib, post_install }) in keys.into_iter().enumerate() {
        let key = |field: &str| format!("projects[{position}].{field}");
        if format!("{name}/x").parse::<ImageName>().is_err() {
            let what = "must be what stands before the / of an image's name, such as lab";
            return wrong(&key("name"), what);
        }
        if name == clones::PROJECT {
            return wrong(&key("name"), "is that of systems that are cloned; it cannot be set up");
        }
        let quota_bytes = quota_mib.map(|mib| mib.get().checked_mul(MIB));
        if quota_bytes == Some(None) {
            return wrong(&key("quota_mib"), "is more than any disk has");
        }
        if let Some(dir) = &post_install {
            absolute(&key("post_install"), dir)?;
        }
        let project = Project { quota_bytes: quota_bytes.flatten(), post_install };
        if projects.insert(name.clone(), project).is_some() {
            return wrong(&key("name"), format!("{name} is there twice"));
        }
    }
    Ok(projects)
}

/// The keys that give these projects.
pub(super) fn keys(projects: &BTreeMap<String, Project>) -> Vec<ProjectKeys> {
    let key = |(name, project): (&String, &Project)| ProjectKeys {
        name: name.clone(),
        quota_mib: project.quota_bytes.and_then(|bytes| NonZeroU64::new(bytes / MIB)),
        post_install: project.post_install.clone(),
    };
    projects.iter().map(key).collect()
}
