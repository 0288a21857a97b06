//! The stages of a deploy one at a time by hand, on any Linux with root's rights.

mod capture;
mod controller;
mod golden;
mod image;
mod join;
mod layout;
mod loss;
mod restore;
mod scan;
mod stage;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use crate::{session::LogRing, task::Machine};
use clap::{Args, Parser, Subcommand};
use golden::GoldenArgs;
use image::ImageArgs;
use join::JoinArgs;
use stage::{DiskArgs, FixUpArgs, SlotArgs};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// Where the RAM image has GRUB's files.
const LOADERS: &str = "/lib/metalcast/grub";

/// Puts operating systems on disks. As process 1 of the RAM image it does so on a controller's word; by
/// hand it takes one stage at a time, on any Linux with root's rights.
///
/// A whole deploy into slot 5 by hand: `scan` to learn the disk's serial number and size, then
/// `partition`, `format`, `clear`, `fill`, `fix-up`, `boot-code` and `activate`, each with
/// `--serial ... --bytes ... --layout FILE` and, from `clear` on, `--slot 5`. A stage that was broken
/// off is taken again. Until `boot-code` is done nothing in the slot can be started.
#[derive(Debug, Parser)]
#[command(name = "metalcast-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what this machine is made of and what lies on its disks, as JSON
    Scan,
    /// Show what is recognised on a disk, partition or file
    Probe {
        /// The device or file
        device: PathBuf,
    },
    /// Serve a controller from this running machine, as if it had netbooted the agent
    ///
    /// For machines that cannot netboot. Nothing is written before the operator approves the node, and
    /// never to another disk than those named here. Ends when the controller wants a restart.
    Join {
        #[command(flatten)]
        join: JoinArgs,
        #[command(flatten)]
        loaders: Loaders,
    },
    /// Offer the system that runs on this machine to `metalcast clone --from`
    ///
    /// What is sent is the root filesystem, and /boot, /usr and /var where they are filesystems of their
    /// own, as they are while the system goes on. Nothing is written to any disk of this machine, the
    /// controller can give it no other work, and it is not restarted. Nothing is sent before an operator
    /// approves the node and orders it. Ends by SIGINT or SIGTERM.
    Golden(GoldenArgs),
    /// Write the layout's partition table, unless the disk has it
    ///
    /// Refused, without --yes, on a disk that is not blank.
    Partition {
        #[command(flatten)]
        disk: DiskArgs,
        #[command(flatten)]
        leave: Leave,
    },
    /// Make the boot partition's filesystem and the swap, where they are not there
    ///
    /// Slots are not touched. Refused, without --yes, where something else is in the boot partition.
    Format {
        #[command(flatten)]
        disk: DiskArgs,
        #[command(flatten)]
        leave: Leave,
    },
    /// Empty a slot for an image: what was in it cannot be started any more
    ///
    /// The image is only named here, for the boot menu, and its size compared; `fill` writes it.
    /// Refused, without --yes, where something is in the slot.
    Clear {
        #[command(flatten)]
        slot: SlotArgs,
        #[command(flatten)]
        image: ImageArgs,
        #[command(flatten)]
        leave: Leave,
    },
    /// Write one partition of an image into a slot that was cleared, and read it back
    ///
    /// Its boot code is left out: it cannot be started yet.
    Fill {
        #[command(flatten)]
        slot: SlotArgs,
        #[command(flatten)]
        image: ImageArgs,
    },
    /// Adapt the system in a slot to its place: fstab, boot menu, host name and keys, machine id
    FixUp {
        #[command(flatten)]
        slot: SlotArgs,
        #[command(flatten)]
        fix_up: FixUpArgs,
    },
    /// Have the filesystem in a slot take all of it: ext2/3/4, XFS, btrfs
    ///
    /// After `fix-up`, which gives it another UUID where the machine holds the same one already; nothing
    /// is lost.
    Grow {
        #[command(flatten)]
        slot: SlotArgs,
    },
    /// Write the boot loaders of the disk and of a slot; from here on the slot can be started
    BootCode {
        #[command(flatten)]
        slot: SlotArgs,
        #[command(flatten)]
        loaders: Loaders,
    },
    /// Make a slot the one that the disk starts
    Activate {
        #[command(flatten)]
        slot: SlotArgs,
    },
    /// Write one partition of an image to any partition or into a file, exactly as it was saved
    ///
    /// Refused always where the target is in use, and without --yes where it is not blank.
    Restore(restore::Restore),
    /// Save a partition, or a whole disk, as an image that stock Clonezilla restores
    ///
    /// Only what its filesystems use is read. Refused, without --force, is what is in use or was not
    /// unmounted properly. The directory appears when it is complete.
    Capture(capture::Capture),
    /// Compare a partition or file with one partition of an image
    ///
    /// A slot differs from its image once it was adapted and got its boot code.
    Verify(verify::Verify),
}

/// The boot loaders that are installed.
#[derive(Debug, Args)]
struct Loaders {
    /// Directory with boot.img, mbr-core.img and slot-core.img, as the RAM image has it
    #[arg(long = "loaders", value_name = "DIR", default_value = LOADERS)]
    dir: PathBuf,
}

/// What may be lost.
#[derive(Debug, Args)]
struct Leave {
    /// Destroy what is there
    #[arg(long)]
    yes: bool,
    /// Show what would be lost, and write nothing (a damaged boot partition is repaired all the same)
    #[arg(long)]
    dry_run: bool,
}

/// Reads the arguments and does as they say. Results go to standard output, all else to standard
/// error. Exit codes: 0 done, 1 failed, 2 usage.
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let logs = Arc::new(LogRing::default());
    let is_heard = matches!(command, Command::Join { .. } | Command::Golden(_));
    crate::console::start(is_heard.then(|| logs.clone()));
    let machine = Machine::this(match &command {
        Command::BootCode { loaders, .. } | Command::Join { loaders, .. } => &loaders.dir,
        _ => Path::new(LOADERS),
    });
    match command.run(&machine, &logs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn run(&self, machine: &Machine, logs: &Arc<LogRing>) -> anyhow::Result<()> {
        match self {
            Self::Join { join, .. } => join.run(machine, logs),
            Self::Golden(golden) => golden.run(logs),
            Self::Scan => scan::scan(),
            Self::Probe { device } => scan::probe(device),
            Self::Partition { disk, leave } => stage::partition(disk, leave, machine),
            Self::Format { disk, leave } => stage::format(disk, leave, machine),
            Self::Clear { slot, image, leave } => stage::clear(slot, image, leave, machine),
            Self::Fill { slot, image } => stage::fill(slot, image, machine),
            Self::FixUp { slot, fix_up } => stage::fix_up(slot, fix_up, machine),
            Self::Grow { slot } => stage::grow(slot, machine),
            Self::BootCode { slot, .. } => stage::boot_code(slot, machine),
            Self::Activate { slot } => stage::activate(slot, machine),
            Self::Restore(restore) => restore.run(),
            Self::Capture(capture) => capture.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

/// Prints a result. A reader that has gone away is no failure of ours.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
