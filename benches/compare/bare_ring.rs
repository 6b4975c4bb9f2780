//! The least that moves a number to another process: a ring in shared memory for one producer and
//! one consumer, each of which sleeps on a futex when there is nothing to do. No lock, no types,
//! and a death leaves it as it happens to be.
#![expect(unsafe_code, reason = "words of shared memory, and futexes on them")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use procpool::SharedMemory;

use crate::Result;

const SLOTS: usize = 4096;

/// As long as a queue waits awake.
const AWAKE: Duration = Duration::from_micros(50);

pub(crate) type Ring = SharedMemory;

/// One cache line.
#[repr(C, align(64))]
struct Side {
    /// Numbers that were put or taken.
    count: AtomicU64,
    /// 1 while the other side sleeps until this one goes on.
    sleeper: AtomicU32,
}

#[repr(C)]
struct Words {
    tail: Side,
    head: Side,
    slots: [AtomicU64; SLOTS],
}

pub(crate) fn ring() -> Result<Ring> {
    Ok(SharedMemory::create(size_of::<Words>())?)
}

/// What one side has of a ring.
pub(crate) struct RingEnd {
    ring: Ring,
    /// Where this side is.
    own: u64,
    /// Where the other one was when last looked at.
    other: u64,
}

impl RingEnd {
    pub(crate) fn new(ring: Ring) -> Self {
        let (own, other) = (0, 0);
        Self { ring, own, other }
    }

    fn words(&self) -> &Words {
        // SAFETY: what is reached through it is atomics alone, in both processes.
        let start = unsafe { self.ring.as_ptr() };
        // SAFETY: it is mapped at a page, and as long as that, until the ring is dropped; zeros are
        // valid.
        unsafe { &*start.cast() }
    }

    pub(crate) fn put(&mut self, number: u64) {
        let words = self.words();
        let mut other = self.other;
        if self.own - other == SLOTS as u64 {
            other = wait_until(&words.head, |head| self.own - head < SLOTS as u64);
        }
        words.slots[self.own as usize % SLOTS].store(number, Ordering::Relaxed);
        advance(&words.tail, self.own + 1);
        (self.own, self.other) = (self.own + 1, other);
    }

    pub(crate) fn get(&mut self) -> u64 {
        let words = self.words();
        let mut other = self.other;
        if self.own == other {
            other = wait_until(&words.tail, |tail| tail > self.own);
        }
        let number = words.slots[self.own as usize % SLOTS].load(Ordering::Relaxed);
        advance(&words.head, self.own + 1);
        (self.own, self.other) = (self.own + 1, other);
        number
    }
}

fn advance(side: &Side, count: u64) {
    // SeqCst: either this sees the sleeper, or the sleeper sees the count.
    side.count.store(count, Ordering::SeqCst);
    if side.sleeper.load(Ordering::SeqCst) == 1 && side.sleeper.swap(0, Ordering::SeqCst) == 1 {
        futex(&side.sleeper, libc::FUTEX_WAKE, 1);
    }
}

fn wait_until(side: &Side, is_there: impl Fn(u64) -> bool) -> u64 {
    loop {
        let start = Instant::now();
        while start.elapsed() < AWAKE {
            let count = side.count.load(Ordering::Acquire);
            if is_there(count) {
                return count;
            }
            thread::yield_now();
        }
        side.sleeper.store(1, Ordering::SeqCst);
        if !is_there(side.count.load(Ordering::SeqCst)) {
            futex(&side.sleeper, libc::FUTEX_WAIT, 1);
        }
    }
}

fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    let forever = std::ptr::null::<libc::timespec>();
    // SAFETY: the word is alive for the call; whatever it returns for, the caller looks again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, forever) };
}
