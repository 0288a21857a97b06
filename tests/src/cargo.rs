//! Calls of cargo from a program that cargo itself runs.

use std::process::Command;

use crate::paths;

/// Cargo tells the programs that it runs about their package. Build scripts (ring's, for one) run again, and with them
/// the compiler for all that depends on them, whenever these differ from the last time.
const ABOUT_US: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];

/// A cargo command in the checkout, by the cargo that runs us, which builds as if called from a shell.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    for (name, _) in std::env::vars_os() {
        if ABOUT_US.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
}
