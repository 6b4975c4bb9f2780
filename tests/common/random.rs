//! Random numbers without a dependency.

use std::hash::{BuildHasher, RandomState};

/// An xorshift generator.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Creates a generator with a random seed.
    #[expect(clippy::new_without_default, reason = "no two are equal")]
    pub fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }

    /// Creates a generator that repeats the numbers of other generators with this seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Returns the next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns the next number, modulo `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }
}
