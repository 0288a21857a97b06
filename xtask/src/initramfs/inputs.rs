//! What a RAM image was made from, as one hash in a file beside it: equal inputs need no second build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use metalcast_formats::grub::recipe;
use metalcast_initramfs::{bundle, packed};
use metalcast_tests::{paths, process};
use serde_json::Value;

use super::{INITRAMFS, KERNEL, REPORT, read, replace};

/// Where the hash of the inputs is kept.
const INPUTS: &str = "ram-image.inputs";

/// The hash of all inputs: the agent, the packages, GRUB's recipes and its tool, the manifests, and the builder itself
/// with the versions of the libraries that compress.
pub(super) fn digest(archives: &BTreeMap<&str, PathBuf>, agent: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        // The length separates the inputs.
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    put(&read(agent)?);
    for archive in archives.values() {
        // apt gives a package of another content another version, which is in the name.
        put(archive.file_name().context("a package without a name")?.as_encoded_bytes());
    }
    for recipe in [recipe::disk_core(), recipe::slot_core()] {
        put(recipe.mkimage_args("", "", "").join("\n").as_bytes());
        put(recipe.early_config.as_bytes());
        put(&recipe.memdisk);
    }
    put(process::run(Command::new("grub-mkimage").arg("--version"))?.as_bytes());
    let workspace = paths::workspace();
    let mut files = vec![workspace.join("Cargo.lock")];
    for dir in ["initramfs/manifest", "initramfs/src", "xtask/src/initramfs"] {
        list(&workspace.join(dir), &mut files)?;
    }
    files.push(workspace.join("xtask/src/initramfs.rs"));
    files.sort();
    for file in files {
        put(file.as_os_str().as_encoded_bytes());
        put(&read(&file)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The kernel version of the RAM image in `dir`, if it was made from these inputs and is whole.
pub(super) fn kept(dir: &Path, inputs: &str) -> Option<String> {
    let noted = std::fs::read_to_string(dir.join(INPUTS)).ok()?;
    let report: Value = serde_json::from_slice(&std::fs::read(dir.join(REPORT)).ok()?).ok()?;
    let whole = |name: &str, hash: &str| {
        let file = std::fs::read(dir.join(name)).ok();
        file.is_some_and(|bytes| report[hash] == *blake3::hash(&bytes).to_hex())
    };
    let bundles_are_whole = || {
        let whole = report["beside"].as_object()?.values().all(|name| {
            let name = name.as_str().unwrap_or_default();
            let file = std::fs::read(dir.join(bundle::BESIDE_DIR).join(name)).ok();
            let hash = file.map(|bytes| blake3::hash(&bytes).to_string()).unwrap_or_default();
            name.strip_suffix(packed::SUFFIX) == Some(&hash)
        });
        whole.then_some(())
    };
    let is_it = noted == inputs
        && whole(KERNEL, "kernel_blake3")
        && whole(INITRAMFS, "initramfs_blake3")
        && bundles_are_whole().is_some();
    report["kernel_version"].as_str().filter(|_| is_it).map(str::to_owned)
}

/// Notes what the RAM image in `dir` was made from; called when all of it is there.
pub(super) fn note(dir: &Path, inputs: &str) -> Result<()> {
    replace(&dir.join(INPUTS), inputs.as_bytes())
}

/// All files below a directory.
fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in dir.read_dir().with_context(|| format!("listing {}", dir.display()))? {
        let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
        match path.is_dir() {
            true => list(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_or_older_image_is_not_kept() {
        let scratch = paths::scratch("inputs").unwrap();
        let dir = scratch.path();
        assert_eq!(kept(dir, "a"), None);
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        let report = serde_json::json!({
            "kernel_version": "6.1", "kernel_blake3": hash(b"kernel"), "initramfs_blake3": hash(b"cpio"),
            "beside": {"xfs": format!("{}.zst", hash(b"tools"))},
        });
        std::fs::write(dir.join(REPORT), report.to_string()).unwrap();
        std::fs::write(dir.join(KERNEL), "kernel").unwrap();
        std::fs::write(dir.join(INITRAMFS), "cpio").unwrap();
        assert_eq!(kept(dir, "a"), None);
        note(dir, "a").unwrap();
        assert_eq!(kept(dir, "a"), None, "a bundle is missing");
        std::fs::create_dir(dir.join("tools")).unwrap();
        std::fs::write(dir.join("tools").join(format!("{}.zst", hash(b"tools"))), "tools").unwrap();
        assert_eq!(kept(dir, "a").as_deref(), Some("6.1"));
        assert_eq!(kept(dir, "b"), None);
        std::fs::write(dir.join(INITRAMFS), "cpi").unwrap();
        assert_eq!(kept(dir, "a"), None);
    }

    #[test]
    fn another_agent_or_package_is_another_input() {
        let scratch = paths::scratch("inputs").unwrap();
        let agent = scratch.path().join("agent");
        let archives = |version: &str| BTreeMap::from([("libc6", PathBuf::from(version))]);
        std::fs::write(&agent, "one").unwrap();
        let first = digest(&archives("libc6_1.deb"), &agent).unwrap();
        assert_eq!(digest(&archives("libc6_1.deb"), &agent).unwrap(), first);
        assert_ne!(digest(&archives("libc6_2.deb"), &agent).unwrap(), first);
        std::fs::write(&agent, "two").unwrap();
        assert_ne!(digest(&archives("libc6_1.deb"), &agent).unwrap(), first);
    }
}
