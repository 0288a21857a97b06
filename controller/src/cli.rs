//! The command line: a thin client of the API, and `serve`.
//!
//! Results go to stdout, talk and progress to stderr. What a command ends with is in `exit`.

mod client;
mod commands;
mod exit;
mod output;
mod watch;

pub use exit::Exit;

use crate::config::{Config, DEFAULT_PATH, DEFAULT_SOCKET};
use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use client::Client;
use commands::{backup, capture, clone, deploy, images, jobs, nodes, ports, verify};
use output::Printer;
use std::path::PathBuf;

/// Environment variable with the API's socket.
pub const SOCKET_VARIABLE: &str = "METALCAST_SOCKET";
/// Environment variable with the filter of `serve`'s log, such as `info,metalcast_controller=debug`.
pub const LOG_VARIABLE: &str = "METALCAST_LOG";
/// Environment variable that turns colours off when it is set to anything (no-color.org).
pub const NO_COLOR_VARIABLE: &str = "NO_COLOR";

/// How long open work gets when the program ends.
const CLOSING: std::time::Duration = std::time::Duration::from_secs(2);

/// How the program is called.
const PROGRAM: &str = "metalcast";

/// Images bare-metal machines over the network.
#[derive(Parser)]
#[command(name = PROGRAM, version, after_help = exit::HELP, max_term_width = 100)]
pub struct Cli {
    /// The API's socket
    #[arg(long, global = true, env = SOCKET_VARIABLE, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Form of results on stdout
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// Form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller in the foreground
    Serve(ConfigArgs),
    /// Look at the configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the ports that the configuration opens, and whether they can be had
    Ports(ConfigArgs),
    /// The controller at a glance
    Status,
    /// What operators did
    Audit,
    /// Write records, keys and leases into a file, while the controller runs
    Backup(backup::Backup),
    /// Put a backup into the place of a controller that is gone
    Restore(backup::Restore),
    /// Print a script with which a shell completes commands
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Nodes
    #[command(subcommand)]
    Node(nodes::Command),
    /// Images
    #[command(subcommand)]
    Image(images::Command),
    /// Put an image into a slot of nodes, onto a whole disk or into partitions of it
    Deploy(Box<deploy::Deploy>),
    /// Put the system that runs on a node into a slot of others, without an image in between
    Clone(Box<clone::Clone>),
    /// Save a slot, a disk or partitions of a node as an image
    Capture(capture::Capture),
    /// Compare a slot or a whole disk of nodes with what was put there; with --wait, 8 is the exit code if
    /// something has drifted
    Verify(verify::Verify),
    /// Start a slot that was deployed before
    Boot(deploy::Boot),
    /// Jobs
    #[command(subcommand)]
    Job(jobs::Command),
}

#[derive(Args)]
struct ConfigArgs {
    /// The configuration file
    #[arg(long, default_value = DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say whether the file is in order
    Check(ConfigArgs),
    /// Print the effective configuration, defaults filled in
    Show(ConfigArgs),
}

/// Carries out a command line, and says what went wrong.
pub fn run(cli: Cli) -> Exit {
    let printer = Printer::new(cli.output == Format::Json);
    in_runtime(cli, &printer).unwrap_or_else(|error| {
        printer.failure(&error);
        Exit::of(&error)
    })
}

fn in_runtime(cli: Cli, printer: &Printer) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let outcome = runtime.block_on(carry_out(cli, printer));
    runtime.shutdown_timeout(CLOSING);
    outcome
}

async fn carry_out(cli: Cli, printer: &Printer) -> anyhow::Result<Exit> {
    let Cli { socket, command, .. } = cli;
    let client = Client::new(&socket);
    match command {
        Command::Serve(ConfigArgs { config }) => {
            start_log();
            crate::app::serve(Config::load(&config)?).await?;
            Ok(Exit::Ok)
        }
        Command::Config(ConfigCommand::Check(ConfigArgs { config })) => {
            Config::load(&config)?;
            printer.talk(&format!("{} is in order", config.display()));
            printer.value(&serde_json::json!({ "config": config, "in_order": true }));
            Ok(Exit::Ok)
        }
        Command::Config(ConfigCommand::Show(ConfigArgs { config })) => {
            printer.line(Config::load(&config)?.to_string().trim_end());
            Ok(Exit::Ok)
        }
        Command::Ports(ConfigArgs { config }) => {
            ports::run(&Config::load(&config)?, &client, printer).await
        }
        Command::Status => commands::status(&client, printer).await,
        Command::Audit => commands::audit(&client, printer).await,
        Command::Backup(command) => backup::backup(command, &client, printer).await,
        Command::Restore(command) => backup::restore(command, printer).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
            printer.line(String::from_utf8_lossy(&script).trim_end());
            Ok(Exit::Ok)
        }
        Command::Node(command) => nodes::run(command, &client, printer).await,
        Command::Image(command) => images::run(command, &client, printer).await,
        Command::Deploy(command) => deploy::deploy(*command, &client, printer).await,
        Command::Clone(command) => clone::clone(*command, &client, printer).await,
        Command::Capture(command) => capture::capture(command, &client, printer).await,
        Command::Verify(command) => verify::verify(command, &client, printer).await,
        Command::Boot(command) => deploy::boot(command, &client, printer).await,
        Command::Job(command) => jobs::run(command, &client, printer).await,
    }
}

/// Levels: error - someone has to act; warn - not as it should be, but work goes on; info -
/// milestones of nodes and jobs; debug - for developers.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::is_coloured(&std::io::stderr()))
        .with_target(false)
        .init();
}
