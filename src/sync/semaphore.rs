//! Semaphores: a number of permits, one atomic word.

use super::{
    event_count::{Backoff, EventCount, SpinState},
    handle::{Handle, handle},
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Object, ObjectKind};
use crate::sys::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Offsets in bytes: how many permits are free, and how many there may be at most; waiters read the
/// bell, takers do not.
const FREE: usize = Object::BODY;
const MAX_PERMITS: usize = Object::BODY + 8;
const WORD: usize = Object::BODY + 64;
const SLEEPERS: usize = Object::BODY + 68;
const BYTES: usize = 128;

/// Counts permits, which any process may take, and any, not only who has taken one, may give back.
///
/// So a permit is nobody's: those that a process has when it dies are gone until somebody releases
/// them in its place. One that dies while it waits takes none with it; others may notice up to a
/// second late that it was to get one.
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

/// A [`Semaphore`] that never has more permits than at first: to release one too many is an error.
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

/// What both are.
struct Permits {
    object: Object,
    spin_state: SpinState,
}

impl Permits {
    fn create(kind: ObjectKind, free: usize, most: usize) -> Result<Object> {
        let object = Object::create(kind, 0, BYTES)?;
        // Relaxed: nobody else knows it yet.
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
        // Acquire: what was done before a release is seen by whoever takes the permit.
        let taken = self
            .free()
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |it| it.checked_sub(1));
        taken.is_ok()
    }

    /// Takes a permit; false when the deadline has passed.
    fn take(&self, deadline: Option<Instant>) -> bool {
        if self.try_take() {
            return true;
        }
        let mut backoff = Backoff::new(&self.spin_state);
        loop {
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
        let message = format!("no permit of the semaphore was to be had within {limit:?}");
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
        let most = self
            .object
            .view()
            .atomic_u64(MAX_PERMITS)
            .load(Ordering::Relaxed);
        let more = |free: u64| free.checked_add(1).filter(|it| *it <= most);
        // Release: see `try_take`.
        let released = self
            .free()
            .fetch_update(Ordering::Release, Ordering::Relaxed, more);
        released.map_err(|free| {
            let message = format!("the semaphore has all of its {free} permits already");
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
    /// Makes one with so many free permits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] when the system gives no memory or no descriptor.
    pub fn new(permits: usize) -> Result<Self> {
        Permits::create(Self::KIND, permits, usize::MAX).map(Self::of)
    }

    /// Takes a permit, waiting as long as there is none.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn acquire(&self) -> Result<()> {
        self.0.take(None);
        Ok(())
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] if not.
    pub fn try_acquire(&self) -> Result<()> {
        self.0.try_acquire()
    }

    /// Takes a permit, waiting at most `limit` for one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`].
    pub fn acquire_timeout(&self, limit: Duration) -> Result<()> {
        self.0.acquire_timeout(limit)
    }

    /// Gives a permit back, or a new one, and wakes one who waits. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if there are `usize::MAX`.
    pub fn release(&self) -> Result<()> {
        self.0.release()
    }

    /// How many permits are free at this moment.
    #[must_use]
    pub fn value(&self) -> usize {
        self.0.value()
    }
}

impl BoundedSemaphore {
    /// Makes one with so many permits, all free.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::new`].
    pub fn new(permits: usize) -> Result<Self> {
        Permits::create(Self::KIND, permits, permits).map(Self::of)
    }

    /// As [`Semaphore::acquire`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn acquire(&self) -> Result<()> {
        self.0.take(None);
        Ok(())
    }

    /// As [`Semaphore::try_acquire`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn try_acquire(&self) -> Result<()> {
        self.0.try_acquire()
    }

    /// As [`Semaphore::acquire_timeout`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn acquire_timeout(&self, limit: Duration) -> Result<()> {
        self.0.acquire_timeout(limit)
    }

    /// Gives a permit back, and wakes one who waits. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if all are free already.
    pub fn release(&self) -> Result<()> {
        self.0.release()
    }

    /// How many permits are free at this moment.
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
