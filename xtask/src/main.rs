//! Development tasks, run as `cargo xtask <task>`: everything that setting up, checking, testing and shipping need is a
//! task here, so that a person, a continuous-integration job and a test do it the same way.

mod agent;
mod bench;
mod cargo;
mod check;
mod dist;
mod floors;
mod fuzz;
mod initramfs;
mod lab;
mod root;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use metalcast_tests::kernel::Kernel;
use metalcast_tests::process;

#[derive(Parser)]
#[command(about = "Development tasks of Metalcast", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need (Debian packages, the musl target)
    Setup,
    /// Format, lints, documentation and the floors between crates
    Check,
    /// Set up, check and run every test, emulated machines included (builds as you, goes on as root)
    Test(test::Options),
    /// Build the agent as a static musl program
    Agent(agent::Options),
    /// Build the RAM image: kernel and initramfs with the agent in it
    Initramfs(initramfs::Options),
    /// Deploy a real image to a blank emulated machine and show how long each phase takes (likewise)
    Lab(lab::Options),
    /// Throw damaged and made-up bytes at every parser, under libFuzzer
    Fuzz(fuzz::Options),
    /// Measure us beside programs that people use for the same (builds as you, goes on as root)
    Bench(bench::Options),
    /// Gather what is shipped under target/dist
    Dist(initramfs::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if process::interrupted() => {
            eprintln!("interrupted");
            ExitCode::from(process::INTERRUPTED_STATUS)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup => setup::run(),
        Task::Check => check::run(),
        Task::Test(options) => test::run(&options),
        Task::Agent(options) => {
            let path = agent::build_agent(options.without_rustup)?;
            println!("{}", path.display());
            Ok(())
        }
        Task::Initramfs(options) => {
            let kernel = options.kernel.unwrap_or(Kernel::Cloud);
            let dir = dist::ram_image(kernel, &options.agent)?;
            println!("{}", dir.display());
            Ok(())
        }
        Task::Lab(options) => lab::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Dist(options) => dist::run(&options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
