//! Clonezilla directories made of real filesystems by the real tools.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// Size of the imaged filesystem.
pub const DEVICE_BYTES: u64 = 64 << 20;

/// A directory as `ocs-sr` would have written it, of a disk with an ext4 in slot 5.
pub struct Source {
    dir: TempDir,
}

/// Runs a shell script that must succeed, in `dir`; its standard output.
pub fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .env("LC_ALL", "C")
        .output()
        .expect("sh runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// An ext4 with random, textual, empty, sparse and zero content, in `<dir>/fs`.
const MAKE_FILESYSTEM: &str = "
    mkdir content; head -c 18M /dev/urandom > content/random
    seq 1 800000 > content/text; head -c 4M /dev/zero > content/zeros; touch content/empty
    truncate -s 30M content/sparse; printf end >> content/sparse; ln -s text content/link
    cp -r /usr/share/perl5/Debconf content/tree
    truncate -s 64M fs; mke2fs -q -t ext4 -d content fs";

/// The table of a disk with that filesystem in slot 5, from the real sfdisk and parted.
const MAKE_TABLE: &str = "
    truncate -s 80M disk
    printf 'label: dos\\nlabel-id: 0x1234abcd\\n4: start=2048, type=5\\n5: start=4096, size=64M, type=83\\n' |
        sfdisk -q disk
    sfdisk -d disk | sed 's|disk\\([0-9]\\)|/dev/sda\\1|; s|device: disk|device: /dev/sda|' > image/sda-pt.sf
    parted -s disk unit s print | sed 's|^Disk /.*: |Disk /dev/sda: |' > image/sda-pt.parted
    head -c 512 disk > image/sda-mbr; echo sda > image/disk; echo sda5 > image/parts";

impl Source {
    /// `options` are partclone's; `compress` is a filter; the stream is cut with these `split`
    /// options unless they are empty.
    pub fn new(options: &str, compress: &str, suffix: &str, split: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        sh(dir.path(), "mkdir image");
        sh(dir.path(), MAKE_FILESYSTEM);
        sh(dir.path(), MAKE_TABLE);
        let name = format!("image/sda5.ext4-ptcl-img.{suffix}");
        let sink = match split {
            "" => format!("cat > {name}"),
            split => format!("split {split} - {name}."),
        };
        sh(
            dir.path(),
            &format!(
                "partclone.ext4 -L log -c {options} -s fs -o plain; {compress} < plain | {sink}
                 cd image; sums=$(md5sum *); b2=$(b2sum *); echo \"$sums\" > MD5SUMS; echo \"$b2\" > B2SUMS"
            ),
        );
        Self { dir }
    }

    /// Another one with the same Clonezilla directory.
    pub fn copy(&self) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        sh(self.dir.path(), &format!("cp -r image {}", dir.path().display()));
        Self { dir }
    }

    /// The Clonezilla directory.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Changes the Clonezilla directory.
    pub fn change(&self, script: &str) {
        sh(&self.image(), script);
    }

    /// What the real partclone restores from the source, with zeros where it writes nothing.
    pub fn restored(&self) -> Vec<u8> {
        restore(self.dir.path(), "cat plain")
    }
}

/// What the real partclone restores from the standard output of `script`.
pub fn restore(dir: &Path, script: &str) -> Vec<u8> {
    sh(
        dir,
        &format!(
            "rm -f restored; truncate -s {DEVICE_BYTES} restored
             {script} | partclone.restore -L restore.log -C -s - -O restored"
        ),
    );
    fs::read(dir.join("restored")).expect("partclone wrote it")
}
