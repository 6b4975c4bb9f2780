//! The system allocator with a count of live bytes, so that a task's cost in memory can be printed.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// Off except while `live_bytes_added` runs: a shared counter would slow the other rows down.
static COUNTING: AtomicBool = AtomicBool::new(false);
/// Bytes; may go below zero, as blocks from before the count are freed.
static LIVE: AtomicIsize = AtomicIsize::new(0);

#[global_allocator]
static HEAP: Counting = Counting;

struct Counting;

/// Bytes that `work` requested, on any thread, and did not give back.
pub(crate) fn live_bytes_added<T>(work: impl FnOnce() -> T) -> (isize, T) {
    LIVE.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    let value = work();
    COUNTING.store(false, Ordering::Relaxed);
    (LIVE.load(Ordering::Relaxed), value)
}

/// Relaxed: another thread's block at the border of the count is one block too many or too few.
fn count(bytes: isize) {
    if COUNTING.load(Ordering::Relaxed) {
        LIVE.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A layout's size never exceeds `isize::MAX`.
fn signed(bytes: usize) -> isize {
    bytes.cast_signed()
}

// SAFETY: every call is handed to `System` with the arguments that the caller vouched for; the
// count touches no block.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: our caller upholds `alloc`'s contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: our caller upholds `alloc_zeroed`'s contract, which is `System`'s.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: `block` came from `System` with this layout, as every block here does.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size) - signed(layout.size()));
        // SAFETY: `block` came from `System` with this layout; our caller vouches for `size`.
        unsafe { System.realloc(block, layout, size) }
    }
}
