//! Root, which network namespaces and loop devices need: whoever calls builds as who they are, and goes on as root with
//! what was built, through sudo if need be.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use metalcast_tests::kernel::Kernel;
use metalcast_tests::paths;
use metalcast_tests::process::check_interrupt;
use metalcast_tests::progress::step;
use metalcast_tests::rig::Artefacts;

use crate::cargo::{answers, build};
use crate::{dist, initramfs};

/// Where Debian keeps programs for root; a user's PATH does not have them.
const ROOTS_PROGRAMS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command as root: itself, or through sudo without a password.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// The artefacts for a task whose second half needs root. Who is not root does what comes before that, `prepare`, which
/// builds a controller, and builds the RAM image; then this process becomes the same task as root, to which both are given.
///
/// # Errors
/// When root is out of reach, and as `prepare`; when something does not compile.
pub fn artefacts(
    options: &initramfs::Options,
    prepare: impl FnOnce() -> Result<PathBuf>,
) -> Result<Artefacts> {
    if let Some(given) = Artefacts::given() {
        return Ok(given);
    }
    ensure!(
        is_root() || answers("sudo", &["-n", "true"]),
        "this needs root, and `sudo -n` asks for a password: call it as root, or allow {} sudo \
         without one (NOPASSWD in sudoers)",
        std::env::var("USER").unwrap_or_else(|_| "yourself".to_owned())
    );
    let artefacts = Artefacts {
        controller: prepare()?,
        ram_image: dist::ram_image(options.kernel.unwrap_or(Kernel::Cloud), &options.agent)?,
    };
    if !is_root() {
        become_root(&artefacts)?;
    }
    Ok(artefacts)
}

/// Builds the controller as it is for tests, in a minute, and returns its path.
///
/// # Errors
/// When it does not compile.
pub fn controller() -> Result<PathBuf> {
    step("building the controller", || build("metalcast-controller", "metalcast"))
}

fn become_root(artefacts: &Artefacts) -> Result<()> {
    // Made by root, it would be closed to its user.
    paths::lab()?;
    let mut path = OsString::from("PATH=");
    path.push(std::env::var_os("PATH").context("reading PATH")?);
    path.push(":");
    path.push(ROOTS_PROGRAMS);
    let mut command = Command::new("sudo");
    // With the user's home, in which cargo finds what it has; sudo insists on a PATH of its own.
    command.args(["-n", "--preserve-env", "env"]).arg(path);
    for (name, value) in artefacts.variables() {
        let mut variable = OsString::from(name);
        variable.push("=");
        variable.push(value);
        command.arg(variable);
    }
    command.arg(std::env::current_exe().context("asking for this program's path")?);
    check_interrupt()?;
    let error = command.args(std::env::args_os().skip(1)).exec();
    bail!("going on as root with sudo: {error}")
}
