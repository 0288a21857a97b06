//! A node that needs no emulation: the agent of the RAM image, run by hand (`metalcast-agent join`) in namespaces of its
//! own, with a loop device as its disk and a cable to the lab.
//!
//! ```text
//!   lab: br0 ── cableN ═══ eth0 10.77.L.(200+N) :host   metalcast-agent join ── /dev/loopX ── a file
//! ```
//!
//! What differs from a whole machine is how the agent gets there and that nothing starts afterwards; all else is the
//! shipped program. So a hundred of them fit where two machines do, and a cable can be pulled at a chosen byte.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lab::{BRIDGE, Lab};
use crate::loopdev::LoopDisk;
use crate::namespace::Namespace;
use crate::process::{Background, run};
use crate::rig::Artefacts;

/// The agent's program and GRUB's parts, taken out of a RAM image: what a node would run.
#[derive(Debug, Clone)]
pub struct Shipped {
    dir: PathBuf,
}

impl Shipped {
    /// Unpacks what is needed of the RAM image into a directory.
    ///
    /// # Errors
    /// When it is not what is built here, or zstd(1) or cpio(1) cannot read it.
    pub fn of(artefacts: &Artefacts, dir: &Path) -> Result<Self> {
        let dir = dir.join("shipped");
        std::fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let initramfs = artefacts.ram_image.join("initramfs");
        let bytes = std::fs::read(&initramfs)
            .with_context(|| format!("reading {}", initramfs.display()))?;
        let rest = behind_first_archive(&bytes)
            .with_context(|| format!("{} is not two archives", initramfs.display()))?;
        std::fs::write(dir.join("rest"), rest).context("writing the second archive")?;
        let unpack = "zstd -dcq rest | cpio -idm --quiet bin/metalcast-agent 'lib/metalcast/*'";
        run(Command::new("sh").args(["-ec", unpack]).current_dir(&dir))?;
        Ok(Self { dir })
    }

    /// The agent's program.
    pub fn agent(&self) -> PathBuf {
        self.dir.join("bin/metalcast-agent")
    }

    /// The directory of its boot loaders.
    pub fn loaders(&self) -> PathBuf {
        self.dir.join("lib/metalcast/grub")
    }
}

/// The initramfs is two cpio archives: what is packed by itself, and behind it the rest, compressed.
fn behind_first_archive(initramfs: &[u8]) -> Option<&[u8]> {
    let trailer = b"TRAILER!!!\0";
    let at = initramfs.windows(trailer.len()).position(|window| window == trailer)?;
    let rest = initramfs.get((at + trailer.len()).next_multiple_of(4)..)?;
    rest.get(rest.iter().position(|byte| *byte != 0)?..)
}

/// A host on a cable, with one disk.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    cable: String,
    serial: String,
    disk: LoopDisk,
}

impl Host {
    /// Plugs host `number` into the lab. The disk is `file`, whose name is its serial number.
    ///
    /// # Errors
    /// When ip(8) or losetup(8) cannot.
    pub fn plug(lab: &Lab, number: u8, file: &Path) -> Result<Self> {
        let name = format!("host{number}");
        let namespace = Namespace::new(&name, lab.dir())?;
        let cable = format!("cable{number}");
        let pid = namespace.pid().to_string();
        let mac = format!("52:54:00:78:00:{number:02x}");
        let peer = ["peer", "name", "eth0", "address", &mac, "netns", &pid];
        lab.ip(&[&["link", "add", &cable, "type", "veth"], &peer[..]].concat())?;
        lab.ip(&["link", "set", &cable, "master", BRIDGE, "up"])?;
        let address = format!("{}/24", lab.host(200 + number));
        namespace.ip(&["address", "add", &address, "dev", "eth0"])?;
        namespace.ip(&["link", "set", "eth0", "up"])?;
        let serial = file.file_name().context("the disk has no name")?.to_string_lossy();
        let serial = serial.into_owned();
        Ok(Self { namespace, cable, serial, disk: LoopDisk::attach(file)? })
    }

    /// A new, empty, sparse disk file in the lab's directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn blank_disk(lab: &Lab, serial: &str, bytes: u64) -> Result<PathBuf> {
        let path = lab.dir().join(serial);
        let made = File::create(&path).and_then(|file| file.set_len(bytes));
        made.with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Its disk.
    pub fn disk(&self) -> &LoopDisk {
        &self.disk
    }

    /// A command on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Starts the agent; it ends by itself when the controller wants a restart.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join(&self, lab: &Lab, shipped: &Shipped) -> Result<Background> {
        self.join_at(lab, shipped, 80)
    }

    /// The same with what an HTTP server on another port than the controller's gives it to boot with.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join_at(&self, lab: &Lab, shipped: &Shipped, port: u16) -> Result<Background> {
        let mut command = self.command(shipped.agent());
        let server = format!("{}:{port}", lab.address());
        command.arg("join").arg(server).args(["--disks", &self.serial]);
        command.arg("--loaders").arg(shipped.loaders());
        lab.spawn(&format!("agent-{}", self.serial), &mut command)
    }

    /// What the firmware of a machine would do next: ask for its boot script.
    ///
    /// # Errors
    /// When curl(1) gets none.
    pub fn boot_script(&self, lab: &Lab) -> Result<String> {
        let mac = self.mac()?.replace(':', "-");
        let url = format!("http://{}/boot/{mac}.ipxe", lab.address());
        run(self.command("curl").args(["-sSf", "--max-time", "20", &url]))
    }

    /// The address of its network card.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn mac(&self) -> Result<String> {
        let mac = run(self.command("cat").arg("/sys/class/net/eth0/address"))?;
        Ok(mac.trim().to_owned())
    }

    /// Bytes that have come over its cable.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn received_bytes(&self) -> Result<u64> {
        let count = run(self.command("cat").arg("/sys/class/net/eth0/statistics/rx_bytes"))?;
        count.trim().parse().context("understanding a network card's count")
    }

    /// Bytes that it has sent over its cable.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn sent_bytes(&self) -> Result<u64> {
        let count = run(self.command("cat").arg("/sys/class/net/eth0/statistics/tx_bytes"))?;
        count.trim().parse().context("understanding a network card's count")
    }

    /// Pulls the cable.
    ///
    /// # Errors
    /// When ip(8) cannot.
    pub fn unplug(&self, lab: &Lab) -> Result<()> {
        lab.ip(&["link", "set", &self.cable, "down"]).map(drop)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// When ip(8) cannot.
    pub fn plug_in_again(&self, lab: &Lab) -> Result<()> {
        lab.ip(&["link", "set", &self.cable, "up"]).map(drop)
    }

    /// Makes the cable slow, so that there is time to do things in the middle.
    ///
    /// # Errors
    /// When tc(8) cannot.
    pub fn slow_down(&self, lab: &Lab, mbit: u32) -> Result<()> {
        slow_down(lab.command("tc"), &self.cable, mbit)
    }

    /// Makes it slow in the other direction.
    ///
    /// # Errors
    /// When tc(8) cannot.
    pub fn slow_down_sending(&self, mbit: u32) -> Result<()> {
        slow_down(self.command("tc"), "eth0", mbit)
    }
}

fn slow_down(mut tc: Command, device: &str, mbit: u32) -> Result<()> {
    let rate = format!("{mbit}mbit");
    tc.args(["qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate]);
    run(tc.args(["burst", "256k", "latency", "50ms"])).map(drop)
}
