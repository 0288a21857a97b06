//! A menu of GRUB for a system that has none.

use super::context::Index;
use std::cmp::Ordering;

/// A kernel to start, by names in `/boot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<'i> {
    /// The kernel.
    pub kernel: &'i str,
    /// Its initial RAM disk, if it has one.
    pub initrd: Option<&'i str>,
}

/// Why a system cannot be started from a slot; what is said of is the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it has neither a menu of GRUB nor a kernel (/boot/vmlinuz-*): it could not be started from a slot"
)]
pub struct NotStartable;

const KERNEL: &str = "vmlinuz";

impl Index {
    /// Refuses a system that could not be started from a slot: it has no menu, and none can be made.
    pub fn check_startable(&self) -> Result<(), NotStartable> {
        match self.has_menu || self.newest().is_some() {
            true => Ok(()),
            false => Err(NotStartable),
        }
    }

    /// The newest kernel.
    pub fn newest(&self) -> Option<Start<'_>> {
        let version = |name: &'_ str| -> String {
            let rest = name.strip_prefix(KERNEL).unwrap_or(name);
            rest.trim_start_matches('-').to_owned()
        };
        let kernel = self.kernels.iter().max_by(|a, b| compare(&version(a), &version(b)))?;
        let version = version(kernel);
        let dashed = if version.is_empty() { String::new() } else { format!("-{version}") };
        let names = [
            format!("initrd.img{dashed}"),
            format!("initramfs{dashed}.img"),
            format!("initrd{dashed}"),
            format!("initramfs{dashed}"),
            format!("initrd{dashed}.img"),
        ];
        let find = |name: &String| self.initrds.iter().find(|initrd| *initrd == name);
        Some(Start { kernel, initrd: names.iter().find_map(find).map(String::as_str) })
    }
}

impl Start<'_> {
    /// A menu with this kernel. `root` is what it is told of its root filesystem.
    pub fn menu(&self, root: &str) -> String {
        let Self { kernel, initrd } = self;
        let initrd = initrd.map_or_else(String::new, |initrd| format!("\tinitrd /boot/{initrd}\n"));
        format!(
            "# Made by Metalcast for a system without a menu; update-grub makes another in its place.\n\
             set timeout=5\n\
             menuentry 'Linux ({kernel})' {{\n\
             \tlinux /boot/{kernel} root={root} rw\n\
             {initrd}}}\n"
        )
    }
}

/// Versions by their numbers and what is between them.
fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (tokens(a), tokens(b));
    for (a, b) in a.iter().zip(&b) {
        let ordered = match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            // 6.1-rc1 precedes 6.1.1.
            (Ok(_), Err(_)) => Ordering::Greater,
            (Err(_), Ok(_)) => Ordering::Less,
            (Err(_), Err(_)) => a.cmp(b),
        };
        if ordered != Ordering::Equal {
            return ordered;
        }
    }
    a.len().cmp(&b.len())
}

fn tokens(version: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut was_digit = None;
    for letter in version.chars() {
        if !letter.is_ascii_alphanumeric() {
            was_digit = None;
            continue;
        }
        let is_digit = letter.is_ascii_digit();
        match tokens.last_mut().filter(|_| was_digit == Some(is_digit)) {
            Some(last) => last.push(letter),
            None => tokens.push(letter.to_string()),
        }
        was_digit = Some(is_digit);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_started_with_its_own_initrd() {
        let check = |kernels: &[&str], initrds: &[&str], kernel: &str, initrd: Option<&str>| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let index =
                Index { kernels: owned(kernels), initrds: owned(initrds), ..Index::default() };
            assert_eq!(index.newest(), Some(Start { kernel, initrd }));
        };
        check(
            &["vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64", "vmlinuz-5.10.0-30-amd64"],
            &["initrd.img-6.1.0-9-amd64", "initrd.img-6.1.0-10-amd64"],
            "vmlinuz-6.1.0-10-amd64",
            Some("initrd.img-6.1.0-10-amd64"),
        );
        check(
            &["vmlinuz-0-rescue-abc", "vmlinuz-5.14.0-1.el9"],
            &["initramfs-0-rescue-abc.img", "initramfs-5.14.0-1.el9.img"],
            "vmlinuz-5.14.0-1.el9",
            Some("initramfs-5.14.0-1.el9.img"),
        );
        check(
            &["vmlinuz-linux"],
            &["initramfs-linux.img"],
            "vmlinuz-linux",
            Some("initramfs-linux.img"),
        );
        check(&["vmlinuz"], &["initrd.img-6.1"], "vmlinuz", None);
        check(&["vmlinuz-6.1-rc1", "vmlinuz-6.1.1"], &[], "vmlinuz-6.1.1", None);
        assert_eq!(Index::default().newest(), None);
    }

    #[test]
    fn a_menu_names_kernel_root_and_initrd() {
        let start = Start { kernel: "vmlinuz-6.1", initrd: Some("initrd.img-6.1") };
        let menu = start.menu("UUID=abcd");
        assert!(
            menu.contains(
                "\tlinux /boot/vmlinuz-6.1 root=UUID=abcd rw\n\tinitrd /boot/initrd.img-6.1\n}"
            ),
            "{menu}"
        );
    }
}
