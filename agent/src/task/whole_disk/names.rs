//! Text that names filesystems and partitions by their ids, with other ids. All ids stay as long as they
//! were, so that GRUB's environment keeps its size.

use crate::{
    disk::Root,
    task::fix_up::{is_kernel, is_resume},
};
use metalcast_shared::fresh_ids::Renamed;

#[cfg(test)]
mod tests;

/// What was renamed, and what a kernel has to be told of it.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) renamed: Vec<Renamed>,
    /// The disk's swap: an initramfs that was made for the old one would wait for that.
    pub(super) resume: Option<String>,
}

/// Files of a system.
const FILES: [&str; 5] =
    ["etc/fstab", "etc/crypttab", "etc/default/grub", "etc/kernel/cmdline", "etc/dracut.conf"];

/// Directories of such files.
const DIRS: [&str; 4] =
    ["etc/default/grub.d", "etc/initramfs-tools/conf.d", "etc/dracut.conf.d", "etc/cmdline.d"];

/// GRUB's menus, from where the kernels are.
const MENUS: [&str; 2] = ["grub/grub.cfg", "grub2/grub.cfg"];

/// What else a boot loader reads, from where the kernels are.
const BOOT_FILES: [&str; 7] = [
    "grub/custom.cfg",
    "grub/grubenv",
    "grub2/custom.cfg",
    "grub2/grubenv",
    "extlinux/extlinux.conf",
    "syslinux/syslinux.cfg",
    "loader/loader.conf",
];

/// Directories of such files.
const BOOT_DIRS: [&str; 1] = ["loader/entries"];

/// Where the kernels may be: in the system, or on a partition of their own.
const BOOTS: [&str; 2] = ["boot/", ""];

/// Where boot loaders for UEFI may be: on a partition of their own, or where that would be mounted.
const EFIS: [&str; 3] = ["EFI", "boot/efi/EFI", "efi/EFI"];

/// Has all files below `dir`, which is empty or ends in a slash, name the new ids; tells what it changed.
pub(super) fn follow(root: &Root, dir: &str, names: &Names) -> anyhow::Result<Vec<String>> {
    let mut told = Vec::new();
    for path in files(root, dir)? {
        let is_menu = MENUS.iter().any(|menu| path.ends_with(menu));
        let (mut lines, mut labels) = (0, 0);
        let changed = root.edit(&path, |old| {
            let new = if is_menu { names.in_menu(old) } else { names.in_text(old) };
            lines = new.lines().zip(old.lines()).filter(|(new, old)| new != old).count();
            labels = new.lines().filter(|line| names_a_label(line)).count();
            new
        })?;
        if changed == Some(true) {
            told.push(format!("{lines} lines of /{path}"));
        }
        if labels > 0 {
            told.push(format!("{labels} lines of /{path} go by labels, which all copies share"));
        }
    }
    Ok(told)
}

/// Every one once, there or not.
fn files(root: &Root, dir: &str) -> anyhow::Result<Vec<String>> {
    let mut files: Vec<String> = FILES.iter().map(|file| format!("{dir}{file}")).collect();
    let mut dirs: Vec<String> = DIRS.iter().map(|name| format!("{dir}{name}")).collect();
    for boot in BOOTS {
        let all = MENUS.iter().chain(&BOOT_FILES);
        files.extend(all.map(|file| format!("{dir}{boot}{file}")));
        dirs.extend(BOOT_DIRS.iter().map(|name| format!("{dir}{boot}{name}")));
    }
    for efi in EFIS {
        let efi = format!("{dir}{efi}");
        for vendor in root.dirs(&efi)? {
            // Beside programs, which have signatures.
            let names = root.files(&format!("{efi}/{vendor}"))?.into_iter().filter(|name| {
                let name = name.to_ascii_lowercase();
                name.ends_with(".cfg") || name == "grubenv"
            });
            files.extend(names.map(|name| format!("{efi}/{vendor}/{name}")));
        }
    }
    for dir in dirs {
        files.extend(root.files(&dir)?.iter().map(|name| format!("{dir}/{name}")));
    }
    // A link may lead from one name to the other.
    files.retain(|file| root.is_plain_file(file));
    Ok(files)
}

fn names_a_label(line: &str) -> bool {
    !line.trim_start().starts_with('#')
        && line.split(|c: char| !c.is_ascii_alphanumeric() && !"=_".contains(c)).any(|word| {
            ["LABEL=", "PARTLABEL="].iter().any(|start| word.starts_with(start))
                || word.starts_with("root=LABEL=")
        })
}

impl Names {
    fn in_menu(&self, text: &str) -> String {
        let text = self.in_text(text);
        let Some(resume) = &self.resume else { return text };
        let lines = text.split('\n').map(|line| {
            match is_kernel(line) && !line.split_whitespace().any(is_resume) {
                true => format!("{} {resume}", line.trim_end()),
                false => line.to_owned(),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// An id ends a word of letters, digits and dashes, and may have something before a dash in it, as
    /// GRUB's names of menu entries have.
    fn in_text(&self, text: &str) -> String {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let mut new = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_word) {
            let (before, from) = rest.split_at(start);
            let (word, after) = from.split_at(from.find(|c| !is_word(c)).unwrap_or(from.len()));
            new.push_str(before);
            new.push_str(&self.word(word));
            rest = after;
        }
        new.push_str(rest);
        new
    }

    fn word(&self, word: &str) -> String {
        for Renamed { old, new } in &self.renamed {
            let Some(at) = word.len().checked_sub(old.len()) else { continue };
            let is_whole = at == 0 || word.as_bytes()[at - 1] == b'-';
            if is_whole && word[at..].eq_ignore_ascii_case(old) {
                return format!("{}{new}", &word[..at]);
            }
        }
        word.to_owned()
    }
}
