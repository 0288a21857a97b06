//! `cargo xtask check`: everything that is demanded of the source without running it.

use anyhow::Result;
use metalcast_tests::process::run_visibly;
use metalcast_tests::progress::step;

use crate::cargo::cargo;
use crate::floors;

/// Checks format, lints, documentation and floors; stops at the first that fails.
///
/// # Errors
/// Names the check that failed; the tool's own output has gone to the terminal.
pub fn run() -> Result<()> {
    step("checking the floors between crates", floors::check)?;
    step("checking the format", || run_visibly(cargo().args(["fmt", "--all", "--", "--check"])))?;
    step("checking lints", || {
        let lint = ["clippy", "--quiet", "--workspace", "--all-targets"];
        run_visibly(cargo().args(lint).args(["--", "-D", "warnings"]))
    })?;
    step("checking the documentation", || {
        let mut command = cargo();
        command.args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        run_visibly(command.env("RUSTDOCFLAGS", "-D warnings"))
    })
}
