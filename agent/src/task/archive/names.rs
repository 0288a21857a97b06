//! Numbers of users and groups, by the system in the archive: access control lists may name them.

use crate::disk::Root;
use metalcast_formats::tar;
use std::collections::HashMap;

/// Of both kinds.
pub(super) struct Names {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Names {
    /// Those that a system has files of; without them there are none.
    pub(super) fn of(root: &Root) -> Self {
        Self { users: read(root, "etc/passwd"), groups: read(root, "etc/group") }
    }

    /// None at all.
    pub(super) fn none() -> Self {
        Self { users: HashMap::new(), groups: HashMap::new() }
    }
}

impl tar::Names for Names {
    fn user(&self, name: &str) -> Option<u32> {
        self.users.get(name).copied()
    }

    fn group(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied()
    }
}

/// Lines `name:password:number:...`
fn read(root: &Root, file: &str) -> HashMap<String, u32> {
    let text = root.read(file).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((name, fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
