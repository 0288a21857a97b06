//! Firmware that a driver asks for and the RAM image does not have: said once for each device, with
//! the driver's name, so that a card that stays dead is no riddle.
//!
//! The kernel says it in its log, which a thread follows (`/dev/kmsg`, dev-kmsg of the kernel's ABI
//! documentation).

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::time::Duration;

/// The kernel's own limit of a record with its variables (`CONSOLE_EXT_LOG_MAX`).
const RECORD_LIMIT: usize = 8192;
/// Files told of; a machine with more is told enough.
const TOLD_LIMIT: usize = 64;
/// After the log could not be read.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Starts the thread, which sees all that the kernel has said since its start.
pub(super) fn watch() -> Result<()> {
    let mut log = File::open("/dev/kmsg").context("opening the kernel's log, /dev/kmsg")?;
    std::thread::Builder::new()
        .name("firmware".into())
        .spawn(move || {
            let mut told = BTreeSet::new();
            let mut buffer = [0; RECORD_LIMIT];
            while told.len() < TOLD_LIMIT {
                match log.read(&mut buffer) {
                    Ok(length) => tell(&String::from_utf8_lossy(&buffer[..length]), &mut told),
                    // EPIPE: records were overwritten before they were read; the next is there.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                    Err(error) => {
                        tracing::warn!("reading the kernel's log: {error}");
                        std::thread::sleep(AFTER_ERROR);
                    }
                }
            }
        })
        .context("starting the thread that follows the kernel's log")?;
    Ok(())
}

fn tell(record: &str, told: &mut BTreeSet<String>) {
    let Some(Missing { device, file }) = Missing::of(record) else { return };
    let text = format!(
        "{device} asks for the firmware {file}, which is not in the RAM image; the device may not \
         work without it"
    );
    if told.insert(text.clone()) {
        tracing::warn!("{text}");
    }
}

/// What a record of the kernel's log says is missing.
#[derive(Debug, PartialEq, Eq)]
struct Missing<'r> {
    /// Driver and device, such as `r8169 0000:02:00.0`.
    device: &'r str,
    /// Below `/lib/firmware`.
    file: &'r str,
}

impl<'r> Missing<'r> {
    /// Reads a record: `PRIORITY,NUMBER,TIME,FLAGS;TEXT`, then lines of variables.
    fn of(record: &'r str) -> Option<Self> {
        let (_, text) = record.split_once(';')?;
        let text = text.lines().next()?;
        // Debian's kernel says the one, others the other.
        let (device, rest) = text
            .split_once(": firmware: failed to load ")
            .or_else(|| text.split_once(": Direct firmware load for "))?;
        let file = rest.split(' ').next().filter(|file| !file.is_empty())?;
        Some(Self { device, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of Debian's kernel 6.1 in QEMU, but for the last, which is of a kernel without Debian's
    /// changes.
    #[test]
    fn driver_and_file_are_found_in_what_the_kernel_says() {
        let missing = |record, device, file| {
            assert_eq!(Missing::of(record), Some(Missing { device, file }));
        };
        missing(
            "3,417,2301934,-;e100 0000:00:03.0: firmware: failed to load e100/d102e_ucode.bin (-2)\n \
             SUBSYSTEM=pci\n DEVICE=+pci:0000:00:03.0\n",
            "e100 0000:00:03.0",
            "e100/d102e_ucode.bin",
        );
        missing(
            "4,402,1884214,-;r8169 0000:02:00.0: Direct firmware load for rtl_nic/rtl8168h-2.fw failed \
             with error -2\n SUBSYSTEM=pci\n DEVICE=+pci:0000:02:00.0\n",
            "r8169 0000:02:00.0",
            "rtl_nic/rtl8168h-2.fw",
        );
        for other in [
            "",
            "3,418,2301999,-;firmware_class: See https://wiki.debian.org/Firmware for information \
             about missing firmware\n",
            "6,400,1,-;e100 0000:00:03.0: eth0: NIC Link is Up\n",
            "3,1,1,-;x: firmware: failed to load \n",
        ] {
            assert_eq!(Missing::of(other), None, "{other}");
        }
    }

    #[test]
    fn each_device_and_file_is_told_once() {
        let mut told = BTreeSet::new();
        for _ in 0..2 {
            tell(
                "3,1,1,-;tg3 0000:01:00.0: firmware: failed to load tigon/tg3.bin (-2)\n",
                &mut told,
            );
            tell(
                "3,2,1,-;tg3 0000:01:00.1: firmware: failed to load tigon/tg3.bin (-2)\n",
                &mut told,
            );
        }
        assert_eq!(told.len(), 2);
        assert!(told.first().unwrap().starts_with("tg3 0000:01:00.0 asks for the firmware tigon/"));
    }
}
