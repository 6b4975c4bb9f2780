//! This process's id at the price of a load, right also in a copy made by foreign `fork` or `clone`.
//!
//! The cached number lies in a page that the kernel empties in every child (`MADV_WIPEONFORK`, Linux 4.14), so that a
//! pool which is used in a fork of its owner notices without a system call for each task.

use std::{
    ptr::{self, NonNull},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Bytes; any size is rounded up to a page.
const PAGE: usize = 4096;

struct Cache(Option<NonNull<AtomicU32>>);

// SAFETY: the page is never unmapped and holds nothing but one atomic.
unsafe impl Send for Cache {}
// SAFETY: as above.
unsafe impl Sync for Cache {}

static CACHE: LazyLock<Cache> = LazyLock::new(Cache::new);

/// The id of the calling process.
pub(crate) fn current() -> u32 {
    let Some(word) = CACHE.0 else {
        return std::process::id();
    };
    // SAFETY: the page is mapped for ever, aligned, and holds an atomic that is valid for every bit pattern.
    let word = unsafe { word.as_ref() };
    // Relaxed: the number says nothing about other memory, and every writer writes the same.
    match word.load(Ordering::Relaxed) {
        0 => {
            let pid = std::process::id();
            word.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

impl Cache {
    fn new() -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh private mapping touches no memory that exists.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, access, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Self(None);
        }
        // SAFETY: the page was mapped just now, and nobody else knows it.
        let advised = unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) };
        Self(NonNull::new(page.cast()).filter(|_| advised == 0))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_cached_id_is_the_process_id() {
        assert_eq!(super::current(), std::process::id());
        assert_eq!(super::current(), std::process::id());
    }
}
