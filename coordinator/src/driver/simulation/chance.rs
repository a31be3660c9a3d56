//! The only source of randomness: one seed, one schedule.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A generator that everything in a schedule draws from, in the order in which things happen.
pub(super) struct Chance(ChaCha8Rng);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `bound`, which is above 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    /// A number in `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in a while.
    pub(super) fn happens(&mut self, probability: f64) -> bool {
        // 53 bits fill the significand.
        ((self.0.next_u64() >> 11) as f64) < probability * (1_u64 << 53) as f64
    }

    /// A time until the next of some events that come every `mean` on average.
    pub(super) fn wait(&mut self, mean: u64) -> u64 {
        let share = ((self.0.next_u64() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        1 + (-share.ln() * mean as f64) as u64
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
