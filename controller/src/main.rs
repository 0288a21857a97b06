//! `metalcast`: the controller and its command line.

use clap::Parser;
use metalcast_controller::cli::{Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Cli::parse()).into()
}
