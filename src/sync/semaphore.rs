//! Semaphores: a number of permits in one atomic word.

use super::{
    event_count::{Backoff, EventCount, SpinState},
    handle::{Handle, handle},
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Object, ObjectKind};
use crate::sys::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Offsets in bytes: the number of free permits, the maximum number of permits, and the eventcount,
/// in a cache line that only waiters read.
const FREE: usize = Object::BODY;
const MAX_PERMITS: usize = Object::BODY + 8;
const WORD: usize = Object::BODY + 64;
const SLEEPERS: usize = Object::BODY + 68;
const BYTES: usize = 128;

/// Counts permits. Any process may take one, and any process may release one, even if it has taken
/// none.
///
/// A permit has no owner: the permits of a process that dies are lost until another process
/// releases them instead. A process that dies while it waits takes none with it, but another waiter
/// may notice up to a second late that it can have the permit.
///
/// # Examples
///
/// ```
/// let semaphore = procpool::Semaphore::new(2)?;
/// semaphore.acquire()?;
/// semaphore.acquire()?;
/// assert!(semaphore.try_acquire().is_err());
/// semaphore.release()?;
/// assert_eq!(semaphore.value(), 1);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Semaphore(Permits);

/// A [`Semaphore`] whose permits never exceed the initial number: releasing too many is an error.
///
/// # Examples
///
/// ```
/// let semaphore = procpool::BoundedSemaphore::new(1)?;
/// semaphore.acquire()?;
/// semaphore.release()?;
/// assert_eq!(semaphore.release().unwrap_err().kind(), procpool::ErrorKind::InvalidInput);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct BoundedSemaphore(Permits);

/// The state of both types.
struct Permits {
    object: Object,
    spin_state: SpinState,
}

impl Permits {
    fn create(kind: ObjectKind, free: usize, most: usize) -> Result<Object> {
        let object = Object::create(kind, 0, BYTES)?;
        // Relaxed: no other process has it yet.
        let store = |at, count| object.view().atomic_u64(at).store(count, Ordering::Relaxed);
        store(FREE, free as u64);
        store(MAX_PERMITS, most as u64);
        Ok(object)
    }

    fn of(object: Object) -> Self {
        Self {
            object,
            spin_state: SpinState::default(),
        }
    }

    fn free(&self) -> &AtomicU64 {
        self.object.view().atomic_u64(FREE)
    }

    fn event_count(&self) -> EventCount<'_> {
        let view = self.object.view();
        EventCount {
            word: view.atomic_u32(WORD),
            sleepers: view.atomic_u32(SLEEPERS),
        }
    }

    #[inline]
    fn try_take(&self) -> bool {
        // Acquire: a process that takes a permit sees all writes before its release.
        let taken = self
            .free()
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |it| it.checked_sub(1));
        taken.is_ok()
    }

    /// Takes a permit. Returns false at the deadline.
    fn take(&self, deadline: Option<Instant>) -> bool {
        if self.try_take() {
            return true;
        }
        let mut backoff = Backoff::new(&self.spin_state);
        loop {
            // Check again after taking the ticket: a release before the ticket does not wake this
            // waiter, and a release after the ticket keeps it from falling asleep.
            let ticket = self.event_count().ticket();
            if self.try_take() {
                return true;
            }
            if !self.event_count().wait(ticket, deadline, &mut backoff) {
                return false;
            }
        }
    }

    fn acquire_timeout(&self, limit: Duration) -> Result<()> {
        if self.take(Instant::now().checked_add(limit)) {
            return Ok(());
        }
        let message = format!("the semaphore had no free permit within {limit:?}");
        Err(Error::new(ErrorKind::TimedOut, message))
    }

    fn try_acquire(&self) -> Result<()> {
        if self.try_take() {
            return Ok(());
        }
        let message = "the semaphore has no free permit";
        Err(Error::new(ErrorKind::WouldBlock, message))
    }

    fn release(&self) -> Result<()> {
        let max_word = self.object.view().atomic_u64(MAX_PERMITS);
        let max = max_word.load(Ordering::Relaxed);
        let add_one = |free: u64| free.checked_add(1).filter(|count| *count <= max);
        // Release: see `try_take`.
        let released = self
            .free()
            .fetch_update(Ordering::Release, Ordering::Relaxed, add_one);
        released.map_err(|free| {
            let message = format!("all {free} permits of the semaphore are free already");
            Error::new(ErrorKind::InvalidInput, message)
        })?;
        self.event_count().notify_one();
        Ok(())
    }

    fn value(&self) -> usize {
        self.free().load(Ordering::Relaxed) as usize
    }
}

impl Semaphore {
    /// Creates a semaphore with `permits` free permits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the memory or the descriptor cannot be created.
    pub fn new(permits: usize) -> Result<Self> {
        Permits::create(Self::KIND, permits, usize::MAX).map(Self::of)
    }

    /// Takes a permit. Blocks until one is free.
    ///
    /// # Errors
    ///
    /// Currently never fails.
    pub fn acquire(&self) -> Result<()> {
        self.0.take(None);
        Ok(())
    }

    /// Takes a permit if one is free. Does not block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] if none is free.
    pub fn try_acquire(&self) -> Result<()> {
        self.0.try_acquire()
    }

    /// Takes a permit. Blocks for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if no permit is free in time.
    pub fn acquire_timeout(&self, limit: Duration) -> Result<()> {
        self.0.acquire_timeout(limit)
    }

    /// Releases a permit, which may be a new one, and wakes one waiter. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if `usize::MAX` permits are free.
    pub fn release(&self) -> Result<()> {
        self.0.release()
    }

    /// Returns the number of free permits.
    #[must_use]
    pub fn value(&self) -> usize {
        self.0.value()
    }
}

impl BoundedSemaphore {
    /// Creates a semaphore with `permits` permits, all of them free.
    ///
    /// # Errors
    ///
    /// Like [`Semaphore::new`].
    pub fn new(permits: usize) -> Result<Self> {
        Permits::create(Self::KIND, permits, permits).map(Self::of)
    }

    /// Takes a permit, like [`Semaphore::acquire`].
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn acquire(&self) -> Result<()> {
        self.0.take(None);
        Ok(())
    }

    /// Takes a permit without blocking, like [`Semaphore::try_acquire`].
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn try_acquire(&self) -> Result<()> {
        self.0.try_acquire()
    }

    /// Takes a permit within `limit`, like [`Semaphore::acquire_timeout`].
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn acquire_timeout(&self, limit: Duration) -> Result<()> {
        self.0.acquire_timeout(limit)
    }

    /// Releases a permit, and wakes one waiter. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if all permits are free already.
    pub fn release(&self) -> Result<()> {
        self.0.release()
    }

    /// Returns the number of free permits.
    #[must_use]
    pub fn value(&self) -> usize {
        self.0.value()
    }
}

impl Handle for Semaphore {
    const KIND: ObjectKind = ObjectKind::Semaphore;

    fn least() -> usize {
        Object::BODY + BYTES
    }

    fn object(&self) -> &Object {
        &self.0.object
    }

    fn of(object: Object) -> Self {
        Self(Permits::of(object))
    }
}

impl Handle for BoundedSemaphore {
    const KIND: ObjectKind = ObjectKind::BoundedSemaphore;

    fn least() -> usize {
        Object::BODY + BYTES
    }

    fn object(&self) -> &Object {
        &self.0.object
    }

    fn of(object: Object) -> Self {
        Self(Permits::of(object))
    }
}

handle!(Semaphore);
handle!(BoundedSemaphore);
