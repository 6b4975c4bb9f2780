//! The bare limits of synchronisation between processes: a robust mutex, a futex.

#![expect(unsafe_code, reason = "the bare limits are system calls")]

use procpool::SharedMemory;
use std::{
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// A robust, process-shared mutex, and a number behind it.
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
        // SAFETY: nobody else knows the memory yet.
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
            // SAFETY: the mutex is held by all who touch it.
            let before = unsafe { ptr::read_volatile(number) };
            // SAFETY: as above.
            unsafe { ptr::write_volatile(number, before + 1) };
            Self::unlock(mutex);
        }
    }
}

/// Waits for its word to be 1, makes it 0, and the other's 1.
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

pub(crate) fn wait(word: &AtomicU32) {
    while word.swap(0, Ordering::SeqCst) == 0 {
        let forever = ptr::null::<libc::timespec>();
        // SAFETY: the word is alive for the call.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 0, forever) };
    }
}

pub(crate) fn wake(word: &AtomicU32) {
    word.store(1, Ordering::SeqCst);
    // SAFETY: the kernel takes the address as a key.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}
