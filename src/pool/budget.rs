//! The limit of a pool's pending bytes: a submitter beyond it blocks or gets an error.
//!
//! A task reserves bytes when it is submitted and releases them with its argument: when the task is
//! done, or, for a chunk of a map, when the whole chunk is. A task that is larger than the budget
//! is admitted when nothing else is pending; otherwise it would never run.

use parking_lot::Mutex;
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::Thread,
};

/// The approximate number of bytes that a pending task uses in addition to its argument; measured
/// by benches/compare.
const TASK_BYTES: u64 = 256;

/// The budget of one pool.
#[derive(Debug)]
pub(super) struct Budget {
    max: u64,
    pending: AtomicU64,
    waiting: Mutex<Vec<Thread>>,
}

/// Reserved bytes, released on drop.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self {
            max,
            pending: AtomicU64::new(0),
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Reserves bytes for a task with an argument of `argument` bytes. `None` if they do not fit.
    pub(super) fn try_reserve(self: &Arc<Self>, argument: usize) -> Option<Box<Reservation>> {
        let bytes = argument as u64 + TASK_BYTES;
        let grown = |pending| self.allows(pending, bytes).then_some(pending + bytes);
        // Relaxed: the counter guards no other memory.
        let taken = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        taken.ok().map(|_| self.reserved(bytes))
    }

    /// Reserves bytes even if they do not fit.
    pub(super) fn reserve(self: &Arc<Self>, argument: usize) -> Box<Reservation> {
        let bytes = argument as u64 + TASK_BYTES;
        self.pending.fetch_add(bytes, Ordering::Relaxed);
        self.reserved(bytes)
    }

    fn reserved(self: &Arc<Self>, bytes: u64) -> Box<Reservation> {
        Box::new(Reservation {
            budget: Arc::clone(self),
            bytes,
        })
    }

    fn allows(&self, pending: u64, bytes: u64) -> bool {
        pending == 0 || pending.saturating_add(bytes) <= self.max
    }

    /// Whether there is room for a task with an argument of `argument` bytes.
    pub(super) fn has_room(&self, argument: usize) -> bool {
        self.allows(self.pending(), argument as u64 + TASK_BYTES)
    }

    pub(super) fn pending(&self) -> u64 {
        // SeqCst: a waiter loads this after `set_waiter`, and a release loads the waiters after it
        // changed this. One of them sees the other.
        self.pending.load(Ordering::SeqCst)
    }

    /// Unparks `thread` at the next release.
    pub(super) fn set_waiter(&self, thread: &Thread) {
        self.waiting.lock().push(thread.clone());
    }

    /// Unparks all threads that wait for room.
    pub(super) fn wake_all(&self) {
        let waiting = mem::take(&mut *self.waiting.lock());
        waiting.iter().for_each(Thread::unpark);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.pending.fetch_sub(self.bytes, Ordering::SeqCst);
        self.budget.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_with_what_took_it() {
        let budget = Arc::new(Budget::new(1000));
        let first = budget.try_reserve(1000 - TASK_BYTES as usize);
        assert!(first.is_some() && !budget.has_room(0));
        assert!(budget.try_reserve(0).is_none());
        drop(first);
        assert!(budget.has_room(0) && budget.pending() == 0);
    }

    #[test]
    fn what_is_larger_than_all_room_is_taken_alone() {
        let budget = Arc::new(Budget::new(1000));
        let small = budget.try_reserve(1);
        assert!(budget.try_reserve(5000).is_none());
        drop(small);
        assert!(budget.try_reserve(5000).is_some());
    }
}
