//! `fstab`: root and swap are this slot's and this disk's; what is not on this node may be missing.

use super::Ids;
use crate::disk::Root;

const FILE: &str = "etc/fstab";

pub(super) fn run(root: &Root, ids: &Ids) -> anyhow::Result<Vec<String>> {
    let mut changes = Vec::new();
    let there = root.edit(FILE, |text| {
        let (new, made) = rewrite(text, ids);
        changes = made;
        new
    })?;
    Ok(there.map_or(vec!["there is none".into()], |_| changes))
}

/// The new text, and what was changed in it.
fn rewrite(text: &str, ids: &Ids) -> (String, Vec<String>) {
    let mut changes = Vec::new();
    let mut has_swap = false;
    let mut lines = Vec::new();
    let old_root = old_root(text);
    for line in text.split('\n') {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [source, mount, kind, ..] = fields[..] else {
            lines.push(line.to_owned());
            continue;
        };
        let options = fields.get(3).copied().unwrap_or("");
        let new = match () {
            () if source.starts_with('#') || !is_device(source) => line.to_owned(),
            () if kind == "swap" => {
                let first = !std::mem::replace(&mut has_swap, true);
                match ids.swap_uuid.as_ref().filter(|_| first) {
                    Some(uuid) => line.replacen(source, &format!("UUID={uuid}"), 1),
                    None => format!("# {line}"),
                }
            }
            () if Some(source) == old_root || names_root(source, ids) => {
                as_made(&line.replacen(source, &ids.root(), 1), mount, kind, ids)
            }
            () if is_kernel_name(source) => format!("# {line}"),
            () if is_known(source, ids) || may_be_missing(options) => line.to_owned(),
            () => with_nofail(line, options),
        };
        if new != line {
            changes.push(format!("{source} on {mount}: {}", describe(&new, source)));
        }
        lines.push(new);
    }
    (lines.join("\n"), changes)
}

/// The root's line with the kind that its filesystem has now: options of another are not understood.
fn as_made(line: &str, mount: &str, kind: &str, ids: &Ids) -> String {
    match ids.fresh {
        Some(fresh) if fresh.name() != kind && kind != "auto" => {
            let mut fields = line.split_whitespace();
            let source = fields.next().unwrap_or_default();
            let rest: Vec<&str> = fields.skip(3).collect();
            format!("{source} {mount} {fresh} defaults {}", rest.join(" ")).trim_end().to_owned()
        }
        Some(_) | None => line.to_owned(),
    }
}

fn describe(new: &str, old_source: &str) -> String {
    match new.split_whitespace().next() {
        Some("#") => "taken out, it is not what was meant on this node".into(),
        Some(source) if source == old_source => "may be missing (nofail)".into(),
        Some(source) => format!("is {source} now"),
        None => String::new(),
    }
}

fn is_device(source: &str) -> bool {
    ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/"].iter().any(|p| source.starts_with(p))
}

/// By what the image has its root; it may have other mounts of it, such as subvolumes.
fn old_root(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let source = fields.next().filter(|source| is_device(source))?;
        (fields.next() == Some("/")).then_some(source)
    })
}

/// A name that the kernel gives in the order of discovery: whatever has it on this node, such as the
/// disk's own boot partition, is not what was meant.
fn is_kernel_name(source: &str) -> bool {
    let disks = ["sd", "hd", "vd", "xvd", "nvme", "mmcblk"];
    let name = source.strip_prefix("/dev/");
    name.is_some_and(|name| disks.iter().any(|disk| name.starts_with(disk)))
}

fn names_root(source: &str, ids: &Ids) -> bool {
    let uuid = source.strip_prefix("UUID=").map(|uuid| uuid.trim_matches('"'));
    uuid.is_some_and(|uuid| {
        uuid.eq_ignore_ascii_case(&ids.root_uuid)
            || ids.image_uuid.as_ref().is_some_and(|old| uuid.eq_ignore_ascii_case(old))
    })
}

fn is_known(source: &str, ids: &Ids) -> bool {
    let uuid = source.strip_prefix("UUID=").map(|uuid| uuid.trim_matches('"'));
    uuid.is_some_and(|uuid| ids.known.iter().any(|known| uuid.eq_ignore_ascii_case(known)))
}

fn may_be_missing(options: &str) -> bool {
    options.split(',').any(|option| matches!(option, "nofail" | "noauto"))
}

/// systemd ends in its emergency mode where a mount is missing that may not be.
fn with_nofail(line: &str, options: &str) -> String {
    match options {
        "" => format!("{line} defaults,nofail"),
        options => {
            // The fourth field; earlier ones may contain the same text.
            let mut rest = line;
            let mut at = 0;
            for _ in 0..3 {
                let start = rest.len() - rest.trim_start().len();
                let field = rest[start..].find(char::is_whitespace).unwrap_or(rest.len() - start);
                at += start + field;
                rest = &rest[start + field..];
            }
            let start = at + (rest.len() - rest.trim_start().len());
            let end = start + options.len();
            format!("{}{options},nofail{}", &line[..start], &line[end..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalcast_shared::fresh::FreshKind;

    fn ids() -> Ids {
        Ids {
            root_uuid: "aaaa-new".into(),
            image_uuid: Some("AAAA-old".into()),
            root_partuuid: "1234abcd-05".into(),
            swap_uuid: Some("5555".into()),
            known: vec!["aaaa-new".into(), "5555".into(), "dddd".into()],
            fresh: None,
        }
    }

    fn check(ids: &Ids, before: &str, after: &str) {
        assert_eq!(rewrite(before, ids).0, after);
    }

    #[test]
    fn a_root_that_was_made_as_another_kind_has_no_options_of_the_old_one() {
        let ids = Ids { fresh: Some(FreshKind::Xfs), ..ids() };
        check(
            &ids,
            "UUID=aaaa-old / ext4 errors=remount-ro,noatime 0 1\n",
            "UUID=aaaa-new / xfs defaults 0 1\n",
        );
        check(&ids, "UUID=aaaa-old / xfs noatime 0 1\n", "UUID=aaaa-new / xfs noatime 0 1\n");
        check(&ids, "UUID=aaaa-old / auto noatime\n", "UUID=aaaa-new / auto noatime\n");
    }

    #[test]
    fn root_and_swap_are_the_disks_own() {
        check(&ids(), "UUID=aaaa-old / ext4 defaults 0 1\n", "UUID=aaaa-new / ext4 defaults 0 1\n");
        check(&ids(), "/dev/sda1\t/\text4", "UUID=aaaa-new\t/\text4");
        check(&ids(), "UUID=aaaa-old /home btrfs subvol=h", "UUID=aaaa-new /home btrfs subvol=h");
        check(&ids(), "UUID=x none swap sw 0 0", "UUID=5555 none swap sw 0 0");
        check(&ids(), "/swapfile none swap sw 0 0", "/swapfile none swap sw 0 0");
        check(
            &ids(),
            "/dev/sda2 none swap sw\n/dev/sda3 none swap sw",
            "UUID=5555 none swap sw\n# /dev/sda3 none swap sw",
        );
        let none = Ids { swap_uuid: None, ..ids() };
        check(&none, "UUID=x none swap sw 0 0", "# UUID=x none swap sw 0 0");
        check(&ids(), "UUID=aaaa-old / xfs", "UUID=aaaa-new / xfs");
    }

    #[test]
    fn names_in_the_order_of_discovery_mount_nothing_else() {
        check(
            &ids(),
            "/dev/sda2 / btrfs subvol=@\n/dev/sda2 /home btrfs subvol=@home\n/dev/sda1 /boot ext4",
            "UUID=aaaa-new / btrfs subvol=@\nUUID=aaaa-new /home btrfs subvol=@home\n\
             # /dev/sda1 /boot ext4",
        );
        check(&ids(), "/dev/nvme0n1p1 /boot vfat nofail", "# /dev/nvme0n1p1 /boot vfat nofail");
        check(
            &ids(),
            "# /dev/sda1 / old\n/dev/sda1 /x ext4",
            "# /dev/sda1 / old\n# /dev/sda1 /x ext4",
        );
        let (_, changes) = rewrite("/dev/sda1 /boot ext4", &ids());
        assert_eq!(
            changes,
            ["/dev/sda1 on /boot: taken out, it is not what was meant on this node"]
        );
    }

    #[test]
    fn what_is_not_on_the_node_may_be_missing() {
        check(
            &ids(),
            "UUID=eeee /srv ext4 defaults 0 2",
            "UUID=eeee /srv ext4 defaults,nofail 0 2",
        );
        check(&ids(), "UUID=ext4 ext4 ext4 ext4 0 2", "UUID=ext4 ext4 ext4 ext4,nofail 0 2");
        check(&ids(), " LABEL=x /mnt  auto", " LABEL=x /mnt  auto defaults,nofail");
        for same in [
            "UUID=DDDD /srv ext4 defaults 0 2",
            "LABEL=x /srv ext4 ro,noauto",
            "tmpfs /tmp tmpfs size=1g",
            "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0",
            "# UUID=eeee /srv ext4 defaults",
            "proc /proc proc",
            "garbage",
            "",
        ] {
            check(&ids(), same, same);
        }
    }
}
