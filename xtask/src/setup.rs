//! `cargo xtask setup`: installs what building and testing need. Asks nothing; says what it is about to install; does
//! nothing, quickly, when everything is there. Works as root or through `sudo -n`.

use std::collections::HashSet;
use std::process::Command;

use anyhow::{Context, Result};
use metalcast_tests::process::{run_for_code, run_to_end, run_visibly};
use metalcast_tests::progress::step;

use crate::agent::{self, Musl};
use crate::cargo::answers;
use crate::root::as_root;

/// Debian packages, by what needs them.
const PACKAGES: &[(&str, &[&str])] = &[
    ("C code", &["gcc", "libc6-dev", "musl-tools"]),
    ("network boot", &["ipxe", "ipxe-qemu", "grub-pc-bin", "grub-common"]),
    ("the lab", &["qemu-system-x86", "iproute2", "procps", "dnsmasq-base", "faketime"]),
    (
        "disks",
        &["udev", "util-linux", "mount", "fdisk", "parted", "gdisk", "lvm2", "cryptsetup-bin"],
    ),
    (
        "filesystems",
        &[
            "e2fsprogs",
            "xfsprogs",
            "btrfs-progs",
            "dosfstools",
            "mtools",
            "exfatprogs",
            "exfat-fuse",
            "ntfs-3g",
            "squashfs-tools",
            "xorriso",
        ],
    ),
    (
        "images",
        &[
            "mmdebstrap",
            "clonezilla",
            "partclone",
            "zstd",
            "pigz",
            "xz-utils",
            "lz4",
            "bzip2",
            "pbzip2",
            "lbzip2",
            "lzop",
            "lzip",
            "plzip",
            "lrzip",
            "qemu-utils",
            "debian-archive-keyring",
        ],
    ),
    ("archives", &["cpio", "busybox-static", "kmod", "binutils"]),
    ("reports of deployed systems", &["curl", "wget"]),
];

/// A package that apt must know without having it installed.
const RAM_IMAGE_KERNEL: &str = "linux-image-cloud-amd64";

/// Installs what is missing.
///
/// # Errors
/// When apt cannot install a package, or the musl target cannot be had either way.
pub fn run() -> Result<()> {
    step("setting up", set_up)
}

fn set_up() -> Result<()> {
    for (purpose, names) in PACKAGES {
        install(purpose, names)?;
    }
    // The RAM image is made from packages that are downloaded, not installed.
    if !answers("apt-cache", &["show", RAM_IMAGE_KERNEL]) {
        step("apt-get update", || run_visibly(apt().args(["-qq", "update"])))?;
    }
    match agent::prepare(Musl::chosen(false))? {
        Musl::Rustup => eprintln!("    musl target: rustup's"),
        Musl::Zig => eprintln!("    musl target: built from source with zig"),
    }
    Ok(())
}

/// Installs Debian packages unless they are there.
///
/// # Errors
/// When apt cannot.
pub fn install(purpose: &str, names: &[&str]) -> Result<()> {
    let installed = installed(names)?;
    let missing: Vec<&str> = names.iter().copied().filter(|n| !installed.contains(*n)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("installing for {purpose}: {}", missing.join(" ")), || {
        let options = ["-qq", "install", "--yes", "--no-install-recommends"];
        // The lists may be there and new enough; fetching them is the slow part.
        let install = || run_to_end(apt().args(options).args(&missing)).map(drop);
        if install().is_ok() {
            return Ok(());
        }
        run_visibly(apt().args(["-qq", "update"]))?;
        install()
    })
}

fn installed(names: &[&str]) -> Result<HashSet<String>> {
    let mut query = Command::new("dpkg-query");
    // Status 1 when one of them is unknown; the others are listed all the same.
    let (_, listed) =
        run_for_code(query.args(["-W", "-f", "${Package} ${db:Status-Status}\\n"]).args(names))
            .context(
                "asking dpkg what is installed (only Debian and its relatives can be set up)",
            )?;
    Ok(listed
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(str::to_owned)
        .collect())
}

/// apt-get as root, or through sudo without a password.
fn apt() -> Command {
    let mut command = as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    command
}
