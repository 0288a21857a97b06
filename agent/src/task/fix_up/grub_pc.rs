//! `grub-pc`: keeps the slot's package manager off the disk's boot code.
//!
//! Debian's `grub-pc` runs `grub-install` at each upgrade on the devices in its debconf answer
//! `grub-pc/install_devices`; in a slot that would replace the loader of the whole disk. With no
//! devices and `install_devices_empty` answered true its postinst installs nowhere and asks nothing,
//! also when run without a terminal. Kernel upgrades still rewrite the slot's own grub.cfg.

use crate::disk::Root;

/// Debconf's answers: stanzas of `Field: value` lines between empty lines (debconf.conf(5), `File`).
const DATABASE: &str = "var/cache/debconf/config.dat";

const DEVICES: &str = "grub-pc/install_devices";
const EMPTY: &str = "grub-pc/install_devices_empty";

pub(super) fn run(root: &Root) -> anyhow::Result<Vec<String>> {
    // Answers may be in any encoding: only whole ASCII lines are touched.
    let Some(bytes) = root.read(DATABASE)? else { return Ok(Vec::new()) };
    let Some(new) = rewrite(&bytes) else { return Ok(Vec::new()) };
    if new == bytes {
        return Ok(Vec::new());
    }
    root.write(DATABASE, &new)?;
    Ok(vec!["upgrades will not install GRUB onto the disk".into()])
}

/// `None` where grub-pc has never been configured.
fn rewrite(database: &[u8]) -> Option<Vec<u8>> {
    let mut stanzas: Vec<Vec<&[u8]>> = vec![Vec::new()];
    for line in database.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            stanzas.push(Vec::new());
        } else if let Some(last) = stanzas.last_mut() {
            last.push(line);
        }
    }
    stanzas.retain(|stanza| !stanza.is_empty());
    let is_of = |stanza: &[&[u8]], name: &str| stanza.contains(&format!("Name: {name}").as_bytes());
    if !stanzas.iter().any(|stanza| is_of(stanza, DEVICES)) {
        return None;
    }
    let mut out = Vec::new();
    for stanza in &stanzas {
        match stanza {
            stanza if is_of(stanza, EMPTY) => {}
            stanza if is_of(stanza, DEVICES) => {
                push(&mut out, &answered(stanza, ""));
                let empty = format!("Name: {EMPTY}\nTemplate: {EMPTY}\nOwners: grub-pc");
                let old = stanzas.iter().find(|stanza| is_of(stanza, EMPTY)).cloned();
                let old = old.unwrap_or_else(|| empty.split('\n').map(str::as_bytes).collect());
                push(&mut out, &answered(&old, "true"));
            }
            stanza => push(&mut out, &stanza.join(&b'\n')),
        }
    }
    Some(out)
}

fn push(out: &mut Vec<u8>, stanza: &[u8]) {
    out.extend_from_slice(stanza);
    out.extend_from_slice(b"\n\n");
}

/// The stanza with this answer, given by the user.
fn answered(stanza: &[&[u8]], value: &str) -> Vec<u8> {
    let value = format!("Value: {value}");
    let mut lines: Vec<&[u8]> = Vec::new();
    for line in stanza {
        if line.starts_with(b"Value:") || line.starts_with(b"Flags:") {
            continue;
        }
        // Variables come last; their lines are indented.
        if line.starts_with(b"Variables:") {
            lines.extend([value.as_bytes(), b"Flags: seen"]);
        }
        lines.push(line);
    }
    if !lines.contains(&b"Flags: seen".as_slice()) {
        lines.extend([value.as_bytes(), b"Flags: seen"]);
    }
    lines.join(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, process::Command};

    const ANSWERS: &str = "Name: debconf/priority\nTemplate: debconf/priority\nValue: high\n\
        Owners: debconf\n\nName: grub-pc/install_devices\nTemplate: grub-pc/install_devices\n\
        Value: /dev/disk/by-id/ata-QEMU\nOwners: grub-pc\nFlags: seen\nVariables:\n CHOICES = a\n\
        \x20RAW_CHOICES = /dev/sda\n\nName: grub-pc/timeout\nTemplate: grub-pc/timeout\nValue: 5\n\
        Owners: grub-pc\n\n";

    /// Debconf itself reads what was written.
    fn debconf(database: &[u8], commands: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.dat"), database).unwrap();
        let mut templates = String::new();
        for name in ["debconf/priority", DEVICES, EMPTY, "grub-pc/timeout"] {
            templates += &format!("Name: {name}\nType: string\nOwners: {name}\n\n");
        }
        std::fs::write(dir.path().join("templates.dat"), templates).unwrap();
        let file =
            |name: &str| format!("Driver: File\nFilename: {}/{name}.dat", dir.path().display());
        let config = format!(
            "Config: c\nTemplates: t\n\nName: c\n{}\n\nName: t\n{}\n",
            file("config"),
            file("templates")
        );
        std::fs::write(dir.path().join("debconf.conf"), config).unwrap();
        let mut child = Command::new("debconf-communicate")
            .env("DEBCONF_SYSTEMRC", dir.path().join("debconf.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("debconf-communicate of the package debconf");
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn debconf_reads_the_new_answers() {
        let new = rewrite(ANSWERS.as_bytes()).unwrap();
        let asked = debconf(
            &new,
            "GET grub-pc/install_devices\nGET grub-pc/install_devices_empty\n\
             FGET grub-pc/install_devices seen\nFGET grub-pc/install_devices_empty seen\n\
             GET grub-pc/timeout\nGET debconf/priority\n",
        );
        assert_eq!(asked, "0 \n0 true\n0 true\n0 true\n0 5\n0 high\n");
        let before = debconf(ANSWERS.as_bytes(), "GET grub-pc/install_devices\n");
        assert_eq!(before, "0 /dev/disk/by-id/ata-QEMU\n", "the test's own setup");
        assert_eq!(rewrite(&new).unwrap(), new, "a second time changes nothing");
    }

    #[test]
    fn without_grub_pc_nothing_is_written() {
        assert_eq!(rewrite(b"Name: a/b\nTemplate: a/b\n\n"), None);
        assert_eq!(rewrite(b""), None);
        assert_eq!(rewrite(b"\xff\xfe\n\n\n"), None);
    }
}
