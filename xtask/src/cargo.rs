//! Calls of cargo and rustup from within a task.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
pub use metalcast_tests::cargo::cargo;
use metalcast_tests::{paths, process};

/// Whether a program answers to these arguments with success.
pub fn answers(program: &str, arguments: &[&str]) -> bool {
    process::run(Command::new(program).args(arguments)).is_ok()
}

/// Builds a package's program unoptimised and returns its path.
///
/// # Errors
/// When it does not compile.
pub fn build(package: &str, program: &str) -> Result<PathBuf> {
    process::run_visibly(cargo().args([
        "build",
        "--quiet",
        "--package",
        package,
        "--bin",
        program,
    ]))?;
    Ok(paths::target().join("debug").join(program))
}
