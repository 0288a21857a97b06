//! `/init` of the RAM image and the kernel's `modprobe` in it, or a tool on any Linux: which of them,
//! name and process id tell.

use metalcast_agent::{
    cli, console,
    init::{self, InitOutcome},
    inventory,
    session::{self, Config, Ending, LogRing, Role},
    task::Machine,
};
use metalcast_shared::to_controller::Phase;
use metalcast_sys::reboot;
use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

/// How long the reason of a restart stays on the console.
const READ_TIME: Duration = Duration::from_secs(1);

/// After a refusal only a new netboot helps, but not at once: someone may have to decide.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// How long disks may take to write out what is cached, and the kernel to shut its devices down.
const DISK_LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    if arguments.next().is_some_and(|program| program.ends_with("/modprobe")) {
        return modprobe(arguments);
    }
    if !init::is_pid1() {
        return cli::main();
    }
    match process_1() {
        Ok(Ending::Reboot { reason }) => restart(&format!("restarting: {reason}"), READ_TIME),
        Ok(Ending::Refused { reason }) => {
            let seconds = AFTER_REFUSAL.as_secs();
            let text =
                format!("the controller refuses this boot: {reason}; restart in {seconds} s");
            restart(&text, AFTER_REFUSAL)
        }
        // Nobody stops process 1.
        Ok(Ending::Stopped) => restart("restarting: the agent has ended", READ_TIME),
        Err(error) => init::fail(&error),
    }
}

/// For the kernel, which does not hear why it failed.
fn modprobe(arguments: std::env::Args) -> ExitCode {
    match init::modprobe(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Whatever state the disks are in: it ends with a restart.
fn restart(text: &str, pause: Duration) -> ! {
    init::console::line(text);
    std::thread::sleep(pause);
    if !reboot::sync_within(DISK_LIMIT) {
        let seconds = DISK_LIMIT.as_secs();
        init::console::line(&format!("a disk did not take what is cached in {seconds} s"));
    }
    std::thread::spawn(|| {
        std::thread::sleep(DISK_LIMIT);
        init::console::line("the kernel does not come to its end; resetting");
        if let Err(error) = reboot::reset() {
            init::console::line(&format!("{:#}", anyhow::Error::new(error)));
        }
    });
    let refused = reboot::restart();
    init::fail(&anyhow::Error::new(refused))
}

fn process_1() -> anyhow::Result<Ending> {
    let logs = Arc::new(LogRing::default());
    console::start(Some(logs.clone()));
    let InitOutcome { boot, timings, .. } = init::run()?;
    let config = Config {
        boot,
        phases: phases(&timings)?,
        machine: Arc::new(Machine::this(Path::new("/lib/metalcast/grub"))),
        inventory: Arc::new(|| inventory::collect(|_| true)),
        logs,
        role: Role::Node,
    };
    session::block_on(config)
}

/// When each phase ended, counted back from now.
fn phases(timings: &[(&'static str, Duration)]) -> anyhow::Result<Vec<Phase>> {
    let mut end = metalcast_sys::clock::since_boot()?;
    let mut phases = Vec::new();
    for (name, took) in timings.iter().rev() {
        let ended_millis = u64::try_from(end.as_millis()).unwrap_or(u64::MAX);
        phases.push(Phase { name: (*name).to_owned(), ended_millis });
        end = end.saturating_sub(*took);
    }
    phases.reverse();
    Ok(phases)
}
