//! Stands for `src/sys/futex.rs`.
//!
//! The kernel compares the word and queues the sleeper under a lock, which a waker takes, too.
//! Before that, both run a full barrier (`futex_hb_waiters_inc`, `futex_hb_waiters_pending`).

use super::atomic::AtomicU32;
use loom::{
    sync::{Mutex, atomic},
    thread::{self, Thread},
};
use std::{ptr, sync::atomic::Ordering, time::Duration};

loom::lazy_static! {
    /// The words that are slept on, by address, and the sleepers; the first one came first.
    static ref SLEEPERS: Mutex<Vec<(usize, Thread)>> = Mutex::new(Vec::new());
}

/// Sleeps until a wake-up, however long that takes.
pub(crate) fn wait(word: &AtomicU32, expected: u32, _limit: Duration) {
    atomic::fence(Ordering::SeqCst);
    {
        let mut sleepers = SLEEPERS.lock().expect("no panic");
        if word.load(Ordering::Relaxed) != expected {
            return;
        }
        sleepers.push((address(word), thread::current()));
    }
    thread::park();
}

pub(crate) fn wake_all(word: &AtomicU32) -> bool {
    wake(word, usize::MAX)
}

pub(crate) fn wake_one(word: &AtomicU32) -> bool {
    wake(word, 1)
}

fn wake(word: &AtomicU32, most: usize) -> bool {
    atomic::fence(Ordering::SeqCst);
    let mut sleepers = SLEEPERS.lock().expect("no panic");
    let mut woken = 0;
    sleepers.retain(|(at, sleeper)| {
        let is_woken = *at == address(word) && woken < most;
        if is_woken {
            sleeper.unpark();
            woken += 1;
        }
        !is_woken
    });
    woken > 0
}

fn address(word: &AtomicU32) -> usize {
    ptr::from_ref(word).addr()
}
