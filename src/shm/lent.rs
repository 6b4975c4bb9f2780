//! Guards of this process that give references to shared items. The process must not be forked
//! while it has any.
//!
//! A forked copy would have the same references to the same memory, and no lock keeps the two
//! processes apart.

use crate::sys::pid;
use crate::wire::kind::ObjectKind;
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// Whether a handle has a guard that was not dropped. A leaked guard stays.
///
/// | value | meaning |
/// |---|---|
/// | 0 | every guard was dropped |
/// | a process id | that process has a guard, or has leaked one |
///
/// Only the holder of the handle's mutex writes it. It is in an allocation of its own, where
/// [`guards`] finds it, so taking a lock updates no counter that threads share.
#[derive(Debug)]
pub(super) struct Lent(Arc<AtomicU32>);

/// The words of all handles, with the kinds of the handles.
static ALL: Mutex<All> = Mutex::new(All {
    words: Vec::new(),
    crowded: 0,
});

struct All {
    words: Vec<(ObjectKind, Weak<AtomicU32>)>,
    /// The length of the list at which words of dropped handles are removed.
    crowded: usize,
}

impl Lent {
    /// Creates the word of a handle without a guard.
    pub(super) fn new(kind: ObjectKind) -> Self {
        let word = Arc::new(AtomicU32::new(0));
        ALL.lock().add(kind, Arc::downgrade(&word));
        Self(word)
    }

    /// Records a guard in process `process`, which must be the calling one.
    #[inline]
    pub(super) fn begin(&self, process: u32) {
        // Relaxed, like everywhere here: a process that is about to be forked has one thread.
        self.0.store(process, Ordering::Relaxed);
    }

    /// Records that the guard was dropped.
    #[inline]
    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether this process has a guard; a guard inherited by `fork` does not count.
    pub(super) fn is_here(&self) -> bool {
        self.0.load(Ordering::Relaxed) == pid::current()
    }
}

impl All {
    fn add(&mut self, kind: ObjectKind, word: Weak<AtomicU32>) {
        if self.words.len() >= self.crowded {
            self.words.retain(|entry| entry.1.strong_count() > 0);
            self.crowded = 2 * self.words.len() + 16;
        }
        self.words.push((kind, word));
    }

    fn count(&self, kind: ObjectKind) -> usize {
        let words = self.words.iter().filter(|entry| entry.0 == kind);
        let handles = words.filter_map(|entry| entry.1.upgrade());
        handles.filter(|word| Lent(word.clone()).is_here()).count()
    }
}

/// The guards in a process that give references to shared items. Prints as `1 ValueGuard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guards {
    values: usize,
    arrays: usize,
}

/// Returns the guards that this process has or has leaked; `None` if there are none.
///
/// A leaked guard counts until its handle is dropped, which ends its references. Guards inherited
/// by `fork` do not count: they panic here. A caller that forked in spite of them has promised not
/// to use their references.
pub(crate) fn guards() -> Option<Guards> {
    let all = ALL.lock();
    let guards = Guards {
        values: all.count(ObjectKind::Value),
        arrays: all.count(ObjectKind::Array),
    };
    (guards.values + guards.arrays > 0).then_some(guards)
}

impl fmt::Display for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.values, self.arrays) {
            (values, 0) => write!(f, "{values} ValueGuard"),
            (0, arrays) => write!(f, "{arrays} ArrayGuard"),
            (values, arrays) => write!(f, "{values} ValueGuard and {arrays} ArrayGuard"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_dropped_handles_leave_the_list() {
        let mut all = All {
            words: Vec::new(),
            crowded: 0,
        };
        for _ in 0..1000 {
            all.add(ObjectKind::Value, Weak::new());
        }
        assert!(all.words.len() < 100);
    }

    #[test]
    fn a_guard_of_another_process_does_not_count() {
        let word = Lent::new(ObjectKind::Value);
        word.begin(1);
        assert!(!word.is_here());
        word.begin(pid::current());
        assert!(word.is_here());
    }
}
