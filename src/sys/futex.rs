//! Waiting on a word of shared memory.
//!
//! Several processes map the words, so FUTEX_PRIVATE_FLAG is never set.

use super::atomic::AtomicU32;
use std::{ptr, time::Duration};

/// Sleeps while `word` is `expected`, for at most `limit`. Returns on a wake-up, on a signal, or
/// spuriously.
pub(crate) fn wait(word: &AtomicU32, expected: u32, limit: Duration) {
    let limit = libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    // SAFETY: the word is alive for the call, and the kernel only reads it. After a failure the
    // caller checks the word again.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const limit,
        );
    }
}

/// Wakes all waiters on `word`. Returns whether there were any.
pub(crate) fn wake_all(word: &AtomicU32) -> bool {
    wake(word, libc::c_int::MAX)
}

/// Wakes the waiter that has waited longest on `word`. Returns whether there was one.
pub(crate) fn wake_one(word: &AtomicU32) -> bool {
    wake(word, 1)
}

fn wake(word: &AtomicU32, most: libc::c_int) -> bool {
    // SAFETY: the kernel uses the word's address as a key and does not access it.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE,
            most,
            ptr::null::<libc::timespec>(),
        )
    };
    woken > 0
}
