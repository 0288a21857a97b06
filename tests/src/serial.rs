//! A machine's serial console: the log that QEMU writes, read as it grows, each line with its time.
//!
//! Lines are cleaned of terminal control sequences before they are kept or compared, because firmware and boot loaders
//! paint the screen with them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often the log is read; the resolution of the times.
const POLL: Duration = Duration::from_millis(20);

/// Lines kept. A boot prints some hundred; a machine that prints for ever must not fill our memory.
const MAX_LINES: usize = 50_000;

/// The longest line kept, in bytes; the rest of it is dropped.
const MAX_LINE_BYTES: usize = 4096;

/// One printed line and when its last piece was seen.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it was seen.
    pub at: Instant,
    /// Its text without control sequences.
    pub text: String,
}

/// A reader that follows one console log until dropped.
#[derive(Debug)]
pub struct Serial {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Serial {
    /// Starts to follow `path`, which is made empty first.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn follow(path: &Path) -> Result<Self> {
        File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            while !stopped.load(Ordering::Relaxed) {
                match file.read(&mut piece) {
                    Ok(0) | Err(_) => std::thread::sleep(POLL),
                    Ok(length) => lock(&shared).feed(&piece[..length], Instant::now()),
                }
            }
        });
        Ok(Self { path: path.to_owned(), state, stop, reader: Some(reader) })
    }

    /// The log file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When a line that contains `marker` was first seen at or after `since`; the line still being printed counts.
    pub fn first(&self, marker: &str, since: Instant) -> Option<Line> {
        lock(&self.state).lines.iter().find(|l| l.at >= since && l.text.contains(marker)).cloned()
    }

    /// Every line from number `from` on, for showing progress; the last may still be growing.
    pub fn lines(&self, from: usize) -> Vec<Line> {
        lock(&self.state).lines.iter().skip(from).cloned().collect()
    }

    /// The last `count` lines that are not blank, for an error.
    pub fn last_lines(&self, count: usize) -> String {
        let state = lock(&self.state);
        let mut last: Vec<&str> = (state.lines.iter().rev().map(|l| l.text.trim_end()))
            .filter(|text| !text.is_empty())
            .take(count)
            .collect();
        last.reverse();
        last.join("\n")
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("the reader does not panic while it holds the lines")
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    escape: Escape,
    ended: bool,
}

/// Where we are in an ECMA-48 control sequence.
#[derive(Debug, Default, Clone, Copy)]
enum Escape {
    #[default]
    Text,
    Started,
    Inside,
}

impl State {
    fn feed(&mut self, bytes: &[u8], now: Instant) {
        for &byte in bytes {
            self.escape = match (self.escape, byte) {
                (_, 0x1b) => Escape::Started,
                (Escape::Started, b'[') => Escape::Inside,
                (Escape::Started, _) => Escape::Text,
                (Escape::Inside, b'H' | b'f') => {
                    // The cursor goes elsewhere: what follows belongs to another line.
                    self.ended = true;
                    Escape::Text
                }
                (Escape::Inside, 0x40..=0x7e) => Escape::Text,
                (Escape::Inside, _) => Escape::Inside,
                (Escape::Text, b'\n') => {
                    self.ended = true;
                    Escape::Text
                }
                (Escape::Text, 0x20..=0x7e) => {
                    self.push(char::from(byte), now);
                    Escape::Text
                }
                (Escape::Text, _) => Escape::Text,
            };
        }
    }

    fn push(&mut self, character: char, now: Instant) {
        if self.ended || self.lines.is_empty() {
            if self.lines.len() >= MAX_LINES {
                return;
            }
            self.lines.push(Line { at: now, text: String::new() });
            self.ended = false;
        }
        let line = self.lines.last_mut().expect("a line was pushed above");
        if line.text.len() < MAX_LINE_BYTES {
            line.text.push(character);
            line.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], expected: &[&str]) {
        let mut state = State::default();
        state.feed(input, Instant::now());
        let seen: Vec<_> = state.lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn control_sequences_are_not_text() {
        check(b"plain\r\nnext", &["plain", "next"]);
        check(b"\x1b[0;32m  OK  \x1b[0m] up\r\n", &["  OK  ] up"]);
        check(b"\x1b[1;1Hone\x1b[2;1Htwo", &["one", "two"]);
        check(b"\x1bcreset \xff\x00here", &["reset here"]);
        check(b"a\n\n\nb", &["a", "b"]);
    }

    #[test]
    fn a_sequence_may_arrive_in_pieces() {
        let mut state = State::default();
        for byte in b"a\x1b[1mb\n" {
            state.feed(&[*byte], Instant::now());
        }
        assert_eq!(state.lines[0].text, "ab");
    }

    #[test]
    fn a_machine_cannot_fill_memory() {
        let mut state = State::default();
        state.feed(&vec![b'x'; 3 * MAX_LINE_BYTES], Instant::now());
        assert_eq!(state.lines[0].text.len(), MAX_LINE_BYTES);
        let mut state = State::default();
        state.feed(&b"x\n".repeat(MAX_LINES + 10), Instant::now());
        assert_eq!(state.lines.len(), MAX_LINES);
    }

    #[test]
    fn a_growing_log_is_followed() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial");
        let serial = Serial::follow(&path).unwrap();
        let start = Instant::now();
        let mut log = File::options().append(true).open(&path).unwrap();
        log.write_all(b"hello wor").unwrap();
        log.write_all(b"ld\r\n").unwrap();
        while serial.first("hello world", start).is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", serial.last_lines(5));
            std::thread::sleep(POLL);
        }
        assert!(serial.first("hello world", Instant::now()).is_none());
    }
}
