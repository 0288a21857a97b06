//! `ssh-host-keys` and `authorized-keys`: who this host is to ssh, and who may log in as root.

use crate::disk::Root;
use anyhow::Context;
use metalcast_shared::fix_up::AuthorizedKey;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, rand_core::OsRng};

const DIR: &str = "etc/ssh";

/// The kind of key that is made: OpenSSH has read it since 6.5 (2014).
const HOST_KEY: &str = "etc/ssh/ssh_host_ed25519_key";

/// Where root's home is, whatever its login shell says.
const AUTHORIZED_KEYS: &str = "root/.ssh/authorized_keys";

/// Gives a system that has host keys another one: with the image's, every copy could pose as every
/// other. A system without any makes its own, or has no sshd.
pub(super) fn host_keys(root: &Root, hostname: &str) -> anyhow::Result<Vec<String>> {
    let is_key = |name: &String| {
        name.strip_suffix(".pub").unwrap_or(name).ends_with("_key") && name.starts_with("ssh_host_")
    };
    let old: Vec<String> = root.files(DIR)?.into_iter().filter(is_key).collect();
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).context("making a key")?;
    key.set_comment(format!("root@{hostname}"));
    let private = key.to_openssh(LineEnding::LF).context("writing a key")?;
    let public = key.public_key().to_openssh().context("writing a public key")?;
    for name in &old {
        root.remove(&format!("{DIR}/{name}"))?;
    }
    root.create(HOST_KEY, private.as_bytes(), 0o600)?;
    root.create(&format!("{HOST_KEY}.pub"), format!("{public}\n").as_bytes(), 0o644)?;
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    let count = old.iter().filter(|name| !name.ends_with(".pub")).count();
    Ok(vec![format!("the image's {count} taken out; ed25519 is {fingerprint} now")])
}

/// Adds the keys that are not there.
pub(super) fn authorized_keys(root: &Root, keys: &[AuthorizedKey]) -> anyhow::Result<Vec<String>> {
    let old = root.read(AUTHORIZED_KEYS)?;
    let mut text = String::from_utf8_lossy(old.as_deref().unwrap_or_default()).into_owned();
    let mut added = 0;
    for key in keys {
        if text.lines().any(|line| line.trim() == key.as_str()) {
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(key.as_str());
        text.push('\n');
        added += 1;
    }
    if added == 0 {
        return Ok(Vec::new());
    }
    match old {
        Some(_) => root.write(AUTHORIZED_KEYS, text.as_bytes())?,
        None => root.create(AUTHORIZED_KEYS, text.as_bytes(), 0o600)?,
    }
    Ok(vec![format!("{added} added to /{AUTHORIZED_KEYS}")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

    fn system() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn fingerprint(file: &Path) -> String {
        let output = Command::new("ssh-keygen").arg("-lf").arg(file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn openssh_reads_the_new_host_key_and_the_old_ones_are_gone() {
        let (dir, root) = system();
        assert!(host_keys(&root, "node1").unwrap().is_empty(), "no sshd, nothing to do");
        let ssh = dir.path().join("etc/ssh");
        fs::create_dir_all(&ssh).unwrap();
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "ssh_config", "moduli"] {
            fs::write(ssh.join(name), "old").unwrap();
        }
        let told = host_keys(&root, "node1").unwrap();
        let key = ssh.join("ssh_host_ed25519_key");
        assert_eq!(mode(&key), 0o600);
        // ssh-keygen(1) derives the public half from the private one.
        let derived = Command::new("ssh-keygen").arg("-yf").arg(&key).output().unwrap();
        let public = fs::read(ssh.join("ssh_host_ed25519_key.pub")).unwrap();
        assert_eq!(derived.stdout, public, "{derived:?}");
        let printed = fingerprint(&key);
        let ours = told[0].split(' ').find(|word| word.starts_with("SHA256:")).unwrap();
        assert!(printed.contains(ours) && printed.contains("root@node1"), "{printed} {told:?}");
        let mut left: Vec<_> =
            fs::read_dir(&ssh).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(
            left,
            ["moduli", "ssh_config", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"]
        );
        host_keys(&root, "node1").unwrap();
        assert_ne!(fingerprint(&key), printed, "every deployment has its own");
    }

    #[test]
    fn keys_are_added_once_and_those_of_the_image_stay() {
        let (dir, root) = system();
        let keys = AuthorizedKey::all_of("ssh-rsa AAAAone a\nssh-rsa AAAAtwo b").unwrap();
        assert!(authorized_keys(&root, &[]).unwrap().is_empty());
        assert_eq!(authorized_keys(&root, &keys[..1]).unwrap().len(), 1);
        let file = dir.path().join(AUTHORIZED_KEYS);
        assert_eq!(mode(&file), 0o600);
        fs::write(&file, "ssh-rsa AAAAone a\nssh-rsa AAAAimage c").unwrap();
        authorized_keys(&root, &keys).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, "ssh-rsa AAAAone a\nssh-rsa AAAAimage c\nssh-rsa AAAAtwo b\n");
        assert!(authorized_keys(&root, &keys).unwrap().is_empty(), "a second time changes nothing");
    }
}
