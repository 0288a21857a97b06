//! `boot-config`: what the slot's GRUB tells its kernel about root and hibernation.
//!
//! The initramfs in the image may name the swap of the disk it came from and would wait half a minute
//! for it; `resume=` on the command line overrides that.

use super::Ids;
use crate::disk::Root;

/// GRUB's menus, where distributions have them.
const MENUS: [&str; 2] = ["boot/grub/grub.cfg", "boot/grub2/grub.cfg"];

/// From which new menus are made.
const DEFAULTS: &str = "etc/default/grub";

/// From which Debian makes new initramfs.
const RESUME: &str = "etc/initramfs-tools/conf.d/resume";

pub(super) fn run(root: &Root, ids: &Ids) -> anyhow::Result<Vec<String>> {
    let mut changes = Vec::new();
    for file in MENUS {
        change(root, file, &mut changes, |text| menu(text, ids))?;
    }
    change(root, DEFAULTS, &mut changes, |text| defaults(text, ids))?;
    change(root, RESUME, &mut changes, |_| match &ids.swap_uuid {
        Some(uuid) => format!("RESUME=UUID={uuid}\n"),
        None => "RESUME=none\n".to_owned(),
    })?;
    Ok(changes)
}

fn change(
    root: &Root,
    file: &str,
    changes: &mut Vec<String>,
    new: impl FnOnce(&str) -> String,
) -> anyhow::Result<()> {
    let Some(text) = root.read_text(file)? else { return Ok(()) };
    let new = new(&text);
    if new == text {
        return Ok(());
    }
    let lines = new.lines().zip(text.lines()).filter(|(new, old)| new != old).count();
    root.write(file, new.as_bytes())?;
    changes.push(format!("{lines} lines of /{file}"));
    Ok(())
}

/// Root by the slot's own name, hibernation by this disk's swap.
fn menu(text: &str, ids: &Ids) -> String {
    let text = with_new_uuid(text, ids);
    let lines = text.split('\n').map(|line| match line.split_whitespace().next() {
        Some("linux" | "linux16" | "linuxefi") => {
            format!("{} {}", command_line(line, ids), resume(ids))
        }
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn command_line(line: &str, ids: &Ids) -> String {
    let words = line.split(' ').filter(|word| !is_resume(word)).map(|word| {
        let Some(value) = word.strip_prefix("root=") else { return word.to_owned() };
        let right = format!("UUID={}", ids.root_uuid);
        // PARTUUID is understood with and without an initramfs; what is right stays.
        match value.eq_ignore_ascii_case(&right) && !ids.ambiguous {
            true => word.to_owned(),
            false => format!("root=PARTUUID={}", ids.root_partuuid),
        }
    });
    words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// Only a setting that is there is changed: new menus find the swap by themselves.
fn defaults(text: &str, ids: &Ids) -> String {
    let text = with_new_uuid(text, ids);
    let lines = text.split('\n').map(|line| {
        let Some((name, value)) = line.split_once('=') else { return line.to_owned() };
        if !name.starts_with("GRUB_CMDLINE_LINUX") || !value.contains("resume") {
            return line.to_owned();
        }
        let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''));
        let inner = value.trim_end().trim_matches(['"', '\'']);
        let words = inner.split(' ').filter(|word| !is_resume(word) && !word.is_empty());
        let resume = resume(ids);
        let words: Vec<&str> = words.chain([resume.as_str()]).collect();
        let quote = quote.unwrap_or('"');
        format!("{name}={quote}{}{quote}", words.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn is_resume(word: &str) -> bool {
    word == "noresume" || word.starts_with("resume=") || word.starts_with("resume_offset=")
}

fn resume(ids: &Ids) -> String {
    match &ids.swap_uuid {
        Some(uuid) => format!("resume=UUID={uuid}"),
        None => "noresume".to_owned(),
    }
}

fn with_new_uuid(text: &str, ids: &Ids) -> String {
    match &ids.image_uuid {
        Some(old) => text.replace(old.as_str(), &ids.root_uuid),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(swap: Option<&str>) -> Ids {
        Ids {
            root_uuid: "aaaa".into(),
            image_uuid: None,
            ambiguous: false,
            root_partuuid: "1234abcd-05".into(),
            swap_uuid: swap.map(Into::into),
            known: Vec::new(),
        }
    }

    #[test]
    fn the_kernel_is_told_root_and_swap_of_this_disk() {
        let check = |ids: &Ids, before: &str, after: &str| assert_eq!(menu(before, ids), after);
        let swap = ids(Some("5555"));
        check(
            &swap,
            "\tlinux\t/vmlinuz root=UUID=aaaa ro resume=/dev/sda2 quiet\n\tinitrd\t/i",
            "\tlinux\t/vmlinuz root=UUID=aaaa ro quiet resume=UUID=5555\n\tinitrd\t/i",
        );
        check(
            &ids(None),
            "linux /vmlinuz root=/dev/sda1 ro",
            "linux /vmlinuz root=PARTUUID=1234abcd-05 ro noresume",
        );
        let restamped = Ids { image_uuid: Some("0000".into()), ..ids(None) };
        check(
            &restamped,
            "search --fs-uuid --set=root 0000\nlinux /v root=UUID=0000",
            "search --fs-uuid --set=root aaaa\nlinux /v root=UUID=aaaa noresume",
        );
        check(&swap, "echo linux root=/dev/sda1\n", "echo linux root=/dev/sda1\n");
        let once = menu("linux /v root=/dev/sda1", &swap);
        assert_eq!(menu(&once, &swap), once, "a second time changes nothing");
    }

    #[test]
    fn settings_for_new_menus_follow_where_they_speak_of_it() {
        let swap = ids(Some("5555"));
        assert_eq!(
            defaults("GRUB_CMDLINE_LINUX=\"quiet resume=UUID=9\"\nGRUB_TIMEOUT=5\n", &swap),
            "GRUB_CMDLINE_LINUX=\"quiet resume=UUID=5555\"\nGRUB_TIMEOUT=5\n"
        );
        let same = "GRUB_CMDLINE_LINUX=\"console=ttyS0\"\n";
        assert_eq!(defaults(same, &swap), same);
    }
}
