//! Which guards in this process give references to shared items: it must not be copied then.
//!
//! A copy of the process would have the same references, to the same memory, and no lock keeps the
//! two apart.

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

/// Whether a handle has a guard that was not dropped; leaked ones stay.
///
/// | value | meaning |
/// |---|---|
/// | 0 | each guard was dropped |
/// | a process's id | that process has a guard, or has leaked one |
///
/// Only the holder of the handle's mutex writes it. It lies behind a pointer, where [`guards`]
/// finds it: a lock then costs no count that all threads share.
#[derive(Debug)]
pub(super) struct Lent(Arc<AtomicU32>);

/// The words of all handles, with what each is a handle to.
static ALL: Mutex<All> = Mutex::new(All {
    words: Vec::new(),
    crowded: 0,
});

struct All {
    words: Vec<(ObjectKind, Weak<AtomicU32>)>,
    /// Words of dropped handles leave the list when it is so long.
    crowded: usize,
}

impl Lent {
    /// Creates the word of a handle without a guard.
    pub(super) fn new(kind: ObjectKind) -> Self {
        let word = Arc::new(AtomicU32::new(0));
        ALL.lock().add(kind, Arc::downgrade(&word));
        Self(word)
    }

    /// Notes a guard in the process of that id, which calls this.
    #[inline]
    pub(super) fn begin(&self, process: u32) {
        // Relaxed, as everywhere here: the process has one thread when another's guards matter.
        self.0.store(process, Ordering::Relaxed);
    }

    /// Notes that the guard was dropped.
    #[inline]
    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether this process, and not one that it is a copy of, has a guard.
    pub(super) fn is_here(&self) -> bool {
        self.0.load(Ordering::Relaxed) == pid::current()
    }
}

impl All {
    fn add(&mut self, kind: ObjectKind, word: Weak<AtomicU32>) {
        if self.words.len() >= self.crowded {
            self.words.retain(|it| it.1.strong_count() > 0);
            self.crowded = 2 * self.words.len() + 16;
        }
        self.words.push((kind, word));
    }

    fn count(&self, kind: ObjectKind) -> usize {
        let words = self.words.iter().filter(|it| it.0 == kind);
        let handles = words.filter_map(|it| it.1.upgrade());
        handles.filter(|it| Lent(it.clone()).is_here()).count()
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
/// A leaked guard counts until its handle is dropped, with which its references end. Guards of the
/// process that this one is a copy of do not count: they panic here, and whoever made the copy
/// in spite of them has promised that it does not use their references.
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
