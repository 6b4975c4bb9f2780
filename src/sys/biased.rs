//! A lock for a value that one thread uses constantly and other threads rarely.
//!
//! Taking it costs the owner two plain stores and a load. A visitor pays for that: it makes the
//! kernel run a memory barrier on every core that runs a thread of this process (`membarrier`). If
//! the kernel has no such barrier, the owner runs one each time.
//!
//! | `is_open` | `is_wanted` | meaning |
//! |---|---|---|
//! | true | false | the value is not in use |
//! | false | false | the owner uses it |
//! | true | true | a visitor uses it, or is about to find out whether it may |
//! | false | true | the owner is in first, or waits for the visitor: `visit` tells |
//!
//! The owner stores `is_open`, then loads `is_wanted`; the visitor stores `is_wanted`, then loads
//! `is_open`. With the visitor's barrier between its two accesses, at least one side sees the
//! other's store: if the owner's store came before the barrier, the visitor finds the value closed
//! and leaves; if it came after, the owner's load does too, and finds the value wanted.
//! `tests/loom/sys` runs this file with a fence in place of that barrier.

use super::{
    atomic::{AtomicBool, Mutex, Ordering, compiler_fence, fence},
    membarrier::{barrier_in_all_threads, has_remote_barrier},
};
use std::{
    cell::UnsafeCell,
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Weak},
};

struct BiasedLock<T> {
    /// Whether visitors run the barrier for the owner.
    is_cheap: bool,
    value: UnsafeCell<T>,
    /// Whether the owner is away from the value. Written by the owner.
    is_open: AtomicBool,
    /// Whether a visitor asks for the value. Written by the visitor that holds `visit`.
    is_wanted: AtomicBool,
    /// Held by a visitor from before `is_wanted` is set until after it is cleared.
    visit: Mutex<()>,
}

// SAFETY: the value is accessed by one thread at a time (see the table), like that of a `Mutex`.
unsafe impl<T: Send> Sync for BiasedLock<T> {}

/// The value, for the thread that uses it all the time.
pub(crate) struct Owner<T>(Arc<BiasedLock<T>>);

/// Access to the value for other threads, as long as its owner exists.
pub(crate) struct Visitor<T>(Weak<BiasedLock<T>>);

/// The outcome of a visit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum VisitResult<U> {
    Done(U),
    /// The owner uses the value now.
    Busy,
    /// The owner was dropped.
    Gone,
}

impl<T> Owner<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(BiasedLock {
            is_cheap: has_remote_barrier(),
            value: UnsafeCell::new(value),
            is_open: AtomicBool::new(true),
            is_wanted: AtomicBool::new(false),
            visit: Mutex::new(()),
        }))
    }

    pub(crate) fn visitor(&self) -> Visitor<T> {
        Visitor(Arc::downgrade(&self.0))
    }

    /// Takes the value. Blocks only while a visitor uses it.
    #[inline]
    pub(crate) fn lock(&mut self) -> OwnerGuard<'_, T> {
        self.0.is_open.store(false, Ordering::Relaxed);
        if self.0.is_cheap {
            // The processor may still swap the two accesses; the visitor's barrier prevents that.
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        // Acquire: pairs with the visitor's store of `false` after its changes to the value.
        if self.0.is_wanted.load(Ordering::Acquire) {
            self.wait_for_visitor();
        }
        OwnerGuard(self)
    }

    #[cold]
    fn wait_for_visitor(&self) {
        // A later visitor finds the value closed.
        drop(self.0.visit.lock());
    }
}

/// Access to the value for its owner.
pub(crate) struct OwnerGuard<'a, T>(&'a mut Owner<T>);

impl<T> Deref for OwnerGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard borrows the only owner, and visitors stay out until it is dropped.
        unsafe { &*self.0.0.value.get() }
    }
}

impl<T> DerefMut for OwnerGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard borrows the only owner, and visitors stay out until it is dropped.
        unsafe { &mut *self.0.0.value.get() }
    }
}

impl<T> Drop for OwnerGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: a visitor that sees it open sees the owner's changes to the value.
        self.0.0.is_open.store(true, Ordering::Release);
    }
}

impl<T> Visitor<T> {
    /// Runs `f` on the value if the owner is not using it. The owner waits until `f` returns.
    pub(crate) fn visit<U>(&self, f: impl FnOnce(&mut T) -> U) -> VisitResult<U> {
        let Some(biased) = self.0.upgrade() else {
            return VisitResult::Gone;
        };
        let _visit = biased.visit.lock();
        let _wanted = WantedFlag::new(&biased.is_wanted);
        // It fails only if the kernel revokes the barrier. Then every visit fails.
        if biased.is_cheap && barrier_in_all_threads().is_err() {
            return VisitResult::Gone;
        }
        fence(Ordering::SeqCst);
        if !biased.is_open.load(Ordering::Acquire) {
            return VisitResult::Busy;
        }
        // SAFETY: the owner was away after `is_wanted` was set (see the file's head), so that it
        // waits for `visit` before it comes back; other visitors wait for `visit`, too.
        VisitResult::Done(f(unsafe { &mut *biased.value.get() }))
    }
}

impl<T> fmt::Debug for Visitor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Visitor").finish_non_exhaustive()
    }
}

/// Sets the flag until it is dropped, including by a panic.
struct WantedFlag<'a>(&'a AtomicBool);

impl<'a> WantedFlag<'a> {
    fn new(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Self(flag)
    }
}

impl Drop for WantedFlag<'_> {
    fn drop(&mut self) {
        // Release: an owner that sees the flag cleared sees the visitor's changes to the value.
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    #[test]
    fn a_visitor_is_kept_out_while_the_owner_is_in() {
        let mut owner = Owner::new(1);
        let visitor = owner.visitor();
        let entered = owner.lock();
        assert_eq!(visitor.visit(|it| *it), VisitResult::Busy);
        drop(entered);
        assert_eq!(visitor.visit(|it| *it), VisitResult::Done(1));
        drop(owner);
        assert_eq!(visitor.visit(|it| *it), VisitResult::Gone);
    }

    #[test]
    fn owner_and_visitor_never_use_the_value_at_once() {
        let mut owner = Owner::new([0_u64; 2]);
        let visitor = owner.visitor();
        let visits = thread::spawn(move || {
            let mut done = 0;
            loop {
                match visitor.visit(|counts| counts.each_mut().map(|count| *count += 1)) {
                    VisitResult::Done(_) => done += 1,
                    VisitResult::Busy => {}
                    VisitResult::Gone => return done,
                }
                thread::sleep(Duration::from_micros(50));
            }
        });
        for n in 0..2_000_000 {
            let mut pair = owner.lock();
            assert_eq!(pair[0], pair[1], "after {n} turns");
            pair[0] += 1;
            pair[1] += 1;
        }
        let total = owner.lock()[0];
        drop(owner);
        let visited: u64 = visits.join().expect("no panic");
        assert!((2_000_000 + visited).abs_diff(total) <= 1);
    }
}
