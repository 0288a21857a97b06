//! Images of virtual machines, unpacked by `qemu-img`.
//!
//! It is told the format, so it guesses nothing; it gets a file that [`disk_file`] found to need no other
//! one, and what it says of the file itself is held against that; it has bounds for memory, time and the
//! length of what it writes, and ends when this program does.
//!
//! [`disk_file`]: metalcast_formats::disk_file

use super::{RESERVE_BYTES, check_space, temporary::TemporaryDisk};
use crate::images::{Images, ImportError, Progress, space};
use metalcast_formats::disk_file::{DiskFileError, DiskFormat};
use metalcast_sys::child::{self, ChildError, Limits};
use serde::Deserialize;
use std::{
    cell::Cell,
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The program.
const QEMU_IMG: &str = "qemu-img";

/// Where it is looked for beside PATH, which a service may not have.
const BIN: &str = "/usr/bin";

/// Largest virtual disk: filesystems of today's servers are smaller, and a made-up size is not believed.
const MAX_VIRTUAL_BYTES: u64 = 64 << 40;

/// What it may use to look at a file; real ones take milliseconds. Address space is mostly that of its
/// threads.
const LOOK: Bounds = Bounds { address_bytes: 1 << 30, cpu_seconds: 30, file_bytes: 0 };
const LOOK_TIME: Duration = Duration::from_secs(60);

/// What it may use to go through all references of an image, of which a TB has 16 million.
const CHECK: Bounds = Bounds { address_bytes: 4 << 30, cpu_seconds: 600, file_bytes: 0 };
const CHECK_TIME: Duration = Duration::from_secs(1800);

/// How it ends that check: references that are wrong, and parts that nothing refers to.
const CORRUPT: i32 = 2;
const LEAKS: i32 = 3;

/// Address space for unpacking.
const UNPACK_ADDRESS_BYTES: u64 = 4 << 30;

/// Unpacking ends after an hour and as long as the slowest disk takes for all of it.
const UNPACK_TIME: Duration = Duration::from_secs(3600);
const SLOWEST_BYTES_PER_SECOND: u64 = 5 << 20;

/// Kept of what it says.
const OUTPUT_BYTES: usize = 64 << 10;

/// Bounds that the kernel keeps.
struct Bounds {
    address_bytes: u64,
    /// 0 for no bound.
    cpu_seconds: u64,
    file_bytes: u64,
}

/// What it says of a file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    backing_filename: Option<String>,
    format_specific: Option<Specific>,
}

#[derive(Deserialize)]
struct Specific {
    #[serde(default)]
    data: Details,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Details {
    data_file: Option<String>,
    #[serde(default)]
    extents: Vec<serde_json::Value>,
}

/// What it says an unpacked file will need.
#[derive(Deserialize)]
struct Measure {
    required: u64,
}

/// Unpacks the file at `path`, which is `what` to people, into a temporary one.
pub(super) fn unpack(
    images: &Images,
    path: &Path,
    format: DiskFormat,
    what: &str,
    progress: &dyn Fn(Progress),
) -> Result<TemporaryDisk, ImportError> {
    let Some(program) = find(QEMU_IMG) else {
        return Err(ImportError::NoTool { what: what.to_owned(), format });
    };
    let tool = Tool { program, path, format, what };
    let bytes = tool.info()?.virtual_size;
    tool.check()?;
    let required = tool.measure()?.required;
    check_space(images.layout.root(), required)?;
    let disk = TemporaryDisk::create(images)?;
    tool.convert(&disk, bytes, progress)?;
    // A last sector that is cut off is not cut off for a virtual machine.
    disk.set_bytes(bytes)?;
    Ok(disk)
}

struct Tool<'t> {
    program: PathBuf,
    path: &'t Path,
    format: DiskFormat,
    what: &'t str,
}

impl Tool<'_> {
    fn info(&self) -> Result<Info, ImportError> {
        let info: Info = self.ask(&["info"])?;
        let (format, what) = (self.format, self.what.to_owned());
        let refused = |source| Err(ImportError::DiskFile { what, source });
        let details = info.format_specific.as_ref().map(|specific| &specific.data);
        let other = details.and_then(|details| details.data_file.as_ref());
        if let Some(file) = info.backing_filename.as_ref().or(other) {
            let what = format!("the other file {file:?}");
            return refused(DiskFileError::Elsewhere { format, what });
        }
        if details.is_some_and(|details| details.extents.len() > 1) {
            let what = "several files".to_owned();
            return refused(DiskFileError::Elsewhere { format, what });
        }
        if info.encrypted {
            return refused(DiskFileError::Encrypted(format));
        }
        if info.virtual_size > MAX_VIRTUAL_BYTES {
            let size = info.virtual_size;
            return Err(ImportError::TooLarge(format!("a virtual size of {size} bytes")));
        }
        if info.virtual_size == 0 {
            return refused(DiskFileError::Empty);
        }
        Ok(info)
    }

    /// Whether all that the image refers to is in the file: what is not there would be read as zeros.
    fn check(&self) -> Result<(), ImportError> {
        match self.format {
            DiskFormat::Qcow2 | DiskFormat::Vmdk => {}
            // There is no check for it, or none of this; or it is made when the file is opened.
            DiskFormat::Raw | DiskFormat::Vhd | DiskFormat::Vhdx | DiskFormat::Vdi => return Ok(()),
        }
        let mut command = self.command(&CHECK);
        command.args(["check", "-q", "-f", self.format.qemu_name()]).arg(self.path);
        let limits = Limits { time: CHECK_TIME, output_bytes: OUTPUT_BYTES };
        match child::run(command, b"", limits) {
            Err(error) if error.code() == Some(CORRUPT) => {
                let (what, format) = (self.what.to_owned(), self.format);
                Err(ImportError::CorruptDisk { what, format, source: error })
            }
            // That some of the file is not used by anything is no harm.
            Err(error) if error.code() == Some(LEAKS) => Ok(()),
            done => done.map(drop).map_err(|error| self.failed(error)),
        }
    }

    fn measure(&self) -> Result<Measure, ImportError> {
        self.ask(&["measure", "-O", "raw"])
    }

    fn ask<T: for<'j> Deserialize<'j>>(&self, words: &[&str]) -> Result<T, ImportError> {
        let mut command = self.command(&LOOK);
        command.args(words).args(["--output=json", "-f", self.format.qemu_name()]).arg(self.path);
        let limits = Limits { time: LOOK_TIME, output_bytes: OUTPUT_BYTES };
        let output = child::run(command, b"", limits).map_err(|error| self.failed(error))?;
        serde_json::from_slice(&output.stdout)
            .map_err(|source| ImportError::Told { what: self.what.to_owned(), source })
    }

    fn convert(
        &self,
        disk: &TemporaryDisk,
        bytes: u64,
        progress: &dyn Fn(Progress),
    ) -> Result<(), ImportError> {
        let bounds = Bounds {
            address_bytes: UNPACK_ADDRESS_BYTES,
            cpu_seconds: 0,
            // It writes whole sectors.
            file_bytes: bytes + 4096,
        };
        let mut command = self.command(&bounds);
        command.args(["convert", "-p", "-f", self.format.qemu_name(), "-O", "raw"]);
        command.arg(self.path).arg(disk.path());
        let time = UNPACK_TIME + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let limits = Limits { time, output_bytes: OUTPUT_BYTES };
        let free = Cell::new(u64::MAX);
        let file = format!("(unpacking {})", self.what);
        let is_stopped = |said: &[u8]| {
            let done_bytes = (per_myriad(said).unwrap_or(0) * bytes) / 10_000;
            progress(Progress { file: file.clone(), done_bytes, total_bytes: bytes });
            // What cannot be asked is no reason to stop.
            free.set(space::free_bytes(disk.dir()).unwrap_or(u64::MAX));
            free.get() < RESERVE_BYTES
        };
        child::run_watched(command, limits, &is_stopped).map_err(|error| match error {
            ChildError::Stopped { .. } => ImportError::Space {
                path: disk.path(),
                needed_mib: bytes >> 20,
                free_mib: free.get() >> 20,
            },
            error => self.failed(error),
        })?;
        Ok(())
    }

    /// The program within its bounds; what it is to do is to be added.
    fn command(&self, bounds: &Bounds) -> Command {
        let mut command = Command::new("prlimit");
        command.args([format!("--as={}", bounds.address_bytes), "--core=0".to_owned()]);
        command.arg(format!("--fsize={}", bounds.file_bytes));
        if bounds.cpu_seconds > 0 {
            command.arg(format!("--cpu={}", bounds.cpu_seconds));
        }
        // It is not to outlive this program, which may be killed.
        command.args(["--", "setpriv", "--no-new-privs", "--pdeathsig", "KILL", "--"]);
        command.arg(&self.program).env("LC_ALL", "C").current_dir("/");
        command
    }

    fn failed(&self, source: ChildError) -> ImportError {
        ImportError::Unpack { what: self.what.to_owned(), format: self.format, source }
    }
}

/// How far it is in hundredths of a per cent: the last `(12.34/100%)`.
fn per_myriad(said: &[u8]) -> Option<u64> {
    let said = String::from_utf8_lossy(said);
    let (before, _) = said.rsplit_once("/100%)")?;
    let (_, number) = before.rsplit_once('(')?;
    let (whole, fraction) = number.trim().split_once('.')?;
    let (whole, fraction) = (whole.parse::<u64>().ok()?, fraction.parse::<u64>().ok()?);
    Some((whole * 100 + fraction.min(99)).min(10_000))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain([PathBuf::from(BIN)]);
    dirs.map(|dir| dir.join(program)).find(|file| file.is_absolute() && file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_the_last_that_was_said() {
        let said = b"    (0.00/100%)\r    (12.34/100%)\r    (13.0";
        assert_eq!(per_myriad(said), Some(1234));
        assert_eq!(per_myriad(b"    (100.00/100%)\r"), Some(10_000));
        for said in
            [&b""[..], b"(x/100%)", b"(1/100%)", b"/100%)", b"(99999999999999999999.0/100%)"]
        {
            assert_eq!(per_myriad(said), None);
        }
    }
}
