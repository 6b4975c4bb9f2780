//! The id of this process for the cost of a load, correct also in a copy that a foreign `fork` or
//! `clone` created.
//!
//! The cached number is in a page that the kernel zeroes in every child (`MADV_WIPEONFORK`, Linux
//! 4.14). So a pool in a fork of its owner detects the fork without a system call for each task.
//!
//! Also an identity that no later process shares, for checking whether a process has ended whose
//! number may be reused.

use super::{pidfd::PidFd, poll, procfs};
use std::{
    io,
    ptr::{self, NonNull},
    sync::{
        Once,
        atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Bytes; any size is rounded up to a page.
const PAGE: usize = 4096;

/// The page. Null before the first use, and if the kernel refuses it. Never unmapped.
static PAGE_OF_ID: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Returns the id of the calling process.
#[inline]
pub(crate) fn current() -> u32 {
    // Acquire: the page is mapped before its address is stored.
    let Some(word) = NonNull::new(PAGE_OF_ID.load(Ordering::Acquire)) else {
        return make_page();
    };
    // SAFETY: the page is mapped forever, aligned, and holds an atomic that is valid for every bit
    // pattern.
    let word = unsafe { word.as_ref() };
    // Relaxed: the number says nothing about other memory, and every writer writes the same.
    match word.load(Ordering::Relaxed) {
        0 => remember(word),
        pid => pid,
    }
}

#[cold]
fn remember(word: &AtomicU32) -> u32 {
    let pid = std::process::id();
    word.store(pid, Ordering::Relaxed);
    pid
}

/// Maps the page for later calls.
#[cold]
fn make_page() -> u32 {
    static MADE: Once = Once::new();
    MADE.call_once(|| PAGE_OF_ID.store(map_page(), Ordering::Release));
    std::process::id()
}

/// Maps a page that is zeroed in every child. Returns null if the kernel refuses it.
fn map_page() -> *mut AtomicU32 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh private mapping touches no memory that exists.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, access, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return ptr::null_mut();
    }
    // SAFETY: the page was just mapped, and no other code uses it.
    let advised = unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) };
    if advised == 0 {
        page.cast()
    } else {
        ptr::null_mut()
    }
}

/// A process, by its id (in the lower half) and its start time (in clock ticks since boot,
/// truncated; 0 if unknown). Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessIdentity(pub(crate) u64);

impl ProcessIdentity {
    /// Returns the identity of the calling process.
    #[inline]
    pub(crate) fn current() -> Self {
        static CACHED: AtomicU64 = AtomicU64::new(0);
        let pid = current();
        // Relaxed, as for the id.
        let cached = Self(CACHED.load(Ordering::Relaxed));
        if cached.pid() == pid {
            return cached;
        }
        let identity = Self::of(pid);
        CACHED.store(identity.0, Ordering::Relaxed);
        identity
    }

    #[cold]
    fn of(pid: u32) -> Self {
        let start = start_of(pid).unwrap_or_default();
        Self(u64::from(pid) | start << 32)
    }

    pub(crate) fn pid(self) -> u32 {
        self.0 as u32
    }

    /// Whether the process has ended, with all of its threads. Blocks for at most `limit` if it has
    /// not. Fails if this cannot be determined, for example for lack of descriptors.
    pub(crate) fn has_ended(self, limit: Duration) -> io::Result<bool> {
        // Opened first: the start time then belongs to the process of this descriptor, unless that
        // has ended.
        match PidFd::open(self.pid()) {
            Ok(_) if !self.may_be(Self::of(self.pid())) => Ok(true),
            Ok(process) => poll::is_readable(&process, Some(limit)),
            // The number is unused, or belongs to a thread by now.
            Err(error) => match error.raw_os_error() {
                Some(libc::ESRCH | libc::EINVAL | libc::ENOENT) => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// Whether both may be the same process. The start time is unknown in a process without a
    /// descriptor.
    fn may_be(self, other: Self) -> bool {
        let starts = [self, other].map(|identity| identity.0 >> 32);
        self.pid() == other.pid() && (starts[0] == starts[1] || starts.contains(&0))
    }
}

/// Returns the 22nd field of `/proc/*/stat`.
fn start_of(pid: u32) -> Option<u64> {
    field_of(pid, 19)?.parse().ok()
}

/// Whether the first thread of a process sleeps: it does not run, is not runnable, and is not
/// stopped.
pub(crate) fn is_asleep(pid: u32) -> bool {
    field_of(pid, 0).as_deref() == Some("S")
}

/// Returns a field of `/proc/*/stat` after the second, which is a name in parentheses that may
/// contain any characters.
fn field_of(pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read(procfs::folder_of(pid).ok()?.join("stat")).ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[after_name + 1..]).ok()?;
    fields
        .split_ascii_whitespace()
        .nth(number)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_cached_id_is_the_process_id() {
        assert_eq!(super::current(), std::process::id());
        assert_eq!(super::current(), std::process::id());
    }

    #[test]
    fn it_is_known_when_a_process_has_ended_and_its_number_is_another_s() {
        let ended = |it: ProcessIdentity, limit| it.has_ended(limit).expect("a descriptor");
        let own = ProcessIdentity::current();
        assert!(own == ProcessIdentity::current() && !ended(own, Duration::ZERO));
        assert!(ended(ProcessIdentity(own.0 ^ 1 << 40), Duration::ZERO));
        let mut child = Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("a program");
        let other = ProcessIdentity::of(child.id());
        assert!(!ended(other, Duration::ZERO));
        child.kill().expect("it runs");
        assert!(ended(other, Duration::from_secs(60)), "it is a zombie");
        child.wait().expect("a child of this process");
        assert!(ended(other, Duration::ZERO));
    }
}
