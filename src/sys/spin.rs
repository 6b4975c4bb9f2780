//! Waiting for a word to change without going to sleep, as long as that pays.
//!
//! Waking a sleeping core costs 30 µs and more, twenty times what the message itself costs, so that a short wait is better
//! spent asking. Each question is followed by `sched_yield`, which lets a process that wants the core have it; and when it
//! does, we know: the yield returns late. Then asking has cost a neighbour's whole time slice, so the next waits go
//! straight to sleep, twice as many each time it happens again.

use std::time::{Duration, Instant};

/// One real wake-up of a sleeping core, about (PEERS.md: 40-85 µs there and back).
const BUDGET: Duration = Duration::from_micros(50);

/// A `sched_yield` with nobody else to run returns within 1 µs; after this, somebody ran.
const LATE: Duration = Duration::from_micros(10);

/// Waits that go straight to sleep after a late yield, at the most.
const MOST_SKIPPED: u32 = 1024;

/// Decides from what happened before whether the next wait is worth asking for.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// Waits left that go straight to sleep.
    skip: u32,
    /// How many the next disappointment costs.
    penalty: u32,
}

impl Spin {
    /// Asks until `ready` says yes or it no longer pays; the answer, then, to "is it ready".
    pub(crate) fn until(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let start = Instant::now();
        let mut last = start;
        loop {
            std::thread::yield_now();
            let now = Instant::now();
            if ready() {
                self.penalty /= 2;
                return true;
            }
            if now - last > LATE {
                return self.disappointed(16);
            }
            if now - start > BUDGET {
                return self.disappointed(1);
            }
            last = now;
        }
    }

    fn disappointed(&mut self, least: u32) -> bool {
        self.penalty = (self.penalty * 2).clamp(least, MOST_SKIPPED);
        self.skip = self.penalty;
        false
    }
}
