//! Stands for `src/sys/atomic.rs`: loom's atomics, with sequential consistency and in weaker forms.
//!
//! loom takes `SeqCst` accesses for acquire and release. The crate relies on one thing more: a
//! store comes before a later load of the same thread, both `SeqCst`. So a thread that has made
//! such a store runs a fence before its next such load. Weaker accesses get no fence, nor do swaps.
//!
//! loom also lets a store come between a swap and the store that the swap has read. So a store to a
//! word of 32 bits, which other threads may swap, is a swap.

use loom::sync::{self, atomic};
use std::cell::Cell;

pub(crate) use std::sync::atomic::Ordering;

/// What a thread leaves out, so that a model is seen to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weakening {
    /// Nothing.
    None,
    /// Fences do nothing.
    NoFences,
    /// Release stores are relaxed.
    RelaxedStores,
    /// Sequentially consistent accesses acquire and release.
    NoSeqCst,
}

loom::thread_local! {
    static WEAKENING: Cell<Weakening> = Cell::new(Weakening::None);
    /// Whether the thread has made a `SeqCst` store since the last fence for those.
    static HAS_STORED: Cell<bool> = Cell::new(false);
}

/// Weakens what the calling thread does from now on.
pub(crate) fn weaken(by: Weakening) {
    WEAKENING.with(|it| it.set(by));
}

fn is_weakened(by: Weakening) -> bool {
    WEAKENING.with(Cell::get) == by
}

/// A fence, too: another thread's `membarrier` is one here.
pub(crate) fn compiler_fence(order: Ordering) {
    fence(order);
}

pub(crate) fn fence(order: Ordering) {
    if !is_weakened(Weakening::NoFences) {
        atomic::fence(order);
    }
}

/// Comes before a load.
fn before_load(order: Ordering) {
    let is_seq_cst = order == Ordering::SeqCst && !is_weakened(Weakening::NoSeqCst);
    if is_seq_cst && HAS_STORED.with(|it| it.replace(false)) {
        atomic::fence(Ordering::SeqCst);
    }
}

/// Comes after a store.
fn after_store(order: Ordering) {
    if order == Ordering::SeqCst {
        HAS_STORED.with(|it| it.set(true));
    }
}

fn order_of_load(order: Ordering) -> Ordering {
    match order {
        Ordering::SeqCst => Ordering::Acquire,
        order => order,
    }
}

fn order_of_store(order: Ordering) -> Ordering {
    match order {
        _ if is_weakened(Weakening::RelaxedStores) => Ordering::Relaxed,
        Ordering::SeqCst => Ordering::Release,
        order => order,
    }
}

fn order_of_both(order: Ordering) -> Ordering {
    match order {
        Ordering::SeqCst => Ordering::AcqRel,
        order => order,
    }
}

macro_rules! atomics {
    ($($Atomic:ident $value:ty;)*) => {
        $(
            #[derive(Debug, Default)]
            pub(crate) struct $Atomic(atomic::$Atomic);

            impl $Atomic {
                pub(crate) fn new(value: $value) -> Self {
                    Self(atomic::$Atomic::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    before_load(order);
                    self.0.load(order_of_load(order))
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    let before = self.0.swap(value, order_of_both(order));
                    after_store(order);
                    before
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    let (order, otherwise) = (order_of_both(success), order_of_load(failure));
                    let exchanged = self.0.compare_exchange(current, new, order, otherwise);
                    if exchanged.is_ok() {
                        after_store(success);
                    }
                    exchanged
                }

                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.compare_exchange(current, new, success, failure)
                }

                pub(crate) fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    mut update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    let mut seen = self.load(failure);
                    while let Some(new) = update(seen) {
                        match self.compare_exchange(seen, new, success, failure) {
                            Ok(before) => return Ok(before),
                            Err(now) => seen = now,
                        }
                    }
                    Err(seen)
                }
            }
        )*
    };
}
atomics! {
    AtomicBool bool;
    AtomicU32 u32;
    AtomicU64 u64;
}

impl AtomicBool {
    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.store(value, order_of_store(order));
    }
}

impl AtomicU64 {
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order_of_store(order));
        after_store(order);
    }
}

impl AtomicU32 {
    pub(crate) fn store(&self, value: u32, order: Ordering) {
        self.0.swap(value, order_of_store(order));
        after_store(order);
    }

    pub(crate) fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        let before = self.0.fetch_add(value, order_of_both(order));
        after_store(order);
        before
    }

    pub(crate) fn fetch_and(&self, value: u32, order: Ordering) -> u32 {
        let before = self.0.fetch_and(value, order_of_both(order));
        after_store(order);
        before
    }
}

/// parking_lot's, without poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> sync::MutexGuard<'_, T> {
        self.0.lock().expect("no panic")
    }
}
