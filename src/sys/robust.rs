//! Mutexes in shared memory that survive the death of their holder: pthread's robust,
//! process-shared mutexes.
//!
//! Each thread has a list of its held mutexes. The kernel walks the list when the thread ends for
//! any reason, and marks these mutexes, so that the next holder learns of the death. Of the tested
//! designs, only this one handled a killed holder, a holder that was not reaped yet, and a thread
//! that exits.
//!
//! The list is linked through the mutexes themselves, so the memory of a held mutex must never be
//! unmapped: see [`RobustMutex`].

use super::memory::Mapping;
use std::{
    io,
    mem::{self, MaybeUninit},
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

/// The behaviour when a thread locks a mutex that it already holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MutexKind {
    /// [`MutexError::HeldByThisThread`].
    ErrorCheck,
    /// Locks it again. The thread must unlock it as often as it has locked it.
    Recursive,
}

/// The mutex is held, and consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockState {
    Clean,
    /// The last holder died with it. Reported once.
    OwnerDied,
}

/// The mutex was not locked by this call.
#[derive(Debug)]
pub(crate) enum MutexError {
    /// Another thread holds it, and the deadline has passed.
    Held,
    HeldByThisThread,
    Failed(io::Error),
}

/// A robust mutex at an offset in a mapping.
///
/// A thread's list of held mutexes contains their addresses. So a mutex that is dropped while it is
/// held (its guard was forgotten) leaks its mapping. `depth` shows this without a reference count
/// for each lock operation:
///
/// | `depth` | meaning |
/// |---|---|
/// | 0 | not held through this value |
/// | n > 0 | locked n times through this value, or stale: see below |
///
/// It is stale if a thread of this process, or of the process that it is a copy of, has ended with
/// the mutex or is missing in the copy. The mutex is then no longer held, and the mapping leaks.
///
/// Only the holder writes it.
#[derive(Debug)]
pub(crate) struct RobustMutex {
    mapping: Mapping,
    offset: usize,
    depth: AtomicU32,
}

type Raw = libc::pthread_mutex_t;

/// Converts the return value of pthread functions, which do not set errno.
fn check(returned: libc::c_int) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

impl RobustMutex {
    /// Bytes; a cache line, into which the mutex fits on every architecture.
    pub(crate) const SIZE: usize = 64;

    /// Creates a mutex in zeroed memory that is not in use yet. `offset` must be a multiple of
    /// `SIZE`.
    pub(crate) fn create(mapping: Mapping, offset: usize, reentry: MutexKind) -> io::Result<Self> {
        let mutex = Self::open(mapping, offset);
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: it initialises a local.
        check(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: it has just been initialised.
        let attributes = unsafe { attributes.assume_init_mut() };
        let initialised = mutex.initialize(attributes, reentry);
        // SAFETY: initialised above, and not used afterwards.
        unsafe { libc::pthread_mutexattr_destroy(attributes) };
        initialised.map(|()| mutex)
    }

    fn initialize(
        &self,
        attributes: &mut libc::pthread_mutexattr_t,
        reentry: MutexKind,
    ) -> io::Result<()> {
        let kind = match reentry {
            MutexKind::ErrorCheck => libc::PTHREAD_MUTEX_ERRORCHECK,
            MutexKind::Recursive => libc::PTHREAD_MUTEX_RECURSIVE,
        };
        // SAFETY: the attributes are initialised, as for the next two.
        check(unsafe { libc::pthread_mutexattr_settype(attributes, kind) })?;
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setpshared(attributes, shared) })?;
        let robust = libc::PTHREAD_MUTEX_ROBUST;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setrobust(attributes, robust) })?;
        // SAFETY: the memory is inside the mapping and aligned, as `open` has checked, and not in
        // use yet.
        check(unsafe { libc::pthread_mutex_init(self.raw(), attributes) })
    }

    /// Opens a mutex that its creator has initialised.
    pub(crate) fn open(mapping: Mapping, offset: usize) -> Self {
        const { assert!(size_of::<Raw>() <= Self::SIZE && align_of::<Raw>() <= Self::SIZE) };
        let end = offset.checked_add(Self::SIZE);
        let is_inside = end.is_some_and(|end| end <= mapping.length());
        assert!(
            is_inside && offset.is_multiple_of(Self::SIZE),
            "a mutex does not fit at offset {offset}"
        );
        Self {
            mapping,
            offset,
            depth: AtomicU32::new(0),
        }
    }

    /// Returns its offset in its mapping.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    #[inline]
    fn raw(&self) -> *mut Raw {
        // SAFETY: the address is inside the mapping, as `open` has checked.
        unsafe { self.mapping.start().add(self.offset) }
            .cast()
            .as_ptr()
    }

    /// Blocks until the mutex is free, and locks it.
    #[inline]
    pub(crate) fn lock(&self) -> Result<LockState, MutexError> {
        // SAFETY: an initialised mutex, which stays mapped while it is held.
        self.interpret(unsafe { libc::pthread_mutex_lock(self.raw()) })
    }

    /// Locks the mutex if it is free.
    #[inline]
    pub(crate) fn try_lock(&self) -> Result<LockState, MutexError> {
        // SAFETY: as for `lock`.
        self.interpret(unsafe { libc::pthread_mutex_trylock(self.raw()) })
    }

    /// Like [`lock`](Self::lock), but until the deadline; `None` means forever.
    pub(crate) fn lock_until(&self, deadline: Option<Instant>) -> Result<LockState, MutexError> {
        match deadline {
            None => self.lock(),
            Some(deadline) => clock::lock_until(self, deadline),
        }
    }

    #[inline]
    fn interpret(&self, returned: libc::c_int) -> Result<LockState, MutexError> {
        let taken = match returned {
            0 => LockState::Clean,
            libc::EOWNERDEAD => self.repair()?,
            libc::EBUSY | libc::ETIMEDOUT => return Err(MutexError::Held),
            libc::EDEADLK => return Err(MutexError::HeldByThisThread),
            code => return Err(MutexError::Failed(io::Error::from_raw_os_error(code))),
        };
        // Relaxed: only the holder writes it, and a drop happens after all other uses.
        let depth = self.depth.load(Ordering::Relaxed);
        self.depth.store(depth + 1, Ordering::Relaxed);
        Ok(taken)
    }

    /// Makes a mutex usable whose holder died; otherwise the next unlock would make it permanently
    /// unusable.
    #[cold]
    fn repair(&self) -> Result<LockState, MutexError> {
        // SAFETY: this thread has just locked the mutex in the inconsistent state.
        check(unsafe { libc::pthread_mutex_consistent(self.raw()) }).map_err(MutexError::Failed)?;
        // The dead holder may have been a thread of this process.
        self.depth.store(0, Ordering::Relaxed);
        Ok(LockState::OwnerDied)
    }

    /// Unlocks the mutex. Does nothing in another thread or process than the holder's.
    #[inline]
    pub(crate) fn unlock(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        self.depth.store(depth.wrapping_sub(1), Ordering::Relaxed);
        // SAFETY: an initialised mutex; robust ones check that the caller is the holder.
        let refused = unsafe { libc::pthread_mutex_unlock(self.raw()) };
        if refused != 0 {
            self.depth.store(depth, Ordering::Relaxed);
        }
    }
}

impl Drop for RobustMutex {
    fn drop(&mut self) {
        if *self.depth.get_mut() > 0 {
            // It may be in a thread's list, whose addresses must never be reused.
            mem::forget(self.mapping.clone());
        }
    }
}

/// Waiting with the clock of `Instant`, which cannot be set.
#[cfg(target_env = "gnu")]
mod clock {
    use super::{LockState, MutexError, Raw, RobustMutex};
    use std::time::Instant;

    unsafe extern "C" {
        /// Since glibc 2.30; the libc crate lacks it.
        fn pthread_mutex_clocklock(
            mutex: *mut Raw,
            clock: libc::clockid_t,
            until: *const libc::timespec,
        ) -> libc::c_int;
    }

    pub(super) fn lock_until(
        mutex: &RobustMutex,
        deadline: Instant,
    ) -> Result<LockState, MutexError> {
        let clock = libc::CLOCK_MONOTONIC;
        let until = super::on_clock(clock, deadline);
        // SAFETY: as for `RobustMutex::lock`; the time is a local.
        mutex.interpret(unsafe { pthread_mutex_clocklock(mutex.raw(), clock, &raw const until) })
    }
}

/// Waiting with the wall clock, in slices, because it may be set during the wait.
#[cfg(not(target_env = "gnu"))]
mod clock {
    use super::{LockState, MutexError, RobustMutex};
    use std::time::{Duration, Instant};

    const SLICE: Duration = Duration::from_millis(100);

    pub(super) fn lock_until(
        mutex: &RobustMutex,
        deadline: Instant,
    ) -> Result<LockState, MutexError> {
        loop {
            let slice = deadline.min(Instant::now() + SLICE);
            let until = super::on_clock(libc::CLOCK_REALTIME, slice);
            // SAFETY: as for `RobustMutex::lock`; the time is a local.
            match mutex
                .taken(unsafe { libc::pthread_mutex_timedlock(mutex.raw(), &raw const until) })
            {
                Err(MutexError::Held) if Instant::now() < deadline => {}
                outcome => return outcome,
            }
        }
    }
}

/// Returns the time of another clock at an `Instant`.
fn on_clock(clock: libc::clockid_t, time: Instant) -> libc::timespec {
    let left = time.saturating_duration_since(Instant::now());
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes to a local; every Linux has these clocks.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    let nanos = i64::from(left.subsec_nanos()) + now.tv_nsec;
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    let seconds = seconds.saturating_add(nanos / 1_000_000_000);
    libc::timespec {
        tv_sec: now.tv_sec.saturating_add(seconds),
        tv_nsec: nanos % 1_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::anonymous_file;
    use std::{thread, time::Duration};

    fn mutex(reentry: MutexKind) -> RobustMutex {
        let file = anonymous_file(4096).expect("shared memory");
        let mapping = Mapping::new(file).expect("a mapping");
        RobustMutex::create(mapping, 64, reentry).expect("a mutex")
    }

    #[test]
    fn a_thread_that_ends_with_it_leaves_it_to_the_next_taker_who_is_told_once() {
        for reentry in [MutexKind::ErrorCheck, MutexKind::Recursive] {
            let mutex = mutex(reentry);
            thread::scope(|scope| scope.spawn(|| drop(mutex.lock())).join()).expect("no panic");
            assert!(matches!(mutex.try_lock(), Ok(LockState::OwnerDied)));
            mutex.unlock();
            assert!(matches!(mutex.lock(), Ok(LockState::Clean)));
            mutex.unlock();
        }
    }

    #[test]
    fn its_holder_may_take_it_again_only_where_that_is_counted() {
        let once = mutex(MutexKind::ErrorCheck);
        let soon = Some(Instant::now() + Duration::from_secs(1));
        assert!(matches!(once.lock(), Ok(LockState::Clean)));
        for refused in [once.lock(), once.lock_until(soon)] {
            assert!(matches!(refused, Err(MutexError::HeldByThisThread)));
        }
        assert!(once.try_lock().is_err());
        once.unlock();
        let counted = mutex(MutexKind::Recursive);
        (0..3).for_each(|_| assert!(matches!(counted.lock(), Ok(LockState::Clean))));
        (0..3).for_each(|_| counted.unlock());
        let elsewhere = || matches!(counted.try_lock(), Ok(LockState::Clean));
        assert!(thread::scope(|scope| scope.spawn(elsewhere).join()).expect("no panic"));
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_another_thread_cannot_let_it_go() {
        let mutex = mutex(MutexKind::ErrorCheck);
        assert!(mutex.lock().is_ok());
        let wait = || {
            mutex.unlock();
            let limit = Duration::from_millis(30);
            let start = Instant::now();
            let refused = mutex.lock_until(Some(start + limit));
            matches!(refused, Err(MutexError::Held)) && start.elapsed() >= limit
        };
        assert!(thread::scope(|scope| scope.spawn(wait).join()).expect("no panic"));
        mutex.unlock();
        assert!(matches!(mutex.lock_until(None), Ok(LockState::Clean)));
        mutex.unlock();
    }

    #[test]
    fn a_held_one_leaves_its_mapping_behind() {
        let mutex = mutex(MutexKind::ErrorCheck);
        let mapping = mutex.mapping.downgrade();
        assert!(mutex.lock().is_ok());
        drop(mutex);
        assert!(mapping.is_alive());
    }
}
