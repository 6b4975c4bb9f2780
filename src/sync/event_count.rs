//! An eventcount in shared memory: processes sleep until a notification. None is missed, even if
//! processes die at any instant.
//!
//! A waiter takes a ticket, checks its condition, and sleeps until a notification that came after
//! the ticket. A notifier first makes the condition true, then notifies.
//!
//! # The words
//!
//! | `word` | number of notifications (it may wrap) |
//! |---|---|
//!
//! | `sleepers` | meaning | stored by |
//! |---|---|---|
//! | 0 | no waiter sleeps beyond the next change of `word` | a notifier, in (e) |
//! | 1 | a waiter may sleep | a waiter, in (3) |
//!
//! # No notification is missed
//!
//! A waiter does: (1) load `word`, its ticket; (2) check the condition; (3) `sleepers` = 1; (4)
//! sleep if `word` still equals the ticket, which the kernel checks and queues in one step. A
//! notifier does: (a) make the condition true; (b) `word` + 1; (c) load `sleepers`; (d) if it is 1,
//! wake.
//!
//! - (b) before (1): the waiter sees in (2) what (a) stored.
//! - (b) between (1) and (4): the waiter does not fall asleep.
//! - (b) after (4): then (3) is before (c), so the notifier wakes. All four are sequentially
//!   consistent for this reason: with a weaker (3) and (c), each side could miss the other.
//!
//! A notifier that wakes all, or that finds no waiter to wake, clears `sleepers`: (e) `sleepers` =
//! 0; (f) `word` + 1; (g) wake all. A waiter whose (3) is before (e) has a ticket from before (f):
//! it is woken in (g), or does not fall asleep. It stores 1 again before it next sleeps. A waiter
//! whose (3) is after (e) leaves `sleepers` at 1. A second notifier that loads 0 between (e) and
//! (g) need not wake, because (g) is still to come.
//!
//! The test explores every interleaving of two waiters and two notifiers. `tests/loom/sync` also
//! runs this file under the weaker orders that processors allow.
//!
//! # Deaths
//!
//! A notifier may die between (a) and (d), and `FUTEX_WAKE` may pick a dying waiter. No waiter
//! sleeps forever because of this: it checks again by itself, after 10 ms at first and later once a
//! second ([`Backoff`]). This bounds the delay that a death can cause, and is the only cost of an
//! idle waiter.

use crate::sys::{
    atomic::{AtomicU32, Ordering},
    futex,
    spin::Spin,
};
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Time until a sleeper first checks for a notification that a dead process did not deliver.
const MIN_RECHECK: Duration = Duration::from_millis(10);

/// The time doubles with each check, up to this.
const MAX_RECHECK: Duration = Duration::from_secs(1);

/// Whether spinning pays in this process; one for each handle.
pub(crate) type SpinState = Mutex<Spin>;

/// The recheck interval and spin state of one wait.
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

    /// Waits while the word equals `expected`, until the next recheck or the deadline. May return
    /// early.
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

    /// Spins as long as that pays. Returns true if the wait is over. Only one thread of a process
    /// spins at a time.
    fn spin(&self, ready: impl FnMut() -> bool) -> bool {
        let spin_state = self.spin.try_lock();
        spin_state.is_some_and(|mut spin| spin.spin_until(ready))
    }

    fn sleep(&mut self, word: &AtomicU32, expected: u32, deadline: Option<Instant>) {
        let left = time_left(deadline);
        futex::wait(word, expected, self.next_recheck.min(left));
        self.next_recheck = (self.next_recheck * 2).min(MAX_RECHECK);
    }
}

/// Returns zero after the deadline.
fn time_left(deadline: Option<Instant>) -> Duration {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    left.unwrap_or(Duration::MAX)
}

/// Whether a deadline has passed.
pub(super) fn has_passed(deadline: Option<Instant>) -> bool {
    time_left(deadline).is_zero()
}

/// Two words of shared memory; the module documentation describes the protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventCount<'a> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) sleepers: &'a AtomicU32,
}

impl EventCount<'_> {
    /// Returns a ticket. Take it before checking the condition.
    #[inline]
    pub(crate) fn ticket(&self) -> u32 {
        // SeqCst, like everywhere here: see the module documentation.
        self.word.load(Ordering::SeqCst)
    }

    /// Waits until a notification after the ticket, or returns early: check the condition again.
    /// Returns false without waiting after the deadline.
    pub(crate) fn wait(
        &self,
        ticket: u32,
        deadline: Option<Instant>,
        backoff: &mut Backoff<'_>,
    ) -> bool {
        if has_passed(deadline) {
            return false;
        }
        // Acquire: like the load of a ticket, this may be the last load before the condition is
        // checked.
        if !backoff.spin(|| self.word.load(Ordering::Acquire) != ticket) {
            // Steps (3) and (4).
            self.sleepers.store(1, Ordering::SeqCst);
            backoff.sleep(self.word, ticket, deadline);
        }
        true
    }

    /// Wakes one waiter, if there is one.
    #[inline]
    pub(crate) fn notify_one(&self) {
        // Step (d). If no waiter sleeps, clear `sleepers`: the next call then needs no system call.
        if self.advance() && !futex::wake_one(self.word) {
            self.wake_all();
        }
    }

    /// Wakes all waiters.
    #[inline]
    pub(crate) fn notify_all(&self) {
        if self.advance() {
            self.wake_all();
        }
    }

    /// Changes the word. Returns true if a waiter may sleep.
    #[inline]
    fn advance(&self) -> bool {
        // Steps (b) and (c).
        self.word.fetch_add(1, Ordering::SeqCst);
        self.sleepers.load(Ordering::SeqCst) != 0
    }

    fn wake_all(&self) {
        // Steps (e), (f) and (g), in this order: see the module documentation.
        self.sleepers.store(0, Ordering::SeqCst);
        self.word.fetch_add(1, Ordering::SeqCst);
        futex::wake_all(self.word);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::{collections::HashSet, sync::atomic::AtomicU64, thread};

    /// A state of two waiters and two notifiers, which move one step at a time. Each notifier adds
    /// one item, and each waiter takes one.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct ModelState {
        items: u8,
        word: u8,
        sleepers: u8,
        /// Step and ticket. Step 4 is asleep, 5 is done.
        waiters: [(u8, u8); 2],
        /// Step; 9 is done.
        notifiers: [u8; 2],
    }

    /// The steps of the module documentation.
    fn wait(mut s: ModelState, index: usize) -> Option<ModelState> {
        let (step, ticket) = s.waiters[index];
        s.waiters[index] = match step {
            0 => (1, s.word),
            1 if s.items > 0 => {
                s.items -= 1;
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

    fn woken_by(mut s: ModelState, waiter: usize, notifier: usize) -> ModelState {
        s.waiters[waiter] = (0, 0);
        s.notifiers[notifier] = 9;
        s
    }

    fn notify(mut s: ModelState, index: usize, all: bool) -> Vec<ModelState> {
        let step = s.notifiers[index];
        s.notifiers[index] = step + 1;
        match step {
            0 => s.items += 1,
            1 | 5 => s.word += 1,
            2 if s.sleepers == 0 => s.notifiers[index] = 9,
            2 if all => s.notifiers[index] = 4,
            2 => {}
            3 => {
                let asleep = (0..2).filter(|waiter: &usize| s.waiters[*waiter].0 == 4);
                let woken: Vec<ModelState> =
                    asleep.map(|waiter| woken_by(s, waiter, index)).collect();
                return if woken.is_empty() { vec![s] } else { woken };
            }
            4 => s.sleepers = 0,
            6 => {
                let asleep = s.waiters.iter_mut().filter(|waiter| waiter.0 == 4);
                asleep.for_each(|waiter| *waiter = (0, 0));
                s.notifiers[index] = 9;
            }
            _ => return Vec::new(),
        }
        vec![s]
    }

    #[test]
    fn no_interleaving_leaves_a_sleeper_with_an_item_to_take() {
        for all in [[false, false], [false, true], [true, true]] {
            let start = ModelState {
                items: 0,
                word: 0,
                sleepers: 0,
                waiters: [(0, 0); 2],
                notifiers: [0; 2],
            };
            let (mut seen, mut next) = (HashSet::from([start]), vec![start]);
            while let Some(state) = next.pop() {
                let wait_steps = (0..2).filter_map(|index| wait(state, index));
                let notify_steps = (0..2).flat_map(|index| notify(state, index, all[index]));
                let steps: Vec<ModelState> = wait_steps.chain(notify_steps).collect();
                assert!(!steps.is_empty() || state.waiters.iter().all(|waiter| waiter.0 == 5));
                next.extend(steps.into_iter().filter(|it| seen.insert(*it)));
            }
            assert!(seen.len() > 1000);
        }
    }

    #[test]
    fn every_notification_arrives_without_the_timer() {
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
                    // A missed notification would block this forever.
                    futex::wait(&word, ticket, Duration::MAX);
                    ticket = event.ticket();
                }
            }
        };
        thread::scope(|scope| {
            let consumers = [scope.spawn(consume), scope.spawn(consume)];
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
