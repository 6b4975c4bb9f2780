//! Waits for a word to change without going to sleep, while that pays.
//!
//! Waking a sleeping core costs 30 µs and more, ten times what the message itself costs. So a short
//! wait asks again and again, and calls `sched_yield` between two questions. The yield gives the
//! core to any process that wants it, and the kernel takes its time to give it back: a whole time
//! slice (about 4 ms) for each neighbour. A process that sleeps is woken at once on the same
//! machine.
//!
//! So a wait learns from the time that its yields took, whether or not the answer was there
//! afterwards: in 4 ms it nearly always is. Time lost to a neighbour is paid back by waits that
//! sleep without asking first, each worth [`SHARE`], twice as many each time it happens again.
//! Asking in vain is paid back in the same way. A neighbour therefore costs the mean wait at most
//! about [`SHARE`].

use std::time::{Duration, Instant};

/// One wake-up of a sleeping core, about (PEERS.md: 40-85 µs there and back).
const BUDGET: Duration = Duration::from_micros(50);

/// A `sched_yield` with no other process to run returns within 1 µs; after this, one ran.
const LATE: Duration = Duration::from_micros(10);

/// What one wait that sleeps at once pays back of the time that was lost before.
const SHARE: Duration = Duration::from_micros(5);

/// Waits in a row that sleep at once, at most.
const MAX_SKIPPED: u32 = 4096;

/// Decides from the waits before whether the next one is worth spinning.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// Waits left that sleep at once.
    skip: u32,
    /// Waits that slept at once after the last loss.
    penalty: u32,
}

impl Spin {
    /// Asks until `wait_readable` is true or asking no longer pays; returns the last answer.
    pub(crate) fn spin_until(&mut self, mut ready: impl FnMut() -> bool) -> bool {
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
            let is_ready = ready();
            if self.learn(now - last, now - start, is_ready) || is_ready {
                return is_ready;
            }
            last = now;
        }
    }

    /// Learns from one yield and the question after it; returns true when asking no longer pays.
    fn learn(&mut self, yielded: Duration, waited: Duration, is_ready: bool) -> bool {
        // A peer that shares the core answers during the yield, so a success may be a little late.
        let limit = if is_ready { BUDGET } else { LATE };
        if yielded > limit {
            self.start_pause(waits_worth(yielded));
            return true;
        }
        if is_ready {
            self.penalty /= 2;
        } else if waited > BUDGET {
            self.start_pause(1);
            return true;
        }
        false
    }

    /// Lets at least `min` waits sleep at once, and twice as many as after the last loss.
    fn start_pause(&mut self, min: u32) {
        self.penalty = (self.penalty * 2).max(min).min(MAX_SKIPPED);
        self.skip = self.penalty;
    }
}

/// Waits that pay back this time.
fn waits_worth(lost: Duration) -> u32 {
    let waits = lost.as_nanos() / SHARE.as_nanos();
    u32::try_from(waits).unwrap_or(MAX_SKIPPED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: Duration = Duration::from_millis(4);
    const QUICK: Duration = Duration::from_micros(1);

    #[test]
    fn a_lost_time_slice_is_no_success_although_the_answer_is_there() {
        let mut spin = Spin::default();
        assert!(spin.learn(SLICE, SLICE, true));
        assert_eq!(spin.skip, 800);
    }

    #[test]
    fn a_wait_after_a_loss_asks_once() {
        let mut spin = Spin::default();
        spin.start_pause(1);
        let mut asked = 0;
        assert!(!spin.spin_until(|| {
            asked += 1;
            false
        }));
        assert_eq!((asked, spin.skip), (1, 0));
    }

    #[test]
    fn repeated_losses_are_paid_back_by_more_waits_up_to_a_limit() {
        let mut spin = Spin::default();
        let mut skipped = Vec::new();
        for _ in 0..5 {
            spin.learn(SLICE, SLICE, true);
            skipped.push(spin.skip);
        }
        assert_eq!(skipped, [800, 1600, 3200, MAX_SKIPPED, MAX_SKIPPED]);
    }

    #[test]
    fn successes_make_the_next_loss_cheap_again() {
        let mut spin = Spin {
            skip: 0,
            penalty: MAX_SKIPPED,
        };
        for _ in 0..13 {
            assert!(!spin.learn(QUICK, QUICK, true));
        }
        spin.learn(QUICK, BUDGET * 2, false);
        assert_eq!(spin.skip, 1);
    }
}
