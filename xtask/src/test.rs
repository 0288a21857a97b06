//! `cargo xtask test`: sets up and runs every test, emulated machines included. The last lines are the test runner's own.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};
use metalcast_tests::process::{run_visibly, shown};
use metalcast_tests::progress::step;

use crate::cargo::{answers, build, cargo};
use crate::{agent, dist, floors, setup};

/// The variable that names the program which starts tests (for a host of this kind).
const RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";

/// What `cargo xtask test` takes.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Arguments for the test runner, after `--`: a filter, `--no-capture` ...
    #[arg(last = true)]
    pub runner: Vec<String>,
}

/// Runs the tests; does not return when the runner could be started, whose status is then the task's.
///
/// # Errors
/// When setting up, a build or a documentation test fails.
pub fn run(options: &Options) -> Result<()> {
    setup::run()?;
    step("checking the floors between crates", floors::check)?;
    // Built here so that the wait is visible; the suites would do it themselves.
    step("building the controller", || build("metalcast-controller", "metalcast"))?;
    dist::ram_image(&agent::Options::default())?;
    let mut tests = cargo();
    if answers("cargo", &["nextest", "--version"]) {
        let doc = ["test", "--quiet", "--workspace", "--doc"];
        step("documentation tests", || run_visibly(cargo().args(doc)))?;
        tests.args(["nextest", "run", "--workspace"]).args(&options.runner);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast"]);
        tests.args(&options.runner);
    }
    if !nix::unistd::geteuid().is_root() {
        let path = std::env::var("PATH").context("reading PATH")?;
        tests.env(RUNNER, format!("sudo -n --preserve-env env PATH={path}"));
    }
    eprintln!("==> {}", shown(&tests));
    let error = tests.exec();
    Err(error).context("starting the test runner")
}
