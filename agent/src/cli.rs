//! Single stages by hand, on any Linux with root's rights.

mod restore;
mod scan;

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Images bare machines; as process 1 of the RAM image it does so on a controller's word.
#[derive(Debug, Parser)]
#[command(name = "metalcast-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what this machine is made of, as JSON.
    Scan,
    /// Shows what is recognised on a disk, partition or file.
    Probe {
        /// The device or file.
        device: PathBuf,
    },
    /// Writes one partition of an image to a partition or file. It is not adapted to the machine.
    Restore(restore::Restore),
}

/// Reads the arguments and does as they say. Results go to standard output, all else to standard
/// error. Exit codes: 0 done, 1 failed, 2 usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    crate::console::start(None);
    let done = match cli.command {
        Command::Scan => scan::scan(),
        Command::Probe { device } => scan::probe(&device),
        Command::Restore(restore) => restore.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a result. A reader that has gone away is no failure of ours.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
