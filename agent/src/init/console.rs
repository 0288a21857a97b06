//! Lines for whoever stands before the machine or reads its serial line.
//!
//! The kernel's /dev/console is only the last `console=` of the command line, so lines go to every
//! console that the kernel itself writes to.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// More consoles than any machine has.
const CONSOLE_LIMIT: usize = 8;

static CONSOLES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Opens all consoles of `/proc/consoles`; until then, and where there is none, lines go to standard
/// error.
pub(super) fn open_all() {
    let list = std::fs::read_to_string("/proc/consoles").unwrap_or_default();
    let devices = names(&list)
        .filter_map(|name| OpenOptions::new().write(true).open(format!("/dev/{name}")).ok());
    let devices: Vec<File> = devices.take(CONSOLE_LIMIT).collect();
    *CONSOLES.lock().unwrap_or_else(PoisonError::into_inner) = devices;
}

/// Writes one line, `metalcast: TEXT`, to all consoles. A console that fails is not worth failing
/// for.
pub fn line(text: &str) {
    // One write a line, so that lines of the kernel do not come between.
    let line = format!("metalcast: {text}\n");
    let mut consoles = CONSOLES.lock().unwrap_or_else(PoisonError::into_inner);
    if consoles.is_empty() {
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    for console in consoles.iter_mut() {
        let _ = console.write_all(line.as_bytes());
    }
}

/// First column of `/proc/consoles`: `ttyS0                -W- (EC p a)    4:64`.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_listed_by_name() {
        let list =
            "tty0                 -WU (E  p  )    4:1\nttyS0                -W- (EC p a)    4:64\n";
        assert_eq!(names(list).collect::<Vec<_>>(), ["tty0", "ttyS0"]);
        assert_eq!(names("").count(), 0);
    }
}
