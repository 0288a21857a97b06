//! The same bytes over QUIC and nowhere: what the protocol's own library does when nothing is checked, unpacked or
//! written. A program of its own, built as what is shipped is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use metalcast_tests::host::Host;
use metalcast_tests::lab::Lab;
use metalcast_tests::process::{pause, run, run_visibly};
use metalcast_tests::{paths, progress::step};

use super::WORK;
use crate::cargo::cargo;

const PROGRAM: &str = "bare_quic";
const PORT: u16 = 7001;

/// Builds the program.
pub fn build() -> Result<()> {
    let build = ["build", "--quiet", "--release", "--package", "xtask", "--example", PROGRAM];
    step("building bare QUIC, optimised", || run_visibly(cargo().args(build)))
}

/// The program and the file that it sends.
pub struct Bare {
    program: PathBuf,
    file: PathBuf,
}

impl Bare {
    /// What [`build`] made.
    pub fn new(file: &Path) -> Result<Self> {
        let program = paths::target().join("release/examples").join(PROGRAM);
        ensure!(program.exists(), "{} is missing", program.display());
        Ok(Self { program, file: file.to_owned() })
    }

    /// Sends the file once.
    pub fn megabytes_per_second(&self, lab: &Lab, host: &Host) -> Result<f64> {
        let certificate = lab.dir().join("bare.der");
        let address = format!("{}:{PORT}", lab.address());
        let mut command = lab.command(&self.program);
        command.args(["send", &address]).arg(&certificate).arg(&self.file);
        let mut sender = lab.spawn(PROGRAM, &mut command)?;
        while !sender.log_tail().contains("ready") {
            sender.check_running()?;
            pause()?;
        }
        let mut command = host.command(&self.program);
        let printed = run(command.args(["receive", &address]).arg(&certificate))?;
        sender.wait(WORK, "bare QUIC has sent all")?;
        let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<f64>().ok());
        let mut numbers = printed.split(" bytes in ");
        let (bytes, rest) = (number(numbers.next()), numbers.next());
        let nanoseconds = number(rest.and_then(|rest| rest.trim().strip_suffix(" ns")));
        let (bytes, nanoseconds) = bytes.zip(nanoseconds).context("no time was printed")?;
        ensure!(bytes as u64 == self.file.metadata()?.len(), "only {bytes} bytes came");
        Ok(bytes * 1000.0 / nanoseconds)
    }
}
