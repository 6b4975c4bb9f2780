//! A bell in shared memory: sleeping until it is rung, without missing a ring and without believing
//! that anybody lives.
//!
//! Whoever waits takes a ticket, looks whether what it waits for is there, and else sleeps until
//! the bell has been rung since the ticket was taken. Whoever has something to tell stores it
//! first, then rings.
//!
//! # The words
//!
//! | `word` | how often it was rung (it may wrap) |
//! |---|---|
//!
//! | `sleepers` | meaning | who stores it |
//! |---|---|---|
//! | 0 | nobody sleeps whom the next change of `word` would not wake: a ring costs no system call | a ringer, *before* it changes `word` and wakes all |
//! | 1 | somebody may sleep | a waiter before it sleeps |
//!
//! # No ring is missed by the living
//!
//! A waiter does: (1) read `word`, its ticket; (2) look; (3) `sleepers` = 1; (4) sleep if `word` is
//! still the ticket, which the kernel finds out in one step with queueing the sleeper. A ringer
//! does: (a) store what it has to tell; (b) `word` + 1; (c) read `sleepers`; (d) if that is 1,
//! wake.
//!
//! - (b) before (1): what was stored in (a) is found in (2).
//! - (b) between (1) and (4): the waiter does not fall asleep.
//! - (b) after (4): then (3) is before (c), so that the ringer wakes. All four are sequentially
//!   consistent for this: with (3) and (c) weaker, each side could miss the other.
//!
//! `sleepers` is taken back by a ringer that wakes all, or that finds nobody to wake: (e)
//! `sleepers` = 0; (f) `word` + 1; (g) wake all. Whoever said in (3) that it may sleep, before (e),
//! has a ticket from before (f): it is woken in (g), or it does not fall asleep; either way it says
//! so again before it next sleeps. Whoever says so after (e) is not forgotten. A second ringer that
//! reads 0 between (e) and (g) need not wake, as (g) is yet to come.
//!
//! The test walks through every interleaving of two waiters and two ringers. `tests/loom/sync` runs
//! this file in weaker orders, too, as processors have them.
//!
//! # Deaths
//!
//! A ringer may die between (a) and (d), and the one that `FUTEX_WAKE` picks may be dying. So
//! nobody sleeps for ever: a sleeper looks again by itself, after 10 ms at first and each second at
//! last ([`Backoff`]). That is how long a death can delay others, and all that an idle waiter
//! costs.

use crate::sys::{
    atomic::{AtomicU32, Ordering},
    futex,
    spin::Spin,
};
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// After this time a sleeper looks for the first time whether somebody died who should have rung.
const MIN_RECHECK: Duration = Duration::from_millis(10);

/// The time doubles with each look, up to this.
const MAX_RECHECK: Duration = Duration::from_secs(1);

/// Whether it pays in this process to wait awake; one for each handle.
pub(crate) type SpinState = Mutex<Spin>;

/// How one wait goes on sleeping.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    spin: &'a SpinState,
    next_recheck: Duration,
}

impl<'a> Backoff<'a> {
    pub(crate) fn new(spin_state: &'a SpinState) -> Self {
        Self {
            spin: spin_state,
            next_recheck: MIN_RECHECK,
        }
    }

    /// Waits while the word is the same, or for nothing at all, until the next look or the
    /// deadline.
    pub(super) fn wait(
        &mut self,
        word: &AtomicU32,
        expected: u32,
        deadline: Option<Instant>,
        changed: impl FnMut() -> bool,
    ) {
        if !self.spin(changed) {
            self.sleep(word, expected, deadline);
        }
    }

    /// Waits awake, as long as that pays; true if it is ready. One thread of a process at a time
    /// does so.
    fn spin(&self, ready: impl FnMut() -> bool) -> bool {
        let spin_state = self.spin.try_lock();
        spin_state.is_some_and(|mut it| it.spin_until(ready))
    }

    fn sleep(&mut self, word: &AtomicU32, expected: u32, deadline: Option<Instant>) {
        let left = time_left(deadline);
        futex::wait(word, expected, self.next_recheck.min(left));
        self.next_recheck = (self.next_recheck * 2).min(MAX_RECHECK);
    }
}

/// Nothing, when the deadline has passed.
fn time_left(deadline: Option<Instant>) -> Duration {
    let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
    left.unwrap_or(Duration::MAX)
}

/// Whether a deadline has passed.
pub(super) fn has_passed(deadline: Option<Instant>) -> bool {
    time_left(deadline).is_zero()
}

/// Two words of shared memory, as the module describes them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventCount<'a> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) sleepers: &'a AtomicU32,
}

impl EventCount<'_> {
    /// To be taken before looking whether there is something to wait for.
    #[inline]
    pub(crate) fn ticket(&self) -> u32 {
        // SeqCst, as everywhere here: see the module.
        self.word.load(Ordering::SeqCst)
    }

    /// Waits until the bell has been rung since the ticket was taken, or for nothing at all: look
    /// again. False, at once, when the deadline has passed.
    pub(crate) fn wait(
        &self,
        ticket: u32,
        deadline: Option<Instant>,
        backoff: &mut Backoff<'_>,
    ) -> bool {
        if has_passed(deadline) {
            return false;
        }
        // Acquire: as the load of a ticket, it may be the last look before something is read.
        if !backoff.spin(|| self.word.load(Ordering::Acquire) != ticket) {
            self.sleepers.store(1, Ordering::SeqCst);
            backoff.sleep(self.word, ticket, deadline);
        }
        true
    }

    /// Wakes one who waits, if anybody does.
    #[inline]
    pub(crate) fn notify_one(&self) {
        if self.advance() && !futex::wake_one(self.word) {
            self.wake_all();
        }
    }

    /// Wakes all who wait.
    #[inline]
    pub(crate) fn notify_all(&self) {
        if self.advance() {
            self.wake_all();
        }
    }

    /// Changes the word; true if somebody may sleep.
    #[inline]
    fn advance(&self) -> bool {
        self.word.fetch_add(1, Ordering::SeqCst);
        self.sleepers.load(Ordering::SeqCst) != 0
    }

    fn wake_all(&self) {
        self.sleepers.store(0, Ordering::SeqCst);
        self.word.fetch_add(1, Ordering::SeqCst);
        futex::wake_all(self.word);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::{collections::HashSet, sync::atomic::AtomicU64, thread};

    /// Every state that two waiters and two ringers can get into, one step at a time; each ringer
    /// tells one thing, each waiter wants one.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct ModelState {
        told: u8,
        word: u8,
        sleepers: u8,
        /// Step, ticket. 4 is asleep, 5 is done.
        waiters: [(u8, u8); 2],
        /// Step; 9 is done.
        ringers: [u8; 2],
    }

    /// The steps of the module's text.
    fn wait(mut s: ModelState, who: usize) -> Option<ModelState> {
        let (step, ticket) = s.waiters[who];
        s.waiters[who] = match step {
            0 => (1, s.word),
            1 if s.told > 0 => {
                s.told -= 1;
                (5, 0)
            }
            1 => (2, ticket),
            2 => {
                s.sleepers = 1;
                (3, ticket)
            }
            3 if s.word == ticket => (4, ticket),
            3 => (0, 0),
            _ => return None,
        };
        Some(s)
    }

    fn ring(mut s: ModelState, who: usize, all: bool) -> Vec<ModelState> {
        let step = s.ringers[who];
        s.ringers[who] = step + 1;
        match step {
            0 => s.told += 1,
            1 | 5 => s.word += 1,
            2 if s.sleepers == 0 => s.ringers[who] = 9,
            2 if all => s.ringers[who] = 4,
            2 => {}
            3 => {
                let asleep = (0..2).filter(|it| s.waiters[*it].0 == 4);
                let woken = asleep.map(|it| {
                    let mut s = s;
                    (s.waiters[it], s.ringers[who]) = ((0, 0), 9);
                    s
                });
                let woken: Vec<ModelState> = woken.collect();
                return if woken.is_empty() { vec![s] } else { woken };
            }
            4 => s.sleepers = 0,
            6 => {
                let asleep = s.waiters.iter_mut().filter(|it| it.0 == 4);
                asleep.for_each(|it| *it = (0, 0));
                s.ringers[who] = 9;
            }
            _ => return Vec::new(),
        }
        vec![s]
    }

    #[test]
    fn no_interleaving_leaves_a_sleeper_with_something_to_take() {
        for all in [[false, false], [false, true], [true, true]] {
            let start = ModelState {
                told: 0,
                word: 0,
                sleepers: 0,
                waiters: [(0, 0); 2],
                ringers: [0; 2],
            };
            let (mut seen, mut next) = (HashSet::from([start]), vec![start]);
            while let Some(state) = next.pop() {
                let waits = (0..2).filter_map(|it| wait(state, it));
                let rings = (0..2).flat_map(|it| ring(state, it, all[it]));
                let steps: Vec<ModelState> = waits.chain(rings).collect();
                assert!(!steps.is_empty() || state.waiters.iter().all(|it| it.0 == 5));
                next.extend(steps.into_iter().filter(|it| seen.insert(*it)));
            }
            assert!(seen.len() > 1000);
        }
    }

    #[test]
    fn every_ring_arrives_without_the_timer() {
        let [word, sleepers] = [0, 0].map(AtomicU32::new);
        let event = EventCount {
            word: &word,
            sleepers: &sleepers,
        };
        let (permits, rounds) = (AtomicU64::new(0), 20_000);
        let take =
            || permits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |it| it.checked_sub(1));
        let consume = || {
            for _ in 0..rounds {
                let mut ticket = event.ticket();
                while take().is_err() {
                    sleepers.store(1, Ordering::SeqCst);
                    // A ring that was missed would be waited for for ever.
                    futex::wait(&word, ticket, Duration::MAX);
                    ticket = event.ticket();
                }
            }
        };
        thread::scope(|it| {
            let consumers = [it.spawn(consume), it.spawn(consume)];
            for _ in 0..2 * rounds {
                permits.fetch_add(1, Ordering::SeqCst);
                event.notify_one();
            }
            for consumer in consumers {
                consumer.join().expect("no panic");
            }
        });
        assert_eq!(permits.into_inner(), 0);
    }
}
