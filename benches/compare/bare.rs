//! The bare limits of synchronisation between processes: a robust mutex, a futex.

#![expect(unsafe_code, reason = "the bare limits are system calls")]

use procpool::SharedMemory;
use std::{
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A robust, process-shared mutex, and a number after it.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Bare(SharedMemory);

impl Bare {
    pub(crate) fn new() -> Self {
        let bare = Self(SharedMemory::create(4096).expect("shared memory"));
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: it initialises a local.
        unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
        let attributes = attributes.as_mut_ptr();
        // SAFETY: the attributes are initialised.
        unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) };
        // SAFETY: as above.
        unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) };
        // SAFETY: no other process has the memory yet.
        unsafe { libc::pthread_mutex_init(bare.mutex(), attributes) };
        bare
    }

    pub(crate) fn mutex(&self) -> *mut libc::pthread_mutex_t {
        // SAFETY: only the address is taken.
        unsafe { self.0.as_ptr() }.cast()
    }

    fn number(&self) -> *mut u64 {
        // SAFETY: inside of the memory.
        unsafe { self.mutex().byte_add(128) }.cast()
    }

    pub(crate) fn lock(mutex: *mut libc::pthread_mutex_t) {
        // SAFETY: it is initialised.
        unsafe { libc::pthread_mutex_lock(mutex) };
    }

    pub(crate) fn unlock(mutex: *mut libc::pthread_mutex_t) {
        // SAFETY: it is initialised.
        unsafe { libc::pthread_mutex_unlock(mutex) };
    }

    pub(crate) fn count(&self, times: u64) {
        let (mutex, number) = (self.mutex(), self.number());
        for _ in 0..times {
            Self::lock(mutex);
            // SAFETY: every access holds the mutex.
            let before = unsafe { ptr::read_volatile(number) };
            // SAFETY: as above.
            unsafe { ptr::write_volatile(number, before + 1) };
            Self::unlock(mutex);
        }
    }
}

/// Waits for its word, and sets the other's.
pub(crate) fn answer((memory, rounds): (SharedMemory, u32)) {
    // SAFETY: only the address is taken.
    let start = unsafe { memory.as_ptr() }.cast::<AtomicU32>();
    // SAFETY: words that are only used as atomics.
    let words = unsafe { std::slice::from_raw_parts(start, 32) };
    for _ in 0..rounds {
        wait(&words[0]);
        wake(&words[16]);
    }
}

/// The values of a word that is set, and of one with a sleeping waiter; else it is 0.
const SET: u32 = 1;
const ASLEEP: u32 = 2;

/// As long as an event waits awake.
const AWAKE: Duration = Duration::from_micros(50);

/// Waits awake as an event does, then asleep, until the word is set, and takes that back.
pub(crate) fn wait(word: &AtomicU32) {
    let start = Instant::now();
    while start.elapsed() < AWAKE {
        if word.load(Ordering::Acquire) == SET {
            return word.store(0, Ordering::Relaxed);
        }
        thread::yield_now();
    }
    let asleep = || word.compare_exchange(0, ASLEEP, Ordering::SeqCst, Ordering::SeqCst);
    while asleep() != Err(SET) {
        let forever = ptr::null::<libc::timespec>();
        // SAFETY: the word is alive for the call.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                ASLEEP,
                forever,
            )
        };
    }
    word.store(0, Ordering::Relaxed);
}

/// Sets the word, and wakes the thread that sleeps for it.
pub(crate) fn wake(word: &AtomicU32) {
    if word.swap(SET, Ordering::SeqCst) == ASLEEP {
        // SAFETY: the kernel takes the address as a key.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }
}

/// Asks an [`answer`]ing process `rounds` times.
pub(crate) fn ask(memory: &SharedMemory, rounds: u32) {
    // SAFETY: only the address is taken.
    let start = unsafe { memory.as_ptr() }.cast::<AtomicU32>();
    // SAFETY: words that are only used as atomics.
    let words = unsafe { std::slice::from_raw_parts(start, 32) };
    for _ in 0..rounds {
        wake(&words[0]);
        wait(&words[16]);
    }
}
