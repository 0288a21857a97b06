//! The controller in a lab, operated through its real command line: what an operator does, tests do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::cargo;
use crate::kernel::Kernel;
use crate::lab::{BRIDGE, Lab};
use crate::paths;
use crate::process::{self, Background, bound, run};
use crate::qemu::Machine;

/// How long the controller may take to answer on its socket after its start.
const CONTROLLER_START: Duration = Duration::from_secs(60);

/// How long a machine may take from power-on until it has registered: ten times what an idle machine needs.
const REGISTRATION: Duration = Duration::from_secs(300);

/// How often a task is asked for: each asking is a process that the machines' emulation has to share with.
const TASK_POLL: Duration = Duration::from_millis(50);

/// Where Debian's package ipxe puts the boot files.
const IPXE_DIR: &str = "/usr/lib/ipxe";

/// What tells a program another time, of Debian's package faketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Environment variables that name artefacts: set by whoever has built them for those who shall not.
const CONTROLLER: &str = "METALCAST_CONTROLLER";
const RAM_IMAGE: &str = "METALCAST_RAM_IMAGE";

/// The programs and files of ours that a lab runs.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// The controller, `metalcast`.
    pub controller: PathBuf,
    /// The directory with `vmlinuz` and `initramfs`, the agent in it.
    pub ram_image: PathBuf,
}

impl Artefacts {
    /// What the environment names.
    pub fn given() -> Option<Self> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Some(Self { controller: path(CONTROLLER)?, ram_image: path(RAM_IMAGE)? })
    }

    /// The environment in which [`Artefacts::given`] are these.
    pub fn variables(&self) -> [(&'static str, &Path); 2] {
        [(CONTROLLER, &self.controller), (RAM_IMAGE, &self.ram_image)]
    }

    /// What is given, or else both built with cargo, as a person would; quick when nothing has changed.
    ///
    /// # Errors
    /// When something does not compile, with the compiler's words.
    pub fn given_or_built() -> Result<Self> {
        Self::given_or_built_with(Kernel::Cloud)
    }

    /// The same, with the RAM image of this kernel. RAM images lie side by side.
    ///
    /// # Errors
    /// As [`Artefacts::given_or_built`].
    pub fn given_or_built_with(kernel: Kernel) -> Result<Self> {
        if let Some(Self { controller, ram_image }) = Self::given() {
            let ram_image = ram_image.with_file_name(kernel.to_string());
            return Ok(Self { controller, ram_image });
        }
        run(cargo().args(["build", "-q", "-p", "metalcast-controller", "--bin", "metalcast"]))
            .context("building the controller")?;
        let printed = run(cargo().args(["xtask", "initramfs", "--kernel", &kernel.to_string()]))
            .context("building the RAM image")?;
        let ram_image = printed.lines().last().context("xtask named no RAM image")?;
        Ok(Self {
            controller: paths::target().join("debug/metalcast"),
            ram_image: PathBuf::from(ram_image),
        })
    }
}

/// The controller's part in DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dhcp {
    /// It gives the addresses .100 to .199.
    Server,
    /// It tells what to boot beside a server that gives them.
    Proxy,
}

/// What works on a task: once it has ended, nobody does.
pub trait Worker {
    /// Fails when it has ended.
    ///
    /// # Errors
    /// With the end of its output.
    fn check_running(&mut self) -> Result<()>;

    /// The end of its output.
    fn last_words(&self) -> String;
}

impl Worker for Machine {
    fn check_running(&mut self) -> Result<()> {
        Self::check_running(self)
    }

    fn last_words(&self) -> String {
        self.serial().last_lines(25)
    }
}

impl Worker for Background {
    fn check_running(&mut self) -> Result<()> {
        Self::check_running(self)
    }

    fn last_words(&self) -> String {
        self.log_tail()
    }
}

/// What differs between the controllers of labs.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its part in DHCP.
    pub dhcp: Dhcp,
    /// Where the boot files for firmware lie.
    pub ipxe_dir: PathBuf,
    /// Tables of the configuration beside those that every lab has, such as `[nodes]`.
    pub tables: String,
}

impl Default for Setup {
    /// The DHCP server, with Debian's iPXE.
    fn default() -> Self {
        Self { dhcp: Dhcp::Server, ipxe_dir: IPXE_DIR.into(), tables: String::new() }
    }
}

/// A running controller that serves the lab's network as its DHCP, TFTP and HTTP server.
#[derive(Debug)]
pub struct Rig {
    server: Background,
    program: PathBuf,
    config: PathBuf,
    socket: PathBuf,
}

impl Rig {
    /// Writes a configuration into the lab's directory, starts the controller in the lab and waits for its API.
    ///
    /// # Errors
    /// When it ends or does not answer; the error holds the end of its log.
    pub fn start(lab: &Lab, artefacts: &Artefacts) -> Result<Self> {
        Self::start_with(lab, artefacts, &Setup::default())
    }

    /// The same with another configuration.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn start_with(lab: &Lab, artefacts: &Artefacts, setup: &Setup) -> Result<Self> {
        let socket = lab.dir().join("api.sock");
        let config = lab.dir().join("metalcast.toml");
        std::fs::write(&config, configuration(lab, artefacts, &socket, setup))
            .with_context(|| format!("writing {}", config.display()))?;
        let server = Self::serve(lab, &artefacts.controller, &config)?;
        let program = artefacts.controller.clone();
        let mut rig = Self { server, program, config, socket };
        rig.wait_for_api()?;
        Ok(rig)
    }

    /// Stops the controller as a service manager would.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Kills the controller in the middle of whatever it does and starts it again; its log begins anew.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn kill_and_start(&mut self, lab: &Lab) -> Result<()> {
        self.server.kill();
        self.server = Self::serve(lab, &self.program, &self.config)?;
        self.wait_for_api()
    }

    /// The same, and its clock is ahead of all others from then on.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn kill_and_start_ahead(&mut self, lab: &Lab, ahead: Duration) -> Result<()> {
        self.server.kill();
        let mut command = lab.command(&self.program);
        command.arg("serve").arg("--config").arg(&self.config).env("LD_PRELOAD", FAKETIME);
        // Timers go by the clock that nobody sets.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
        command.env("FAKETIME", format!("+{}s", ahead.as_secs()));
        self.server = lab.spawn("controller", &mut command)?;
        self.wait_for_api()
    }

    /// The API's socket, for `metalcast --socket`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The controller's process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The controller's log.
    pub fn log_path(&self) -> &Path {
        self.server.log_path()
    }

    /// Fails with the end of its log when the controller has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        self.server.check_running()
    }

    /// The command line with these arguments, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bound(&self.program);
        command.arg("--socket").arg(&self.socket).args(arguments);
        command
    }

    /// Runs the command line and returns what it printed.
    ///
    /// # Errors
    /// When it ends with another status than 0, with what it said.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    /// Runs the command line with `-o json` and returns the parsed answer.
    ///
    /// # Errors
    /// As [`Rig::cli`], or when the answer is no JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let text = run(self.command(arguments).args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("parsing the answer {text:?}"))
    }

    /// Waits until this many nodes are in a state, and returns their names in order.
    ///
    /// # Errors
    /// When there are fewer after `timeout`, or the controller or a machine has ended meanwhile.
    pub fn wait_for_nodes(
        &mut self,
        machines: &mut [Machine],
        count: usize,
        state: &str,
        timeout: Duration,
    ) -> Result<Vec<String>> {
        let deadline = Instant::now() + timeout;
        loop {
            let answer = self.ask(&["node", "list"])?;
            let nodes = answer.as_array().context("`node list -o json` is no list")?;
            let mut names: Vec<String> = nodes
                .iter()
                .filter(|node| node["state"] == state)
                .filter_map(|node| node["name"].as_str().map(str::to_owned))
                .collect();
            if names.len() >= count {
                names.sort();
                return Ok(names);
            }
            self.server.check_running()?;
            for machine in machines.iter_mut() {
                machine.check_running()?;
            }
            if Instant::now() >= deadline {
                let consoles: Vec<_> = machines.iter().map(|m| m.serial().last_lines(25)).collect();
                bail!(
                    "{} of {count} nodes are {state} after {timeout:?}: {answer}\n{}\n{}",
                    names.len(),
                    self.server.log_tail(),
                    consoles.join("\n---\n")
                );
            }
            process::pause()?;
        }
    }

    /// Waits until a machine that was switched on has registered as a new node, and approves it; its name.
    ///
    /// # Errors
    /// As [`Rig::wait_for_nodes`].
    pub fn enrol(&mut self, machine: &mut Machine) -> Result<String> {
        let machine = std::slice::from_mut(machine);
        let node = self.wait_for_nodes(machine, 1, "new", REGISTRATION)?.remove(0);
        self.cli(&["node", "approve", &node])?;
        Ok(node)
    }

    /// The whole configuration that the controller has, as `metalcast config show` prints it.
    ///
    /// # Errors
    /// As [`Rig::cli`].
    pub fn shown_configuration(&self) -> Result<String> {
        run(bound(&self.program).args(["config", "show", "--config"]).arg(&self.config))
    }

    /// Orders work with a command that makes a job and does not wait; the job's number.
    ///
    /// # Errors
    /// As [`Rig::ask`], or when no job was made.
    pub fn order(&self, arguments: &[&str]) -> Result<u64> {
        let answer = self.ask(arguments)?;
        answer["job"].as_u64().with_context(|| format!("no job in {answer}"))
    }

    /// Waits until the only task of a job is as wanted, and returns it.
    ///
    /// # Errors
    /// When it has ended otherwise or `timeout` has passed (`reason` says what was waited for), or the controller or
    /// the machine has ended meanwhile.
    pub fn wait_for_task(
        &mut self,
        job: u64,
        machine: &mut impl Worker,
        timeout: Duration,
        reason: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + timeout;
        loop {
            let answer = self.ask(&["job", "show", &job.to_string()])?;
            let task = &answer["tasks"][0];
            if wanted(task) {
                return Ok(task.clone());
            }
            self.server.check_running()?;
            machine.check_running()?;
            if task["ended"] == true || Instant::now() >= deadline {
                bail!(
                    "job {job}, not within {timeout:?} or never: {reason}\n{task:#}\n{}\n{}",
                    self.server.log_tail(),
                    machine.last_words()
                );
            }
            std::thread::sleep(TASK_POLL);
            process::check_interrupt()?;
        }
    }

    fn serve(lab: &Lab, program: &Path, config: &Path) -> Result<Background> {
        let mut command = lab.command(program);
        lab.spawn("controller", command.arg("serve").arg("--config").arg(config))
    }

    fn wait_for_api(&mut self) -> Result<()> {
        let deadline = Instant::now() + CONTROLLER_START;
        loop {
            self.server.check_running()?;
            match self.ask(&["node", "list"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    let log = self.server.log_tail();
                    bail!("no answer from the API within {CONTROLLER_START:?}: {error:#}\n{log}");
                }
                Err(_) => process::pause()?,
            }
        }
    }
}

fn configuration(lab: &Lab, artefacts: &Artefacts, socket: &Path, setup: &Setup) -> String {
    // JSON's strings are TOML's basic strings.
    let quoted = |path: &Path| Value::from(path.to_string_lossy().into_owned()).to_string();
    let dhcp = match setup.dhcp {
        Dhcp::Server => {
            format!("range_start = \"{}\"\nrange_end = \"{}\"", lab.host(100), lab.host(199))
        }
        Dhcp::Proxy => "mode = \"proxy\"".to_owned(),
    };
    format!(
        "state_dir = {}\n[api]\nsocket = {}\n[network]\ninterface = \"{BRIDGE}\"\naddress = \"{}\"\n\
         [dhcp]\n{dhcp}\n[boot]\nram_image = {}\nipxe_dir = {}\n{}",
        quoted(&lab.dir().join("state")),
        quoted(socket),
        lab.address(),
        quoted(&artefacts.ram_image),
        quoted(&setup.ipxe_dir),
        setup.tables,
    )
}
