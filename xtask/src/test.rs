//! `cargo xtask test`: sets up, checks, builds, and runs every test as root, emulated machines included. The last lines
//! are the test runner's own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use metalcast_tests::image;
use metalcast_tests::kernel::Kernel;
use metalcast_tests::paths;
use metalcast_tests::process::{run_visibly, shown};
use metalcast_tests::progress::step;

use crate::cargo::{answers, cargo};
use crate::{agent, check, dist, initramfs, root, setup};

/// What `cargo xtask test` takes.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Arguments for the test runner (cargo-nextest, or else `cargo test`), after `--`: a filter ...
    #[arg(last = true)]
    pub runner: Vec<String>,
}

/// Runs the tests.
///
/// # Errors
/// When setting up, a check, a build or a test fails.
pub fn run(options: &Options) -> Result<()> {
    let artefacts = root::artefacts(&initramfs::Options::default(), prepare)?;
    if options.runner.is_empty() {
        // Whichever test comes first would make them; here no test's time has it within.
        image::debian()?;
        image::debian_generic()?;
    }
    let mut tests = cargo();
    match has_nextest() {
        true => tests.args(["nextest", "run"]),
        false => tests.args(["test", "--no-fail-fast"]),
    };
    // All is built; whoever is root now must add nothing to another's registry.
    tests.args(["--workspace", "--offline"]).args(&options.runner);
    eprintln!("==> {}", shown(&tests));
    run_visibly(in_shared_mounts(&tests).envs(artefacts.variables()))
}

/// The command in a mount namespace of its own whose mounts are shared. Each namespace that a test makes begins with
/// a copy of all mounts that there are; only from shared ones does it hear that another test has ended its own, and
/// lets go of the device.
fn in_shared_mounts(inner: &Command) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "shared", "--"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.current_dir(paths::workspace());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn has_nextest() -> bool {
    answers("cargo", &["nextest", "--version"])
}

fn prepare() -> Result<PathBuf> {
    setup::run()?;
    check::run()?;
    step("building the tests", || {
        run_visibly(cargo().args(["test", "--quiet", "--workspace", "--no-run"]))
    })?;
    // The scenarios with real machines' devices need it; it lies beside the other.
    dist::ram_image(Kernel::Generic, &agent::Options::default())?;
    if has_nextest() {
        step("documentation tests", || {
            run_visibly(cargo().args(["test", "--quiet", "--workspace", "--doc"]))
        })?;
    }
    root::controller()
}
