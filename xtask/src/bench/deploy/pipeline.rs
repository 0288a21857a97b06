//! What people do without a system for it: the image by nc(1) into zstd(1) and partclone(8), with Clonezilla's options.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use metalcast_tests::host::Host;
use metalcast_tests::lab::Lab;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::process;

use super::super::library_path;
use super::super::warm;
use super::super::watch::{PRINT_TIME, Watch, printed_time};
use super::WORK;

/// Packages that are unpacked, not installed.
pub const PACKAGES: [&str; 2] = ["netcat-openbsd", "libbsd0"];

const PORT: u16 = 7000;
/// As long as a slot.
const TARGET_BYTES: u64 = 20_000_000_000;

/// The pipeline's programs, image and disk.
pub struct Pipeline {
    nc: String,
    image: PathBuf,
    disk: LoopDisk,
}

/// One restoration.
pub struct Restored {
    /// From the start of the sender to the disk's being flushed.
    pub seconds: f64,
    /// Of all programs of both ends.
    pub cpu_seconds: f64,
    /// Of the three programs on the node.
    pub peak_megabytes: f64,
}

impl Pipeline {
    /// `image` is a file that partclone and zstd made; `netcat` and `libraries` are unpacked packages.
    pub fn new(lab: &Lab, image: &Path, netcat: &Path, libraries: &Path) -> Result<Self> {
        let file = Host::blank_disk(lab, "restored", TARGET_BYTES)?;
        let nc = netcat.join("bin/nc.openbsd");
        let nc = format!("env {} {}", library_path(libraries)?, nc.display());
        Ok(Self { nc, image: image.to_owned(), disk: LoopDisk::attach(&file)? })
    }

    /// Restores the image once, to a blank disk.
    pub fn restore(&self, lab: &Lab, host: &Host) -> Result<Restored> {
        self.disk.make_blank()?;
        warm(&self.image)?;
        let (nc, address) = (&self.nc, lab.address());
        let receive = format!(
            "{nc} -d {address} {PORT} | zstd -dcq | \
             partclone.restore -z 10485760 -L restore.log -s - -o \"$0\" && sync \"$0\" && \
             {PRINT_TIME}"
        );
        let send = format!("{nc} -N -l {PORT} <\"$0\"");
        // Who listens is ready before the clock starts, and the other one's start counts.
        let mut sender = lab.spawn("nc", lab.command("sh").args(["-c", &send]).arg(&self.image))?;
        wait_for_listener(lab)?;
        let start = SystemTime::now();
        let mut receiver =
            lab.spawn("restore", host.command("sh").args(["-c", &receive]).arg(self.disk.path()))?;
        let watches = [sender.pid(), receiver.pid()].map(|pid| Watch::start(vec![pid]));
        let status = receiver.wait(WORK, "partclone restores")?;
        let [sent, received] = watches.map(Watch::end);
        let log = receiver.log_tail();
        ensure!(status.success() && log.contains("Cloned successfully"), "{log}");
        sender.wait(WORK, "nc has sent all")?;
        let end = printed_time(&log)?;
        Ok(Restored {
            seconds: end.duration_since(start)?.as_secs_f64(),
            cpu_seconds: sent.cpu_seconds(start, end) + received.cpu_seconds(start, end),
            peak_megabytes: received.peak_megabytes(|name| name != "sh"),
        })
    }
}

fn wait_for_listener(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + WORK;
    // A local address that ends with the port, and the state LISTEN (proc(5)).
    let listens = format!(":{PORT:04X} 00000000:0000 0A ");
    while !std::fs::read_to_string(format!("/proc/{}/net/tcp", lab.holder_pid()))
        .context("looking for nc's port")?
        .contains(&listens)
    {
        ensure!(Instant::now() < deadline, "nc does not listen");
        process::pause()?;
    }
    Ok(())
}
