//! Read transfers of a TFTP server (RFC 1350) with the options boot ROMs ask for: `blksize`
//! (RFC 2348), `tsize` and `timeout` (RFC 2349), `windowsize` (RFC 7440).
//!
//! [`Request::parse`] reads what comes to port 69; the driver finds the file and runs a
//! [`Transfer`] on a socket of its own. Writing is refused. Mode `netascii` is served like
//! `octet`: the clients that ask for it here are boot ROMs fetching binaries, and translating
//! line ends would break them.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

mod request;

pub use request::{Mode, Options, Request, RequestError, error_packet};

/// Block size without `blksize`.
const DEFAULT_BLOCK: u16 = 512;
/// First wait for an ACK without `timeout`; doubled with every repeat.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait without `timeout`.
const LAST_TIMEOUT: Duration = Duration::from_secs(8);
/// Repeats without any progress before a client is given up, 39 s by the waits above.
const MAX_REPEATS: u32 = 6;
/// Repeats at a `timeout` that the client chose, which may be 255 s.
const MAX_FIXED_REPEATS: u32 = 3;
/// Largest window granted: 64 blocks of 1468 bytes are 92 KiB, about what a boot ROM can take.
pub const MAX_WINDOW: u16 = 64;
/// Block that fits Ethernet's 1500 bytes with IPv4, UDP and TFTP headers.
pub const ETHERNET_BLOCK: u16 = 1468;

const OP_DATA: u16 = 3;
const OP_ACK: u16 = 4;
const OP_ERROR: u16 = 5;
const OP_OACK: u16 = 6;

/// What the server grants at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Largest block in bytes, at least 8; the path's MTU less 32.
    pub block: u16,
    /// Largest window in blocks, 1 to [`MAX_WINDOW`].
    pub window: u16,
}

impl Default for Caps {
    fn default() -> Self {
        Self { block: ETHERNET_BLOCK, window: MAX_WINDOW }
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The last block was acknowledged.
    Done {
        /// Size of the file in bytes.
        bytes: u64,
        /// Datagrams sent more than once.
        repeated: u64,
    },
    /// The client only wanted to know the size, and said so by an error (code 8 or 0) in place of
    /// the first ACK. UEFI PXE does this before every file.
    Probed,
    /// The client gave up.
    Refused {
        /// TFTP error code.
        code: u16,
        /// Its text, at most 100 printable characters.
        message: String,
    },
    /// No ACK any more.
    Silent {
        /// Everything had been sent: the client may well have it all.
        all_sent: bool,
        /// Bytes acknowledged.
        bytes: u64,
    },
}

/// One file on its way to one client.
///
/// Blocks are counted in 64 bits, 0 being the OACK, and cut to 16 on the wire, so files beyond
/// 65535 blocks work with every client that lets the number wrap to 0, as all known do.
#[derive(Debug)]
pub struct Transfer {
    content: Arc<[u8]>,
    block: u16,
    window: u16,
    /// The client's `timeout`.
    fixed_timeout: Option<Duration>,
    oack: Vec<u8>,
    /// First block not acknowledged.
    base: u64,
    /// Next block to send.
    next: u64,
    /// First block never sent.
    fresh: u64,
    /// The base at which a repeated ACK made us go back; once per base, or every duplicate on the
    /// wire would double the traffic (the Sorcerer's Apprentice, RFC 1123 section 4.2.3.1).
    went_back_at: Option<u64>,
    repeats: u32,
    repeated: u64,
    deadline: Instant,
    errors: VecDeque<Vec<u8>>,
    ended: Option<Ended>,
    reported: bool,
}

impl Transfer {
    /// Begins: the OACK, or the first block if no option was asked for, is ready to be polled.
    pub fn new(now: Instant, request: &Request, content: Arc<[u8]>, caps: Caps) -> Self {
        let asked = &request.options;
        let block = asked.blksize.map(|size| size.min(caps.block.max(8)));
        let window = asked.windowsize.map(|size| size.min(caps.window.clamp(1, MAX_WINDOW)));
        let mut oack = Vec::new();
        let mut grant = |name: &str, value: u64| {
            oack.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        };
        // RFC 2347: the order is the server's choice.
        if let Some(block) = block {
            grant("blksize", block.into());
        }
        if asked.tsize {
            grant("tsize", content.len() as u64);
        }
        if let Some(secs) = asked.timeout_secs {
            grant("timeout", secs.into());
        }
        if let Some(window) = window {
            grant("windowsize", window.into());
        }
        let first = if oack.is_empty() { 1 } else { 0 };
        if first == 0 {
            oack.splice(0..0, OP_OACK.to_be_bytes());
        }
        let fixed_timeout = asked.timeout_secs.map(|secs| Duration::from_secs(secs.into()));
        Self {
            content,
            block: block.unwrap_or(DEFAULT_BLOCK),
            window: window.unwrap_or(1),
            fixed_timeout,
            oack,
            base: first,
            next: first,
            fresh: first,
            went_back_at: None,
            repeats: 0,
            repeated: 0,
            deadline: now + fixed_timeout.unwrap_or(FIRST_TIMEOUT),
            errors: VecDeque::new(),
            ended: None,
            reported: false,
        }
    }

    /// Takes a datagram from the client's port. Anything but ACK and ERROR is dropped.
    pub fn handle_input(&mut self, now: Instant, datagram: &[u8]) {
        let Some((op, rest)) = datagram.split_first_chunk::<2>() else { return };
        let Some((number, rest)) = rest.split_first_chunk::<2>() else { return };
        let (op, number) = (u16::from_be_bytes(*op), u16::from_be_bytes(*number));
        if self.ended.is_some() {
            return;
        }
        match op {
            OP_ACK => self.acknowledged(now, number),
            OP_ERROR if self.base == 0 && matches!(number, 0 | 8) => {
                self.ended = Some(Ended::Probed);
            }
            OP_ERROR => {
                let message = rest.iter().take(100).take_while(|byte| **byte != 0);
                let message = message
                    .map(|byte| if (32..127).contains(byte) { char::from(*byte) } else { '?' })
                    .collect();
                self.ended = Some(Ended::Refused { code: number, message });
            }
            _ => {}
        }
    }

    /// To be called at or after the time `poll_timeout` gave; too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ended.is_some() || now < self.deadline {
            return;
        }
        let max = if self.fixed_timeout.is_some() { MAX_FIXED_REPEATS } else { MAX_REPEATS };
        if self.repeats >= max {
            let all_sent = self.fresh > self.last_block();
            let bytes = self.bytes_before(self.base);
            self.errors.push_back(error_packet(0, "no acknowledgement"));
            self.ended = Some(Ended::Silent { all_sent, bytes });
            return;
        }
        self.repeats += 1;
        self.next = self.base;
        self.rearm(now);
    }

    /// The next datagram for the client. At most a window comes before the next ACK is needed.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if self.ended.is_some() {
            return self.errors.pop_front();
        }
        // The OACK travels alone.
        let window = if self.base == 0 { 1 } else { u64::from(self.window) };
        if self.next >= self.base + window || self.next > self.last_block() {
            return None;
        }
        let number = self.next;
        self.next += 1;
        if number < self.fresh {
            self.repeated += 1;
        } else {
            self.fresh = number + 1;
        }
        if number == 0 {
            return Some(self.oack.clone());
        }
        let data = self.block_data(number);
        let mut out = Vec::with_capacity(4 + data.len());
        out.extend(OP_DATA.to_be_bytes());
        out.extend((number as u16).to_be_bytes());
        out.extend_from_slice(data);
        Some(out)
    }

    /// When to call `handle_timeout`, and what for; `None` once it has ended.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.ended.is_none().then_some((self.deadline, "repeat the window"))
    }

    /// The end, once. Poll the last datagrams before the socket is closed.
    pub fn poll_event(&mut self) -> Option<Ended> {
        if self.reported {
            return None;
        }
        let ended = self.ended.clone()?;
        self.reported = true;
        Some(ended)
    }

    fn acknowledged(&mut self, now: Instant, number: u16) {
        // How many blocks this acknowledges; 0 repeats the ACK of the block before the base.
        let count = u64::from(number.wrapping_sub(self.base as u16).wrapping_add(1));
        if count > self.fresh - self.base {
            // Of an earlier window, or of nothing we sent.
            return;
        }
        if count == 0 {
            // With a window it says "the first block was lost"; without, it is only late.
            if self.window > 1 && self.went_back_at != Some(self.base) {
                self.went_back_at = Some(self.base);
                self.next = self.base;
            }
            return;
        }
        self.base += count;
        self.repeats = 0;
        self.rearm(now);
        if self.base > self.last_block() {
            let bytes = self.content.len() as u64;
            self.ended = Some(Ended::Done { bytes, repeated: self.repeated });
            return;
        }
        // RFC 7440 section 4: an ACK inside the window means that the block after it was lost.
        self.next = self.base;
    }

    fn rearm(&mut self, now: Instant) {
        let doubled = FIRST_TIMEOUT.saturating_mul(1 << self.repeats.min(8)).min(LAST_TIMEOUT);
        self.deadline = now + self.fixed_timeout.unwrap_or(doubled);
    }

    /// The last block is the first one shorter than a block; it may be empty.
    fn last_block(&self) -> u64 {
        self.content.len() as u64 / u64::from(self.block) + 1
    }

    fn bytes_before(&self, number: u64) -> u64 {
        (number.saturating_sub(1) * u64::from(self.block)).min(self.content.len() as u64)
    }

    fn block_data(&self, number: u64) -> &[u8] {
        let from = self.bytes_before(number) as usize;
        let to = self.bytes_before(number + 1) as usize;
        self.content.get(from..to).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
