//! Calls of cargo and rustup from within a task.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use metalcast_tests::{paths, process};

/// A cargo command in the checkout: the cargo that runs this task.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    // Set for `cargo run`'s child; they would make build scripts of the inner call run again.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

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
