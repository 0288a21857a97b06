//! Filesystems made by the real tools, filled, half emptied and filled again.

use std::{path::Path, process::Command};

/// Shell functions that the scripts use: `age` works on the directory it is in.
const PRELUDE: &str = r#"
age() {
    mkdir tree; cp -r /usr/share/perl5/Debconf tree/
    i=0; while [ $i -lt 50 ]; do head -c $((i * 7919 + 100)) /dev/urandom > f$i; i=$((i + 1)); done
    sync -f .
    i=0; while [ $i -lt 50 ]; do rm f$i; i=$((i + 2)); done
    i=0; while [ $i -lt 20 ]; do
        head -c 30000 /dev/urandom >> one; head -c 50000 /dev/urandom >> two; i=$((i + 1)); sync -f .
    done
    rm two
}
sums() { find . -type f ! -name '*.sys' ! -name 'swap*' -print0 | sort -z | xargs -0 sha256sum; }
"#;

/// How files are put into a filesystem and looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The kernel mounts it.
    Kernel,
    /// ntfs-3g mounts it.
    Ntfs3g,
    /// exfat-fuse mounts it.
    ExfatFuse,
    /// mtools, for FAT.
    Mtools,
}

/// A filesystem in a file.
pub struct Image {
    dir: tempfile::TempDir,
    access: Access,
}

/// Runs a script in a directory; what it prints.
pub fn sh(dir: &Path, script: &str) -> String {
    let script = format!("{PRELUDE}\n{script}");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-ec", &script])
        .current_dir(dir)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}\n{error}");
    out
}

impl Image {
    /// Makes a filesystem of `mib` MiB; `mkfs` is given the file as `image`.
    pub fn make(mib: u64, mkfs: &str, access: Access) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let loops = format!("truncate -s {mib}M image; mkdir mnt; {mkfs} > mkfs.log 2>&1");
        sh(dir.path(), &loops);
        Self { dir, access }
    }

    /// The same, used for a while.
    pub fn aged(mib: u64, mkfs: &str, access: Access) -> Self {
        let image = Self::make(mib, mkfs, access);
        image.inside("age");
        image
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a script in the root directory of the filesystem.
    pub fn inside(&self, script: &str) -> String {
        self.inside_of("image", script)
    }

    /// The hashes of all files in a filesystem in this file.
    pub fn sums(&self, file: &str) -> String {
        self.inside_of(file, "sums")
    }

    fn inside_of(&self, file: &str, script: &str) -> String {
        let mount = match self.access {
            Access::Kernel => format!("mount -o loop {file} mnt"),
            Access::Ntfs3g => format!("ntfs-3g {file} mnt"),
            Access::ExfatFuse => format!(
                "loop=$(losetup -f --show {file}); trap 'losetup -d $loop' EXIT
                 mount.exfat-fuse $loop mnt > /dev/null"
            ),
            Access::Mtools => {
                // Out and in again: what was deleted meanwhile is deleted there too.
                let change = match script {
                    "sums" => "",
                    _ => {
                        "mdeltree -i ../$file '::*' 2> /dev/null || true
                          mcopy -i ../$file -s -Q * ::; mdel -i ../$file ::f9 ::f21 ::one"
                    }
                };
                return sh(
                    self.dir(),
                    &format!(
                        "file={file}; rm -rf out; mkdir out; cd out
                         mcopy -i ../$file -s -n '::*' . 2> /dev/null || true
                         {script}\n{change}"
                    ),
                );
            }
        };
        sh(self.dir(), &format!("{mount}; cd mnt; {script}\ncd ..; umount mnt"))
    }
}
