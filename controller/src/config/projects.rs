//! What is set for projects.

use super::file::{Wrong, wrong};
use metalcast_shared::id::ImageName;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, num::NonZeroU64};

const MIB: u64 = 1 << 20;

/// A project's keys.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectKeys {
    name: String,
    quota_mib: NonZeroU64,
}

/// The quotas in bytes by project.
pub(super) fn check(projects: Vec<ProjectKeys>) -> Result<BTreeMap<String, u64>, Wrong> {
    let mut quotas = BTreeMap::new();
    for (position, ProjectKeys { name, quota_mib }) in projects.into_iter().enumerate() {
        let key = |field: &str| format!("projects[{position}].{field}");
        if format!("{name}/x").parse::<ImageName>().is_err() {
            let what = "must be what stands before the / of an image's name, such as lab";
            return wrong(&key("name"), what);
        }
        let Some(bytes) = quota_mib.get().checked_mul(MIB) else {
            return wrong(&key("quota_mib"), "is more than any disk has");
        };
        if quotas.insert(name.clone(), bytes).is_some() {
            return wrong(&key("name"), format!("{name} is there twice"));
        }
    }
    Ok(quotas)
}

/// The keys that give these quotas.
pub(super) fn keys(quotas: &BTreeMap<String, u64>) -> Vec<ProjectKeys> {
    let key = |(name, bytes): (&String, &u64)| {
        Some(ProjectKeys { name: name.clone(), quota_mib: NonZeroU64::new(bytes / MIB)? })
    };
    quotas.iter().filter_map(key).collect()
}
