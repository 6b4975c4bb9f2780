//! Spins until a word changes, as long as that is cheaper than sleeping.
//!
//! Waking a sleeping core costs 30 µs and more, ten times the cost of a message. So a short wait
//! checks repeatedly, and calls `sched_yield` between two checks. The yield gives the core to any
//! process that wants it. The kernel returns it late: after a whole time slice (about 4 ms) for
//! each other process. A sleeping process, in contrast, is woken at once.
//!
//! So a wait learns from the duration of its yields, also after a success: within 4 ms the word has
//! nearly always changed. Later waits sleep without spinning to pay back lost time. Each pays back
//! [`SHARE`], and their number doubles with each further loss. Spinning without success is paid
//! back in the same way. So another process costs the mean wait at most about [`SHARE`].

use std::time::{Duration, Instant};

/// About the cost of waking a sleeping core (PEERS.md: 40-85 µs for a round trip).
const BUDGET: Duration = Duration::from_micros(50);

/// A `sched_yield` without another runnable process returns within 1 µs. A longer one has run
/// another process.
const LATE: Duration = Duration::from_micros(10);

/// The lost time that a wait pays back by sleeping at once.
const SHARE: Duration = Duration::from_micros(5);

/// Maximum number of consecutive waits that sleep at once.
const MAX_SKIPPED: u32 = 4096;

/// Decides from earlier waits whether the next one should spin.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// The number of next waits that sleep at once.
    skip: u32,
    /// The number of waits that slept at once after the last loss.
    penalty: u32,
}

impl Spin {
    /// Spins until `ready` returns true or spinning no longer pays. Returns the last result.
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

    /// Updates the state after a yield and a check. Returns true if spinning no longer pays.
    fn learn(&mut self, yielded: Duration, waited: Duration, is_ready: bool) -> bool {
        // A peer on the same core stores the word during the yield, so a success may be a little
        // late.
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

    /// Makes at least `min` waits sleep at once, and twice as many as after the last loss.
    fn start_pause(&mut self, min: u32) {
        self.penalty = (self.penalty * 2).max(min).min(MAX_SKIPPED);
        self.skip = self.penalty;
    }
}

/// Returns the number of waits that pay back this time.
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
