//! `machine-id` and `hostname`: what must differ between copies of one system.

use crate::disk::Root;
use anyhow::ensure;

const MACHINE_ID: &str = "etc/machine-id";
const DBUS_MACHINE_ID: &str = "var/lib/dbus/machine-id";
const HOSTNAME: &str = "etc/hostname";
const HOSTS: &str = "etc/hosts";

/// Debian's own address for a host's name (Debian reference, chapter 5).
const OWN_ADDRESS: &str = "127.0.1.1";

/// Longest host name that Linux takes, in bytes (`HOST_NAME_MAX`).
const MAX_NAME_BYTES: usize = 64;

/// Empties the machine id: systemd makes a new one at the next start. Not `uninitialized`, which
/// would also reset which units are enabled (machine-id(5)).
pub(super) fn machine_id(root: &Root) -> anyhow::Result<Vec<String>> {
    let mut changes = Vec::new();
    if root.read(MACHINE_ID)?.is_none_or(|id| !id.is_empty()) {
        root.create(MACHINE_ID, b"", 0o444)?;
        changes.push("emptied, the system makes its own at its first start".into());
    }
    // Where it is a link to the other one there is nothing to do.
    if root.is_plain_file(DBUS_MACHINE_ID) {
        root.remove(DBUS_MACHINE_ID)?;
        changes.push(format!("/{DBUS_MACHINE_ID} removed"));
    }
    Ok(changes)
}

/// Sets the host name.
pub(super) fn hostname(root: &Root, name: &str) -> anyhow::Result<Vec<String>> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    ensure!(
        (1..=MAX_NAME_BYTES).contains(&name.len())
            && name.chars().all(valid)
            && !name.starts_with(['-', '.']),
        "{name:?} is not a host name"
    );
    let old = root.read(HOSTNAME)?.unwrap_or_default();
    let old = String::from_utf8_lossy(&old).trim().to_owned();
    let mut changes = Vec::new();
    if old != name {
        root.create(HOSTNAME, format!("{name}\n").as_bytes(), 0o644)?;
        changes.push(format!("{name} (was {old:?})"));
    }
    let changed = root.edit(HOSTS, |text| hosts(text, name))?;
    if changed.is_none() {
        root.create(HOSTS, hosts("127.0.0.1\tlocalhost\n", name).as_bytes(), 0o644)?;
    }
    if changed != Some(false) {
        changes.push(format!("{OWN_ADDRESS} in /{HOSTS}"));
    }
    Ok(changes)
}

fn hosts(text: &str, name: &str) -> String {
    let own = match name.split_once('.') {
        Some((short, _)) => format!("{OWN_ADDRESS}\t{name} {short}"),
        None => format!("{OWN_ADDRESS}\t{name}"),
    };
    let is_own = |line: &str| line.split_whitespace().next() == Some(OWN_ADDRESS);
    let mut lines: Vec<String> = Vec::new();
    let mut placed = false;
    for line in text.lines() {
        match (is_own(line), placed) {
            (true, true) => {}
            (true, false) => {
                lines.push(own.clone());
                placed = true;
            }
            (false, _) => lines.push(line.to_owned()),
        }
    }
    if !placed {
        let behind_local = lines.iter().position(|line| line.starts_with("127.0.0.1"));
        lines.insert(behind_local.map_or(0, |at| at + 1), own);
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_this_node_once() {
        let check = |before: &str, after: &str| assert_eq!(hosts(before, "node1"), after);
        check("127.0.0.1 localhost\n", "127.0.0.1 localhost\n127.0.1.1\tnode1\n");
        check("127.0.1.1 old\n::1 x\n127.0.1.1 twice\n", "127.0.1.1\tnode1\n::1 x\n");
        check("", "127.0.1.1\tnode1\n");
        assert_eq!(hosts("", "n.lab.net"), "127.0.1.1\tn.lab.net n\n");
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for name in ["", "a b", "a\nb", "-a", "../x", &"a".repeat(65)] {
            assert!(hostname(&root, name).is_err(), "{name:?}");
        }
        assert_eq!(hostname(&root, "node1").unwrap().len(), 2);
        assert!(hostname(&root, "node1").unwrap().is_empty(), "a second time changes nothing");
        assert_eq!(machine_id(&root).unwrap().len(), 1);
        assert!(machine_id(&root).unwrap().is_empty());
    }
}
