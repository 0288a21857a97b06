//! A PC with SeaBIOS, emulated by QEMU in a lab: blank disks, a network card that boots by PXE, a serial console.
//!
//! [`Spec`] says what machine; [`Machine`] is one that is switched on. The emulation is pure software (TCG), so that a
//! run needs no /dev/kvm and takes equally long everywhere. Firmware and boot loaders print on the serial port too
//! (`graphics=off`). A reset keeps the process: `-no-reboot` is never used.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::process::{self, Background};
use crate::serial::{Line, Serial};

/// How long QEMU may take to answer on its control socket.
const QMP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a system may take to shut down: a service that does not stop is given 90 s by systemd.
const SHUT_DOWN: Duration = Duration::from_secs(180);

/// How many console lines an error repeats.
const ERROR_LINES: usize = 25;

/// What the firmware tries first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootOrder {
    /// The network, then the disks in order.
    NetworkFirst,
    /// The disks in order, then the network.
    DiskFirst,
}

/// The network card of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// The virtual card that costs least.
    Virtio,
    /// Intel's 82540EM, as in many PCs of its time.
    E1000,
}

/// What a machine's disks hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk: `/dev/vda` ...
    Virtio,
    /// SATA behind an AHCI controller: `/dev/sda` ...
    Ahci,
    /// NVMe, a controller each: `/dev/nvme0n1` ...
    Nvme,
}

impl Bus {
    /// QEMU's name of a disk on it.
    fn driver(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-blk-pci",
            Self::Ahci => "ide-hd",
            Self::Nvme => "nvme",
        }
    }
}

/// A second network card of a machine, which cannot boot.
#[derive(Debug, Clone)]
pub struct SideNic {
    /// The tap device that it is plugged into; the test has made it.
    pub tap: String,
    /// Its address.
    pub mac: String,
}

/// A disk of a machine: a raw file.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The raw file.
    pub file: PathBuf,
    /// What the guest reads as the disk's serial number (20 bytes at most, virtio's limit).
    pub serial: String,
}

impl Disk {
    /// A new, empty, sparse disk file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn blank(file: &Path, bytes: u64, serial: &str) -> Result<Self> {
        let disk = File::create(file).with_context(|| format!("creating {}", file.display()))?;
        disk.set_len(bytes).with_context(|| format!("sizing {}", file.display()))?;
        Ok(Self { file: file.to_owned(), serial: serial.to_owned() })
    }
}

/// What machine to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name in logs and file names.
    pub name: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors; two at most pay off under software emulation.
    pub cpus: u8,
    /// The address of its network card.
    pub mac: String,
    /// The SMBIOS system UUID.
    pub uuid: String,
    /// The SMBIOS system serial number.
    pub serial: String,
    /// The kind of the network card that boots.
    pub nic: Nic,
    /// Another network card.
    pub side_nic: Option<SideNic>,
    /// Its disks, in the firmware's order.
    pub disks: Vec<Disk>,
    /// What they hang on.
    pub bus: Bus,
    /// What boots first.
    pub boot: BootOrder,
    /// What its clock says when it is switched on, such as `2016-01-01`; `None` for the time.
    pub clock: Option<&'static str>,
}

impl Spec {
    /// Machine number `number` of a lab: identity derived from the number, network first, no disk yet.
    pub fn node(number: u8) -> Self {
        Self {
            name: format!("node{number}"),
            memory_mib: 1024,
            cpus: 2,
            mac: format!("52:54:00:77:00:{number:02x}"),
            uuid: format!("4d657461-6c63-4173-8000-0000000000{number:02x}"),
            serial: format!("MC{number:06}"),
            nic: Nic::Virtio,
            side_nic: None,
            disks: Vec::new(),
            bus: Bus::Virtio,
            boot: BootOrder::NetworkFirst,
            clock: None,
        }
    }

    /// The same machine with one more disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// The same machine with this boot order.
    #[must_use]
    pub fn boot(mut self, boot: BootOrder) -> Self {
        self.boot = boot;
        self
    }

    /// The same machine with this much memory.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }
}

/// A machine that is switched on. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    name: String,
    mac: String,
    process: Background,
    serial: Serial,
    control: PathBuf,
    started: Instant,
}

impl Machine {
    /// Plugs a machine into the lab and switches it on.
    ///
    /// # Errors
    /// When QEMU cannot be started or a file not be made.
    pub fn start(lab: &mut Lab, spec: &Spec) -> Result<Self> {
        let tap = lab.add_tap()?;
        let console = lab.dir().join(format!("{}.serial", spec.name));
        let control = lab.dir().join(format!("{}.qmp", spec.name));
        let serial = Serial::follow(&console)?;
        let mut command = lab.command("qemu-system-x86_64");
        arguments(&mut command, spec, &tap, &console, &control);
        let started = Instant::now();
        let process = lab.spawn(&spec.name, &mut command)?;
        Ok(Self {
            name: spec.name.clone(),
            mac: spec.mac.clone(),
            process,
            serial,
            control,
            started,
        })
    }

    /// When it was switched on.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The address of its network card, in lower case.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// Its console.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until a console line seen at or after `since` contains `marker`.
    ///
    /// # Errors
    /// When it has not come in time, QEMU has ended, or the run is interrupted; the error holds `reason` (what the
    /// marker would have meant) and the last console lines.
    pub fn wait_for(
        &mut self,
        marker: &str,
        since: Instant,
        timeout: Duration,
        reason: &str,
    ) -> Result<Line> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(line) = self.serial.first(marker, since) {
                return Ok(line);
            }
            self.process.check_running()?;
            if Instant::now() >= deadline {
                let last = self.serial.last_lines(ERROR_LINES);
                bail!(
                    "{}: no {marker:?} within {timeout:?} ({reason}); it said last:\n{last}",
                    self.name
                );
            }
            process::pause()?;
        }
    }

    /// Plugs a disk into the running machine.
    ///
    /// # Errors
    /// When QEMU does not take it.
    pub fn plug(&mut self, disk: &Disk, bus: Bus) -> Result<()> {
        let node = format!("plugged-{}", disk.serial);
        let file = json!({ "driver": "file", "filename": disk.file });
        self.control_with(
            "blockdev-add",
            &json!({ "node-name": node, "driver": "raw", "file": file }),
        )?;
        let device =
            json!({ "driver": bus.driver(), "drive": node, "serial": disk.serial, "id": node });
        self.control_with("device_add", &device).map(drop)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn reset(&mut self) -> Result<()> {
        self.control("system_reset").map(drop)
    }

    /// Halts the processors.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn pause(&mut self) -> Result<()> {
        self.control("stop").map(drop)
    }

    /// Lets halted processors go on.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn resume(&mut self) -> Result<()> {
        self.control("cont").map(drop)
    }

    /// What QEMU calls the machine's state: `running`, `paused`, `shutdown` ...
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn status(&mut self) -> Result<String> {
        let answer = self.control("query-status")?;
        Ok(answer["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Switches it off and waits for QEMU to end, so that the disk files are complete.
    ///
    /// # Errors
    /// When QEMU does not end.
    pub fn power_off(mut self) -> Result<()> {
        self.control("quit")?;
        self.process.wait(QMP_TIMEOUT, "QEMU ending after quit").map(drop)
    }

    /// Presses the power button and waits until the system in it has shut down.
    ///
    /// # Errors
    /// When it does not, with the last console lines.
    pub fn shut_down(mut self) -> Result<()> {
        self.control("system_powerdown")?;
        let ended = self.process.wait(SHUT_DOWN, "the system shutting down");
        ended.map(drop).with_context(|| self.serial.last_lines(25))
    }

    /// Pulls the plug: QEMU is killed with whatever the guest still held in memory.
    pub fn cut_power(mut self) {
        self.process.kill();
    }

    /// Fails when QEMU has ended.
    ///
    /// # Errors
    /// With the end of QEMU's own output.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.check_running()
    }

    fn control(&mut self, execute: &str) -> Result<Value> {
        self.control_with(execute, &json!({}))
    }

    /// Sends one QMP command (QEMU's machine protocol: a JSON object a line, events in between) and returns its answer.
    fn control_with(&mut self, execute: &str, arguments: &Value) -> Result<Value> {
        let attempt = || -> Result<Value> {
            let stream = self.connect()?;
            stream.set_read_timeout(Some(QMP_TIMEOUT)).context("setting a time limit")?;
            let mut reader = BufReader::new(stream.try_clone().context("sharing the socket")?);
            let mut writer = stream;
            answer(&mut reader, "QMP")?;
            let mut ask = |command: Value| -> Result<Value> {
                writeln!(writer, "{command}").context("sending a command")?;
                answer(&mut reader, "return")
            };
            ask(json!({ "execute": "qmp_capabilities" }))?;
            ask(json!({ "execute": execute, "arguments": arguments }))
        };
        attempt().with_context(|| format!("telling QEMU of {} to {execute}", self.name))
    }

    fn connect(&self) -> Result<UnixStream> {
        let deadline = Instant::now() + QMP_TIMEOUT;
        loop {
            match UnixStream::connect(&self.control) {
                Ok(stream) => return Ok(stream),
                Err(_) if Instant::now() < deadline => process::pause()?,
                Err(error) => return Err(error).context("connecting to QEMU's control socket"),
            }
        }
    }
}

/// Reads messages up to the one that has `key`, and returns its value.
fn answer(reader: &mut impl BufRead, key: &str) -> Result<Value> {
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).context("reading QEMU's answer")? == 0 {
            // QEMU closes the socket right after `quit`.
            return Ok(Value::Null);
        }
        let mut message: Value = serde_json::from_str(&line).context("parsing QEMU's answer")?;
        if let Some(error) = message.get("error") {
            bail!("QEMU refused: {error}");
        }
        if let Some(value) = message.get_mut(key) {
            return Ok(value.take());
        }
    }
}

fn arguments(command: &mut Command, spec: &Spec, tap: &str, console: &Path, control: &Path) {
    let network_first = spec.boot == BootOrder::NetworkFirst;
    let disks = spec.disks.len();
    command.args(["-name", &spec.name, "-nodefaults", "-display", "none", "-no-user-config"]);
    // Every instruction that can be emulated: without AES and vectors, decryption takes over twice as long.
    command.args(["-machine", "pc,graphics=off", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    command.args(["-m", &spec.memory_mib.to_string(), "-smp", &spec.cpus.to_string()]);
    // Without a source of random numbers a guest's key generation waits for interrupts.
    command.args(["-device", "virtio-rng-pci"]);
    if let Some(clock) = spec.clock {
        command.arg("-rtc").arg(format!("base={clock}"));
    }
    command.arg("-smbios").arg(format!(
        "type=1,manufacturer=Metalcast,product=Lab,uuid={},serial={}",
        spec.uuid, spec.serial
    ));
    command.arg("-chardev").arg(format!("file,id=console,path={}", quoted(console)));
    command.args(["-serial", "chardev:console"]);
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", quoted(control)));
    if let Some(SideNic { tap, mac }) = &spec.side_nic {
        // Before the other on the bus; without a boot ROM.
        command.arg("-netdev").arg(format!("tap,id=side,ifname={tap},script=no,downscript=no"));
        command.arg("-device").arg(format!("virtio-net-pci,netdev=side,mac={mac},romfile="));
    }
    let order = if network_first { 0 } else { disks };
    command.arg("-netdev").arg(format!("tap,id=net0,ifname={tap},script=no,downscript=no"));
    let nic = match spec.nic {
        Nic::Virtio => "virtio-net-pci",
        Nic::E1000 => "e1000",
    };
    command.arg("-device").arg(format!("{nic},netdev=net0,mac={},bootindex={order}", spec.mac));
    if spec.bus == Bus::Ahci {
        command.args(["-device", "ich9-ahci,id=ahci"]);
    }
    for (index, disk) in spec.disks.iter().enumerate() {
        let order = if network_first { index + 1 } else { index };
        // Only a host crash could lose what cache=unsafe holds back, and no test outlives one.
        command.arg("-drive").arg(format!(
            "if=none,id=disk{index},format=raw,cache=unsafe,discard=unmap,file={}",
            quoted(&disk.file)
        ));
        let port = match spec.bus {
            Bus::Ahci => format!(",bus=ahci.{index}"),
            Bus::Virtio | Bus::Nvme => String::new(),
        };
        command.arg("-device").arg(format!(
            "{},drive=disk{index},serial={},bootindex={order}{port}",
            spec.bus.driver(),
            disk.serial
        ));
    }
}

/// A path inside a QEMU option list, where a comma is written twice.
fn quoted(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
