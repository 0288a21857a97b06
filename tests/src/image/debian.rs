//! A real Debian as a real Clonezilla image.
//!
//! mmdebstrap installs it, its own grub-install and update-grub make it bootable on a disk with a root and a swap
//! partition (so fstab, grub.cfg and the boot code are what an installed machine has), and Clonezilla saves that disk
//! twice: with zstd, and with gzip in pieces. It reaches the login prompt on ttyS0 in about 14 s under software
//! emulation, takes its address by DHCP on any wired interface, and root has no password.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::cached;
use crate::clonezilla::{self, Packing};
use crate::loopdev::LoopDisk;
use crate::paths;
use crate::process::run;
use crate::progress::step;

const MIRROR: &str = "http://deb.debian.org/debian";
const SUITE: &str = "bookworm";

/// Beside the kernel.
const PACKAGES: &str = "systemd-sysv,udev,dbus,iproute2,initramfs-tools,grub2-common,grub-pc-bin";

/// The cloud kernel has the drivers of virtual machines only and boots seconds faster.
const CLOUD_KERNEL: &str = "linux-image-cloud-amd64";

/// For machines with other disks and network cards.
const GENERIC_KERNEL: &str = "linux-image-amd64";

/// What is not installed, since every scenario sends and reads it: nobody reads the texts or compiles, and no machine
/// of the lab has the devices, mounts the filesystems or speaks the protocols.
const LEFT_OUT: [&str; 29] = [
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/lib/udev/hwdb.d/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",
    "/usr/lib/x86_64-linux-gnu/perl/*/CORE/*",
    "/lib/modules/*/kernel/drivers/comedi/*",
    "/lib/modules/*/kernel/drivers/gpu/*",
    "/lib/modules/*/kernel/drivers/hid/*",
    "/lib/modules/*/kernel/drivers/infiniband/*",
    "/lib/modules/*/kernel/drivers/md/*",
    "/lib/modules/*/kernel/drivers/media/*",
    "/lib/modules/*/kernel/drivers/net/wireless/*",
    "/lib/modules/*/kernel/drivers/staging/*",
    "/lib/modules/*/kernel/drivers/target/*",
    "/lib/modules/*/kernel/fs/btrfs/*",
    "/lib/modules/*/kernel/fs/ceph/*",
    "/lib/modules/*/kernel/fs/nfs/*",
    "/lib/modules/*/kernel/fs/nfsd/*",
    "/lib/modules/*/kernel/fs/smb/*",
    "/lib/modules/*/kernel/fs/xfs/*",
    "/lib/modules/*/kernel/net/ceph/*",
    "/lib/modules/*/kernel/net/netfilter/*",
    "/lib/modules/*/kernel/net/openvswitch/*",
    "/lib/modules/*/kernel/net/sctp/*",
    "/lib/modules/*/kernel/net/sunrpc/*",
    "/lib/modules/*/kernel/net/tipc/*",
    "/lib/modules/*/kernel/sound/*",
];

/// The root partition, in MiB: what a slot must hold at least.
const ROOT_MIB: u32 = 1024;

/// The whole disk, in MiB: a first MiB for the boot loader, the root, and the rest for swap.
const DISK_MIB: u32 = 1200;

/// The Debian image in its variants, and the disk that it was saved from.
#[derive(Debug, Clone)]
pub struct Debian {
    /// The Clonezilla repository (what `ocs-sr -or` takes): the parent of the images.
    pub repository: PathBuf,
    /// The image directory with one zstd file a partition.
    pub zstd: PathBuf,
    /// The image directory with gzip files in pieces of 50 MB.
    pub gzip_split: PathBuf,
    /// The source disk, raw and bootable by itself; copy it before writing to it.
    pub disk: PathBuf,
}

impl Debian {
    /// The file-system UUID of the root partition, as in its fstab and grub.cfg.
    pub const ROOT_UUID: &str = "4d657461-6c63-4173-8000-00000000aa01";
    /// The UUID of the swap partition, as in its fstab.
    pub const SWAP_UUID: &str = "4d657461-6c63-4173-8000-00000000aa02";
    /// What its console says when it is up.
    pub const LOGIN: &str = "labhost login:";
}

/// Returns the Debian image; makes it when the recipe is new (about a minute and a half on two cores).
///
/// # Errors
/// Without root, without the tools that `cargo xtask setup` installs, or without a Debian mirror.
pub fn debian() -> Result<Debian> {
    let repository = cached("debian", &recipe(CLOUD_KERNEL), |dir| {
        let disk = build(dir, CLOUD_KERNEL)?;
        step("saving the disk with Clonezilla (gzip, split)", || {
            let packing = Packing::GzipSplit { megabytes: 50 };
            clonezilla::save_disk(&disk, dir, "debian-gz-split", packing)
        })
    })?;
    Ok(Debian {
        zstd: repository.join("debian-zst"),
        gzip_split: repository.join("debian-gz-split"),
        disk: repository.join("disk.raw"),
        repository,
    })
}

/// Returns an image directory of the same Debian with the kernel that has the drivers of physical machines.
///
/// # Errors
/// As [`debian`].
pub fn debian_generic() -> Result<PathBuf> {
    let repository = cached("debian-generic", &recipe(GENERIC_KERNEL), |dir| {
        build(dir, GENERIC_KERNEL).map(drop)
    })?;
    Ok(repository.join("debian-zst"))
}

/// All that a system with this kernel depends on.
fn recipe(kernel: &str) -> Vec<&str> {
    let mut recipe = vec![
        kernel,
        include_str!("debian.rs"),
        include_str!("debian/initramfs.sh"),
        include_str!("debian/customize.sh"),
        include_str!("debian/bootloader.sh"),
    ];
    recipe.extend(clonezilla::SCRIPTS);
    recipe
}

/// Installs a system on a disk and saves it; the disk.
fn build(dir: &Path, kernel: &str) -> Result<LoopDisk> {
    let root = dir.join("root");
    step("installing Debian with mmdebstrap", || install(&root, kernel))?;
    let file = dir.join("disk.raw");
    let disk = step("putting it on a bootable disk", || fill_disk(&root, &file))?;
    std::fs::remove_dir_all(&root).context("removing the installed tree")?;
    step("saving the disk with Clonezilla (zstd)", || {
        clonezilla::save_disk(&disk, dir, "debian-zst", Packing::Zstd)
    })?;
    Ok(disk)
}

fn install(root: &Path, kernel: &str) -> Result<()> {
    let script = |name: &str| {
        let path = paths::workspace().join("tests/src/image/debian").join(name);
        format!("sh '{}' \"$1\"", path.display())
    };
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--mode=root", "--aptopt=Acquire::Languages \"none\""]);
    for pattern in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command.arg(format!("--include={PACKAGES},{kernel}"));
    command.arg(format!("--essential-hook={}", script("initramfs.sh")));
    command.arg(format!("--customize-hook={}", script("customize.sh")));
    run(command.arg(SUITE).arg(root).arg(MIRROR))?;
    let fstab = format!(
        "UUID={} / ext4 errors=remount-ro 0 1\nUUID={} none swap sw 0 0\n",
        Debian::ROOT_UUID,
        Debian::SWAP_UUID
    );
    std::fs::write(root.join("etc/fstab"), fstab).context("writing fstab")
}

fn fill_disk(root: &Path, file: &Path) -> Result<LoopDisk> {
    let disk = File::create(file).context("creating the disk")?;
    disk.set_len(u64::from(DISK_MIB) << 20).context("sizing the disk")?;
    let table = file.with_extension("sfdisk");
    let text = format!("label: dos\nstart=1MiB,size={ROOT_MIB}MiB,type=83,bootable\ntype=82\n");
    std::fs::write(&table, text).context("writing the partition table's description")?;
    // `run` closes standard input, and sfdisk takes a table from nowhere else.
    run(Command::new("sh").args(["-c", "sfdisk -q \"$0\" <\"$1\""]).arg(file).arg(&table))?;
    std::fs::remove_file(&table).context("removing the partition table's description")?;

    let disk = LoopDisk::attach(file)?;
    disk.reread_partitions()?;
    // GRUB 2.06 reads neither feature; newer e2fsprogs turn them on by themselves. A small journal and few inodes,
    // because they count as used.
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file"]);
    mke2fs.args(["-J", "size=4", "-N", "24576"]);
    mke2fs.args(["-U", Debian::ROOT_UUID, "-d"]).arg(root);
    run(mke2fs.arg(disk.partition(1)?))?;
    run(Command::new("mkswap").args(["-U", Debian::SWAP_UUID]).arg(disk.partition(2)?))?;

    let mount_point = file.with_extension("mnt");
    std::fs::create_dir(&mount_point).context("creating a mount point")?;
    let script = paths::workspace().join("tests/src/image/debian/bootloader.sh");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh"]).arg(script);
    run(command.arg(disk.path()).arg(&mount_point)).context("installing GRUB in the system")?;
    std::fs::remove_dir(&mount_point).context("removing a mount point")?;
    Ok(disk)
}
