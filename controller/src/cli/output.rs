//! The one place that writes: results to stdout, talk to stderr, never a colour where nobody looks.

use super::{NO_COLOR_VARIABLE, client::CallError};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Writes results and talk.
pub(super) struct Printer {
    json: bool,
    colours: bool,
    terminal: bool,
}

/// How a word is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Attention,
    Plain,
}

/// Whether colours may be written there.
pub(super) fn is_coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os(NO_COLOR_VARIABLE).is_none_or(|set| set.is_empty())
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        let colours = is_coloured(&std::io::stdout());
        Self { json, colours, terminal: std::io::stderr().is_terminal() }
    }

    /// Whether results are for programs.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether someone looks at the talk.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A result: the value for programs, the lines for people.
    pub(super) fn result<T: Serialize>(&self, value: &T, lines: impl FnOnce(&T) -> String) {
        if self.json {
            match serde_json::to_string_pretty(value) {
                Ok(text) => self.line(&text),
                Err(error) => self.talk(&format!("cannot be written as JSON: {error}")),
            }
        } else {
            let text = lines(value);
            if !text.is_empty() {
                self.line(text.trim_end());
            }
        }
    }

    /// A result that people are told as talk.
    pub(super) fn value<T: Serialize>(&self, value: &T) {
        self.result(value, |_| String::new());
    }

    /// What went wrong, with its causes; for programs as a problem document.
    pub(super) fn failure(&self, error: &anyhow::Error) {
        if !self.json {
            return self.talk(&format!("metalcast: {error:#}"));
        }
        let document = match error.downcast_ref() {
            Some(CallError::Refused(problem)) => serde_json::json!(problem),
            Some(_) | None => serde_json::json!({
                "title": "Error",
                "detail": format!("{error:#}"),
                "code": "failed",
            }),
        };
        self.talk(&document.to_string());
    }

    /// A line of results. A reader that went away is not our problem.
    pub(super) fn line(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// A line of talk.
    pub(super) fn talk(&self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let _ = writeln!(std::io::stderr(), "{clear}{text}");
    }

    /// A line on a terminal that the next one replaces.
    pub(super) fn status_line(&self, text: &str) {
        let mut stderr = std::io::stderr();
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }

    pub(super) fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Attention => "33",
            Tone::Plain => return text.to_owned(),
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Columns under headings; the last one is not padded.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell));
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - visible(cell).min(*width) + 2));
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// Characters that take room, without colours.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut in_colour = false;
    for character in text.chars() {
        match (in_colour, character) {
            (false, '\x1b') => in_colour = true,
            (false, _) => count += 1,
            (true, 'm') => in_colour = false,
            (true, _) => {}
        }
    }
    count
}

/// Bytes for people, in units of 1000 as disks are sold.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A span of time for people.
pub(super) fn span(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    match seconds {
        0..100 => format!("{}.{} s", seconds, millis.max(0) % 1000 / 100),
        100..6000 => format!("{} min {} s", seconds / 60, seconds % 60),
        6000..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A time of day, UTC, from milliseconds since 1970-01-01 UTC.
pub(super) fn clock(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| unix_ms.to_string(), |time| time.strftime("%H:%M:%S").to_string())
}

/// A date with time, UTC, from milliseconds since 1970-01-01 UTC.
pub(super) fn date(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| unix_ms.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A date, UTC, from seconds since 1970-01-01 UTC.
pub(super) fn day(unix: i64) -> String {
    jiff::Timestamp::from_second(unix)
        .map_or_else(|_| unix.to_string(), |time| time.strftime("%Y-%m-%d").to_string())
}

/// The time now, milliseconds since 1970-01-01 UTC.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let rows = vec![vec!["n1".into(), "\x1b[31mfailed\x1b[0m".into(), "x".into()]];
        let text = table(&["NODE", "STATE", "WHY"], &rows);
        assert_eq!(text, "NODE  STATE   WHY\nn1    \x1b[31mfailed\x1b[0m  x");
    }

    #[test]
    fn sizes_and_spans_are_short() {
        let sizes =
            [(999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (u64::MAX, "18446.7 PB")];
        for (size, text) in sizes {
            assert_eq!(bytes(size), text);
        }
        let spans = [
            (-5, "0.0 s"),
            (1250, "1.2 s"),
            (150_000, "2 min 30 s"),
            (7_260_000, "2 h 1 min"),
            (200_000_000, "2 d 7 h"),
        ];
        for (millis, text) in spans {
            assert_eq!(span(millis), text);
        }
    }
}
