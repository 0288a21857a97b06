//! The real Clonezilla, unattended, on loop disks: saves and restores the images that Metalcast must understand.
//!
//! `ocs-sr` runs in a mount namespace where it sees no disk of the host (`clonezilla/batch.sh`), with two small programs
//! before the real ones in PATH that tell the kernel about partitions (`clonezilla/shims`). One runs at a time: it
//! probes every loop device that it finds.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::loopdev::LoopDisk;
use crate::paths;
use crate::process::run;

/// What a recipe hashes to notice a change in how Clonezilla is run.
pub(crate) const SCRIPTS: [&str; 4] = [
    include_str!("clonezilla.rs"),
    include_str!("clonezilla/batch.sh"),
    include_str!("clonezilla/shims/blockdev"),
    include_str!("clonezilla/shims/sfdisk"),
];

/// The disk name that saved images bear, whatever loop device they were saved from.
pub const DISK_NAME: &str = "sda";

/// How partition data is compressed and cut, as Clonezilla's options say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `-z9p`: zstd on all processors, one file.
    Zstd,
    /// `-z1p -i N`: pigz, cut into files of N million bytes named `.aa`, `.ab` ...
    GzipSplit {
        /// The size of each file but the last, in units of 1,000,000 bytes.
        megabytes: u32,
    },
}

impl Packing {
    fn options(self) -> [String; 3] {
        let (packer, size) = match self {
            Self::Zstd => ("-z9p", 0),
            Self::GzipSplit { megabytes } => ("-z1p", megabytes),
        };
        [packer.to_owned(), "-i".to_owned(), size.to_string()]
    }
}

/// Saves a whole disk as `<repository>/<name>` with `ocs-sr savedisk`.
///
/// # Errors
/// When Clonezilla fails; the error holds the end of what it printed.
pub fn save_disk(disk: &LoopDisk, repository: &Path, name: &str, packing: Packing) -> Result<()> {
    save(disk, repository, name, packing, "savedisk", &disk.name())
}

/// Saves one partition as `<repository>/<name>` with `ocs-sr saveparts`.
///
/// # Errors
/// When Clonezilla fails; the error holds the end of what it printed.
pub fn save_partition(
    disk: &LoopDisk,
    number: u32,
    repository: &Path,
    name: &str,
    packing: Packing,
) -> Result<()> {
    let partition = format!("{}p{number}", disk.name());
    save(disk, repository, name, packing, "saveparts", &partition)
}

fn save(
    disk: &LoopDisk,
    repository: &Path,
    name: &str,
    packing: Packing,
    mode: &str,
    device: &str,
) -> Result<()> {
    let _turn = take_turn()?;
    // -scs: no check of the new image, the tests do that themselves.
    let mut command = ocs_sr(repository, &["-q2", "-j2", "-scs"]);
    run(command.args(packing.options()).args([mode, name, device]))
        .with_context(|| format!("saving {device} with Clonezilla"))?;
    let image = repository.join(name);
    // It ends with status 0 after some failures too.
    ensure!(
        image.join("parts").is_file(),
        "Clonezilla made no complete image in {}",
        image.display()
    );
    run(batch(repository).args([
        "cnvt-ocs-dev",
        "-d",
        "/mnt",
        "-b",
        name,
        &disk.name(),
        DISK_NAME,
    ]))
    .context("renaming the disk inside the image")?;
    ensure!(!dir_has(&image, &disk.name())?, "{} still names {}", image.display(), disk.name());
    Ok(())
}

/// Restores partition `from` of an image (a number on the saved disk) into partition `to` of `disk`, and nothing else:
/// neither table nor boot code, and no file is edited afterwards.
///
/// # Errors
/// When Clonezilla fails; the error holds the end of what it printed.
pub fn restore_partition(
    repository: &Path,
    name: &str,
    from: u32,
    disk: &LoopDisk,
    to: u32,
) -> Result<()> {
    let _turn = take_turn()?;
    let source = format!("{DISK_NAME}{from}");
    let target = format!("{}p{to}", disk.name());
    // -k no table, -t no MBR code, -iui -irhr -ius no initramfs, udev or host key changes, -scr no check before.
    let options = ["-k", "-t", "-iui", "-irhr", "-ius", "-scr", "-f", &source];
    let printed = run(ocs_sr(repository, &options).args(["restoreparts", name, &target]))
        .with_context(|| format!("restoring {source} to {target} with Clonezilla"))?;
    // It ends with status 0 after some failures too.
    ensure!(
        printed.contains("Finished unicast restoring image"),
        "Clonezilla did not restore {target}:\n{}",
        crate::process::tail(&printed)
    );
    Ok(())
}

fn ocs_sr(repository: &Path, options: &[&str]) -> Command {
    let mut command = batch(repository);
    command.args(["ocs-sr", "-or", "/mnt", "-nogui", "-batch", "-p", "true"]).args(options);
    command
}

fn batch(repository: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh"]);
    command.arg(paths::workspace().join("tests/src/clonezilla/batch.sh")).arg(repository);
    command
}

/// Held while Clonezilla runs; the lock goes with the file.
fn take_turn() -> Result<File> {
    let path = paths::lab()?.join("clonezilla.lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

fn dir_has(dir: &Path, prefix: &str) -> Result<bool> {
    for entry in dir.read_dir().with_context(|| format!("listing {}", dir.display()))? {
        let name = entry.context("listing an image")?.file_name();
        if name.to_string_lossy().starts_with(prefix) {
            return Ok(true);
        }
    }
    Ok(false)
}
