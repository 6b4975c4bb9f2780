//! Mutexes in shared memory that survive the death of their holder: pthread's robust,
//! process-shared ones.
//!
//! Each thread has a list of the mutexes that it holds, which the kernel walks when the thread
//! ends, however it ends: those mutexes go to the next taker, who is told. Of the designs that were
//! tried, only this one got a killed holder, a holder that nobody has reaped yet, and a thread that
//! ends all right.
//!
//! The list runs through the mutexes themselves, so that the memory of a held one must never be
//! unmapped: see [`RobustMutex`].

use super::memory::Mapping;
use std::{
    io,
    mem::{self, MaybeUninit},
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

/// What a thread finds that takes a mutex it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MutexKind {
    /// [`MutexError::HeldByThisThread`].
    ErrorCheck,
    /// It has it once more, and lets it go as often as it has taken it.
    Recursive,
}

/// The mutex is held, and consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockState {
    Clean,
    /// Whoever had it died with it. Said once.
    OwnerDied,
}

/// The mutex is not held by this call.
#[derive(Debug)]
pub(crate) enum MutexError {
    /// Somebody else has it, and the deadline has passed.
    Held,
    HeldByThisThread,
    Failed(io::Error),
}

/// A robust mutex at a place of a mapping.
///
/// As a thread's list of held mutexes has their addresses, one that is dropped while it is held
/// (its guard was forgotten) leaves its mapping behind. `depth` tells without touching a reference
/// count at each turn:
///
/// | `depth` | meaning |
/// |---|---|
/// | 0 | not held through this value |
/// | n > 0 | taken n times through this value and not let go; or a thread of this process, or of the one that it is a copy of, has ended or been left behind with it: then no longer held, and the mapping is kept for nothing |
///
/// Only the holder writes it.
#[derive(Debug)]
pub(crate) struct RobustMutex {
    mapping: Mapping,
    offset: usize,
    depth: AtomicU32,
}

type Raw = libc::pthread_mutex_t;

/// Ends well or with what pthread functions return instead of setting errno.
fn check(returned: libc::c_int) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

impl RobustMutex {
    /// Bytes; a cache line, in which the mutex fits on every architecture.
    pub(crate) const SIZE: usize = 64;

    /// Makes one in zeros that nobody else uses yet. `offset` must be a multiple of `SIZE`.
    pub(crate) fn create(mapping: Mapping, offset: usize, reentry: MutexKind) -> io::Result<Self> {
        let mutex = Self::open(mapping, offset);
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: it initialises a local.
        check(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: it has just been initialised.
        let attributes = unsafe { attributes.assume_init_mut() };
        let initialised = mutex.initialize(attributes, reentry);
        // SAFETY: initialised above, and not used any more.
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
        // SAFETY: the place is inside the mapping and aligned, as `open` has checked, and nobody
        // else uses it yet.
        check(unsafe { libc::pthread_mutex_init(self.raw(), attributes) })
    }

    /// One that its maker has initialised.
    pub(crate) fn open(mapping: Mapping, offset: usize) -> Self {
        const { assert!(size_of::<Raw>() <= Self::SIZE && align_of::<Raw>() <= Self::SIZE) };
        let end = offset.checked_add(Self::SIZE);
        let is_inside = end.is_some_and(|it| it <= mapping.length());
        assert!(
            is_inside && offset.is_multiple_of(Self::SIZE),
            "no place for a mutex at {offset}"
        );
        Self {
            mapping,
            offset,
            depth: AtomicU32::new(0),
        }
    }

    /// Where it lies in its mapping.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    #[inline]
    fn raw(&self) -> *mut Raw {
        // SAFETY: the place is inside the mapping, as `open` has checked.
        unsafe { self.mapping.start().add(self.offset) }
            .cast()
            .as_ptr()
    }

    /// Waits until the mutex is free, and takes it.
    #[inline]
    pub(crate) fn lock(&self) -> Result<LockState, MutexError> {
        // SAFETY: an initialised mutex, which stays mapped while it is held.
        self.into_result(unsafe { libc::pthread_mutex_lock(self.raw()) })
    }

    /// Takes the mutex if it is free.
    #[inline]
    pub(crate) fn try_lock(&self) -> Result<LockState, MutexError> {
        // SAFETY: as for `lock`.
        self.into_result(unsafe { libc::pthread_mutex_trylock(self.raw()) })
    }

    /// As [`lock`](Self::lock), until the deadline. None is for ever.
    pub(crate) fn lock_until(&self, deadline: Option<Instant>) -> Result<LockState, MutexError> {
        match deadline {
            None => self.lock(),
            Some(deadline) => clock::lock_until(self, deadline),
        }
    }

    #[inline]
    fn into_result(&self, returned: libc::c_int) -> Result<LockState, MutexError> {
        let taken = match returned {
            0 => LockState::Clean,
            libc::EOWNERDEAD => self.repair()?,
            libc::EBUSY | libc::ETIMEDOUT => return Err(MutexError::Held),
            libc::EDEADLK => return Err(MutexError::HeldByThisThread),
            code => return Err(MutexError::Failed(io::Error::from_raw_os_error(code))),
        };
        // Relaxed: only whoever holds the mutex writes it, and a drop comes after all other uses
        // anyway.
        let depth = self.depth.load(Ordering::Relaxed);
        self.depth.store(depth + 1, Ordering::Relaxed);
        Ok(taken)
    }

    /// Makes a mutex usable whose holder died; otherwise it would be lost when it is next let go.
    #[cold]
    fn repair(&self) -> Result<LockState, MutexError> {
        // SAFETY: this thread has just got the mutex, in need of this.
        check(unsafe { libc::pthread_mutex_consistent(self.raw()) }).map_err(MutexError::Failed)?;
        // The dead holder may have been a thread of this process.
        self.depth.store(0, Ordering::Relaxed);
        Ok(LockState::OwnerDied)
    }

    /// Lets the mutex go. Does nothing in another thread or process than the holder's.
    #[inline]
    pub(crate) fn unlock(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        self.depth.store(depth.wrapping_sub(1), Ordering::Relaxed);
        // SAFETY: an initialised mutex; robust ones check who lets them go.
        let refused = unsafe { libc::pthread_mutex_unlock(self.raw()) };
        if refused != 0 {
            self.depth.store(depth, Ordering::Relaxed);
        }
    }
}

impl Drop for RobustMutex {
    fn drop(&mut self) {
        if *self.depth.get_mut() > 0 {
            // It may be in a thread's list, which must never lead to an address where something
            // else is by then.
            mem::forget(self.mapping.clone());
        }
    }
}

/// Waiting by the clock of `Instant`, which nobody can set.
#[cfg(target_env = "gnu")]
mod clock {
    use super::{LockState, MutexError, Raw, RobustMutex};
    use std::time::Instant;

    unsafe extern "C" {
        /// Since glibc 2.30; the libc crate does not have it.
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
        mutex.into_result(unsafe { pthread_mutex_clocklock(mutex.raw(), clock, &raw const until) })
    }
}

/// Waiting by the wall clock, in slices, as that may be set meanwhile.
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

/// What a clock will show at that time.
fn on_clock(clock: libc::clockid_t, time: Instant) -> libc::timespec {
    let left = time.saturating_duration_since(Instant::now());
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes to a local; these clocks are there on every Linux.
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
            thread::scope(|it| it.spawn(|| drop(mutex.lock())).join()).expect("no panic");
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
        assert!(thread::scope(|it| it.spawn(elsewhere).join()).expect("no panic"));
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
        assert!(thread::scope(|it| it.spawn(wait).join()).expect("no panic"));
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
