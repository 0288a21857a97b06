//! `boot-config`: what the slot's GRUB tells its kernel about root and hibernation.
//!
//! The initramfs in the image may name the swap of the disk it came from and would wait half a minute
//! for it; `resume=` on the command line overrides that.

use super::Ids;
use crate::disk::Root;
use anyhow::ensure;
use metalcast_shared::fix_up::KernelArg;

/// GRUB's menus, where distributions have them.
const MENUS: [&str; 2] = ["boot/grub/grub.cfg", "boot/grub2/grub.cfg"];

/// From which new menus are made.
const DEFAULTS: &str = "etc/default/grub";
/// Debian's grub-mkconfig reads what is here (`*.cfg`) after that.
const DEFAULTS_DIR: &str = "etc/default/grub.d";

/// From which Debian makes new initramfs; without [`RESUME`] they wait for the swap of the machine
/// that they were made on.
const INITRAMFS_TOOLS: &str = "etc/initramfs-tools";
const RESUME: &str = "etc/initramfs-tools/conf.d/resume";

/// With it new menus start without an initramfs first, as Ubuntu's cloud images have it.
const FORCE_PARTUUID: &str = "GRUB_FORCE_PARTUUID";

/// Setting of [`DEFAULTS`] that every entry of a new menu gets.
const COMMAND_LINE: &str = "GRUB_CMDLINE_LINUX";

pub(super) fn run(root: &Root, ids: &Ids, more: &[KernelArg]) -> anyhow::Result<Vec<String>> {
    let mut changes = Vec::new();
    for file in MENUS {
        let mut has_bls = false;
        change(root, file, &mut changes, |text| {
            has_bls = text.split_whitespace().any(|word| word == "blscfg");
            menu(text, ids, more)
        })?;
        ensure!(
            !has_bls,
            "/{file} finds its kernels by blscfg, which only Fedora's own GRUB can do: make it with \
             GRUB_ENABLE_BLSCFG=false before saving the image"
        );
    }
    change(root, DEFAULTS, &mut changes, |text| with_more(&defaults(text, ids), more))?;
    for name in root.files(DEFAULTS_DIR)?.iter().filter(|name| name.ends_with(".cfg")) {
        let file = format!("{DEFAULTS_DIR}/{name}");
        change(root, &file, &mut changes, |text| defaults(text, ids))?;
    }
    if root.exists(INITRAMFS_TOOLS) {
        let text = match &ids.swap_uuid {
            Some(uuid) => format!("RESUME=UUID={uuid}\n"),
            None => "RESUME=none\n".to_owned(),
        };
        if root.read(RESUME)?.is_none_or(|old| old != text.as_bytes()) {
            root.create(RESUME, text.as_bytes(), 0o644)?;
            changes.push(format!("/{RESUME}"));
        }
    }
    Ok(changes)
}

/// Only adds words to the kernel's command line: on a disk that is deployed as a whole everything else
/// is right as it is.
pub(super) fn add(root: &Root, more: &[KernelArg]) -> anyhow::Result<Vec<String>> {
    let mut changes = Vec::new();
    if more.is_empty() {
        return Ok(changes);
    }
    for file in MENUS {
        change(root, file, &mut changes, |text| with_words(text, more))?;
    }
    ensure!(
        !changes.is_empty(),
        "no menu in {} starts a kernel, so that there is nothing to add {} to (is /boot a partition \
         of its own, or the menu made by blscfg?)",
        MENUS.join(" or "),
        words(more).trim_start()
    );
    change(root, DEFAULTS, &mut changes, |text| with_more(text, more))?;
    Ok(changes)
}

/// A menu with these words on each kernel's command line.
fn with_words(text: &str, more: &[KernelArg]) -> String {
    let lines = text.split('\n').map(|line| match is_kernel(line) {
        true => format!("{}{}", without(line, more).trim_end(), words(more)),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a line of a menu starts a kernel; its command line follows.
pub(in crate::task) fn is_kernel(line: &str) -> bool {
    matches!(line.split_whitespace().next(), Some("linux" | "linux16" | "linuxefi"))
}

fn change(
    root: &Root,
    file: &str,
    changes: &mut Vec<String>,
    new: impl FnOnce(&str) -> String,
) -> anyhow::Result<()> {
    let mut lines = 0;
    let changed = root.edit(file, |old| {
        let new = new(old);
        lines = new.lines().zip(old.lines()).filter(|(new, old)| new != old).count();
        new
    })?;
    if changed == Some(true) {
        changes.push(format!("{lines} lines of /{file}"));
    }
    Ok(())
}

/// Root by the slot's own name, hibernation by this disk's swap.
fn menu(text: &str, ids: &Ids, more: &[KernelArg]) -> String {
    let text = with_new_uuid(text, ids);
    let lines = text.split('\n').map(|line| match is_kernel(line) {
        true => {
            let line = command_line(&without(line, more), ids);
            format!("{line} {}{}", resume(ids), words(more))
        }
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn command_line(line: &str, ids: &Ids) -> String {
    let words = line.split(' ').filter(|word| !is_resume(word)).map(|word| {
        let Some(value) = word.strip_prefix("root=") else { return word.to_owned() };
        let right = format!("UUID={}", ids.root_uuid);
        // PARTUUID is understood with and without an initramfs; what is right stays.
        match value.eq_ignore_ascii_case(&right) {
            true => word.to_owned(),
            false => format!("root=PARTUUID={}", ids.root_partuuid),
        }
    });
    words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// The words behind something, each after a space: where a word counts once, the last one does.
fn words(more: &[KernelArg]) -> String {
    more.iter().map(|word| format!(" {word}")).collect()
}

/// A command line without these words.
fn without(line: &str, more: &[KernelArg]) -> String {
    let others = line.split(' ').filter(|there| !more.iter().any(|word| word.as_str() == *there));
    others.collect::<Vec<_>>().join(" ")
}

/// The settings with these words on the command line of every new menu.
fn with_more(text: &str, more: &[KernelArg]) -> String {
    if more.is_empty() {
        return text.to_owned();
    }
    let set = |old: &str| {
        let line = format!("{}{}", without(old, more), words(more));
        format!("{COMMAND_LINE}=\"{}\"", line.trim_start())
    };
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let value_of = |line: &str| {
        let value = line.strip_prefix(COMMAND_LINE)?.strip_prefix('=')?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    };
    // A later setting replaces an earlier one (it is a shell's file), so the last is the one.
    let found = lines.iter_mut().rev().find_map(|line| value_of(line).map(|value| (line, value)));
    match found {
        Some((line, value)) => *line = set(&value),
        None => {
            let ends_well = lines.last().is_some_and(String::is_empty);
            lines.insert(lines.len() - usize::from(ends_well), set(""));
            if !ends_well {
                lines.push(String::new());
            }
        }
    }
    lines.join("\n")
}

/// Only a setting that is there is changed: an initramfs finds the swap by itself.
fn defaults(text: &str, ids: &Ids) -> String {
    let text = with_new_uuid(text, ids);
    let lines = text.split('\n').map(|line| {
        let Some((name, value)) = line.split_once('=') else { return line.to_owned() };
        if name == FORCE_PARTUUID && !value.is_empty() {
            return format!("{name}={}", ids.root_partuuid);
        }
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

/// Whether a word of a command line is about hibernation.
pub(in crate::task) fn is_resume(word: &str) -> bool {
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
            root_partuuid: "1234abcd-05".into(),
            swap_uuid: swap.map(Into::into),
            known: Vec::new(),
            fresh: None,
        }
    }

    #[test]
    fn words_can_be_added_and_nothing_else_changes() {
        let more: Vec<KernelArg> = vec!["quiet".parse().unwrap(), "console=ttyS0".parse().unwrap()];
        assert_eq!(
            with_words("menu {\n\tlinux /v root=/dev/sda1 quiet ro \n}\n", &more),
            "menu {\n\tlinux /v root=/dev/sda1 ro quiet console=ttyS0\n}\n"
        );
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(add(&root, &[]).unwrap(), Vec::<String>::new());
        let error = add(&root, &more).unwrap_err().to_string();
        assert!(error.contains("nothing to add quiet console=ttyS0 to"), "{error}");
    }

    #[test]
    fn the_kernel_is_told_root_and_swap_of_this_disk() {
        let check =
            |ids: &Ids, before: &str, after: &str| assert_eq!(menu(before, ids, &[]), after);
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
        let once = menu("linux /v root=/dev/sda1", &swap, &[]);
        assert_eq!(menu(&once, &swap, &[]), once, "a second time changes nothing");
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

    #[test]
    fn words_that_were_asked_for_are_on_every_command_line_once() {
        let more: Vec<KernelArg> =
            ["console=ttyS0,115200", "quiet"].map(|word| word.parse().unwrap()).into();
        let once = menu("\tlinux /v root=UUID=aaaa quiet\n", &ids(None), &more);
        assert_eq!(once, "\tlinux /v root=UUID=aaaa noresume console=ttyS0,115200 quiet\n");
        assert_eq!(menu(&once, &ids(None), &more), once, "a second time changes nothing");
        let check = |before: &str, after: &str| {
            assert_eq!(with_more(before, &more), after);
            assert_eq!(with_more(after, &more), after, "a second time changes nothing");
            assert_eq!(with_more(before, &[]), before);
        };
        check(
            "GRUB_CMDLINE_LINUX_DEFAULT=\"splash\"\nGRUB_CMDLINE_LINUX='a=b'\nX=1\n",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"splash\"\n\
             GRUB_CMDLINE_LINUX=\"a=b console=ttyS0,115200 quiet\"\nX=1\n",
        );
        check("X=1", "X=1\nGRUB_CMDLINE_LINUX=\"console=ttyS0,115200 quiet\"\n");
    }

    #[test]
    fn every_file_of_settings_and_the_next_initramfs_follow() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        for made in ["default/grub.d", "initramfs-tools"] {
            std::fs::create_dir_all(etc.join(made)).unwrap();
        }
        let force = etc.join("default/grub.d/40-force-partuuid.cfg");
        std::fs::write(&force, "# ü\nGRUB_FORCE_PARTUUID=99999999-01\n").unwrap();
        let line = etc.join("default/grub.d/50-cloudimg.cfg");
        std::fs::write(&line, b"# \xfc\nGRUB_CMDLINE_LINUX_DEFAULT='resume=/dev/sda3'\n").unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(run(&root, &ids(Some("5555")), &[]).unwrap().len(), 3);
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        assert_eq!(read(&force), "# ü\nGRUB_FORCE_PARTUUID=1234abcd-05\n".as_bytes());
        assert_eq!(read(&line), b"# \xfc\nGRUB_CMDLINE_LINUX_DEFAULT='resume=UUID=5555'\n");
        assert_eq!(read(&etc.join("initramfs-tools/conf.d/resume")), b"RESUME=UUID=5555\n");
        assert!(
            run(&root, &ids(Some("5555")), &[]).unwrap().is_empty(),
            "a second time changes nothing"
        );
    }

    #[test]
    fn a_menu_that_only_fedoras_grub_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("boot/grub2")).unwrap();
        std::fs::write(dir.path().join("boot/grub2/grub.cfg"), "insmod blscfg\nblscfg\n").unwrap();
        let error = run(&Root::open(dir.path()).unwrap(), &ids(None), &[]).unwrap_err().to_string();
        assert!(error.starts_with("/boot/grub2/grub.cfg finds its kernels by blscfg"), "{error}");
    }
}
