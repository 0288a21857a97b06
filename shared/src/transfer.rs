//! Which chunks an agent still needs and which it asks for next: bookkeeping without I/O.
//!
//! ```text
//! wanted ──request──> asked ──written──> done
//!    ^                  │
//!    └──────lost────────┘   (a chunk that is lost too often fails the transfer)
//! ```

use std::collections::VecDeque;

/// Bytes that may be under way to an agent on one stream, and on all: with the frames in hand they bound the agent's
/// memory, and are enough for 10 Gbit/s over a millisecond.
pub const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// See [`STREAM_WINDOW_BYTES`].
pub const WINDOW_BYTES: u32 = 8 << 20;

/// Unacknowledged and queued bytes of one connection on the controller: 1 Gbit/s for 60 ms.
pub const SEND_WINDOW_BYTES: u64 = 8 << 20;

/// The same of an agent that sends what it captures: with what the controller's windows hold, what may be sent again
/// when the connection breaks.
pub const UPLOAD_WINDOW_BYTES: u64 = 4 << 20;

/// How often one chunk may be asked for before the transfer gives up on it.
pub const MAX_ATTEMPTS: u8 = 5;

/// The chunks of one page of a manifest on their way.
#[derive(Debug)]
pub struct PageTransfer {
    state: Vec<State>,
    wanted: VecDeque<u16>,
    open: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Wanted { attempts: u8 },
    Asked { attempts: u8 },
    Done,
}

/// A chunk that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chunk {position} could not be fetched in {MAX_ATTEMPTS} attempts: {reason}")]
pub struct GivenUp {
    /// Position on the page.
    pub position: u16,
    /// What went wrong the last time.
    pub reason: String,
}

impl PageTransfer {
    /// All `chunks` of a page are wanted.
    pub fn new(chunks: u16) -> Self {
        Self {
            state: vec![State::Wanted { attempts: 0 }; usize::from(chunks)],
            wanted: (0..chunks).collect(),
            open: usize::from(chunks),
        }
    }

    /// Whether every chunk is written.
    pub fn is_done(&self) -> bool {
        self.open == 0
    }

    /// Chunks that are not written yet.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Takes up to `limit` chunks to ask for.
    pub fn request(&mut self, limit: usize) -> Vec<u16> {
        let mut positions = Vec::new();
        while positions.len() < limit {
            let Some(position) = self.wanted.pop_front() else { break };
            if let State::Wanted { attempts } = self.state[usize::from(position)] {
                self.state[usize::from(position)] = State::Asked { attempts: attempts + 1 };
                positions.push(position);
            }
        }
        positions
    }

    /// The chunk is on the disk: it arrived and was written, or was there before.
    pub fn written(&mut self, position: u16) {
        if let Some(state) = self.state.get_mut(usize::from(position))
            && *state != State::Done
        {
            *state = State::Done;
            self.open -= 1;
        }
    }

    /// The chunk was asked for but did not arrive whole; it is wanted again.
    pub fn lost(&mut self, position: u16, reason: &str) -> Result<(), GivenUp> {
        let Some(State::Asked { attempts }) = self.state.get(usize::from(position)).copied() else {
            return Ok(());
        };
        if attempts >= MAX_ATTEMPTS {
            return Err(GivenUp { position, reason: reason.to_owned() });
        }
        self.state[usize::from(position)] = State::Wanted { attempts };
        self.wanted.push_back(position);
        Ok(())
    }

    /// Everything asked for is wanted again, without counting as an attempt: the connection broke.
    pub fn disconnected(&mut self) {
        for (position, state) in self.state.iter_mut().enumerate() {
            if let State::Asked { attempts } = *state {
                *state = State::Wanted { attempts: attempts - 1 };
                self.wanted.push_back(position as u16);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chunk_that_never_arrives_ends_the_transfer() {
        let mut page = PageTransfer::new(1);
        for attempt in 1..=MAX_ATTEMPTS {
            assert_eq!(page.request(9), [0]);
            assert!(page.request(9).is_empty(), "asked for twice at once");
            assert_eq!(page.lost(0, "bad hash").is_err(), attempt == MAX_ATTEMPTS);
        }
    }

    #[test]
    fn a_broken_connection_is_nobodys_fault() {
        let mut page = PageTransfer::new(3);
        for _ in 0..100 {
            assert_eq!(page.request(2).len(), 2);
            page.disconnected();
        }
        while !page.is_done() {
            page.request(1).into_iter().for_each(|position| page.written(position));
        }
    }

    proptest! {
        /// Whatever is lost, repeated or reported out of turn: nothing is forgotten, and only what
        /// was written is done.
        #[test]
        fn every_chunk_is_written_or_still_wanted(
            chunks in 1u16..40,
            actions in prop::collection::vec((0u8..4, 0u16..50, 1usize..9), 0..200),
        ) {
            let mut page = PageTransfer::new(chunks);
            let mut written = std::collections::BTreeSet::new();
            for (action, position, limit) in actions {
                match action {
                    0 => drop(page.request(limit)),
                    1 => {
                        page.written(position);
                        if position < chunks {
                            written.insert(position);
                        }
                    }
                    2 => drop(page.lost(position, "lost")),
                    _ => page.disconnected(),
                }
                prop_assert_eq!(page.open(), usize::from(chunks) - written.len());
            }
            page.disconnected();
            let rest = page.request(usize::MAX);
            prop_assert!(rest.iter().all(|position| !written.contains(position)));
            prop_assert_eq!(rest.len(), page.open());
        }
    }
}
