//! Points that nobody chose: drawn from a seed that is printed, so that a run can be repeated.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use anyhow::{Context, Result};

/// The environment variable with a seed to use again.
pub const SEED: &str = "METALCAST_SEED";

/// A source of numbers.
#[derive(Debug)]
pub struct Seed {
    seed: u64,
    drawn: u64,
}

impl Seed {
    /// The seed that the environment gives, or else a new one; it is printed either way.
    ///
    /// # Errors
    /// When the environment gives no number.
    pub fn given_or_new() -> Result<Self> {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().with_context(|| format!("{SEED}={text} is no number"))?,
            // The one random number that the standard library gives.
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        println!("{SEED}={seed} repeats the points of this run");
        Ok(Self { seed, drawn: 0 })
    }

    /// The next number, in a range that is not empty.
    pub fn draw(&mut self, range: Range<u64>) -> u64 {
        self.drawn += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&self.drawn.to_le_bytes());
        let bytes = *hasher.finalize().as_bytes();
        let [a, b, c, d, e, f, g, h, ..] = bytes;
        let number = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        range.start + number % (range.end - range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_stays_in_the_range() {
        let draw = |seed| {
            let mut seed = Seed { seed, drawn: 0 };
            (0..100).map(|_| seed.draw(5..90)).collect::<Vec<_>>()
        };
        let first = draw(1);
        assert_eq!(first, draw(1));
        assert_ne!(first, draw(2));
        assert!(first.iter().all(|point| (5..90).contains(point)));
        assert!(first.iter().any(|point| *point < 20) && first.iter().any(|point| *point > 70));
    }
}
