//! `metalcast`: the controller and its command line.

use clap::Parser;
use metalcast_controller::cli::{Cli, Exit, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("metalcast: {error:#}");
            Exit::of(&error).into()
        }
    }
}
