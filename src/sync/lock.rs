//! Locks: one process at a time, and whoever comes after a death is told.

use super::{
    handle::{Handle, handle},
    held::{HeldMutex, LockWait},
    lock_error::LockResult,
};
use crate::error::{Error, Result};
use crate::shm::{Object, ObjectKind};
use crate::sys::robust::{MutexKind, RobustMutex};
use std::time::Duration;

/// A lock between processes and threads, whose guard holds it.
///
/// When a process dies, or a thread ends, that holds it, the next taker gets it in an error of the
/// kind [`OwnerDied`](crate::ErrorKind::OwnerDied); see [`LockError`](crate::LockError).
///
/// A guard belongs to its thread. Where it is copied with its process (`fork`), the copy holds
/// nothing and lets nothing go. A thread must not hold more than 2048 locks at a time: for more of
/// them the kernel does not let go when it dies.
///
/// # Examples
///
/// ```
/// use procpool::{Lock, Process};
///
/// fn print(lock: Lock) -> bool {
///     let _held = lock.acquire();
///     println!("one line at a time");
///     lock.try_acquire().is_err()
/// }
///
/// let lock = Lock::new()?;
/// assert!(Process::start(print, lock.clone())?.result()?);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Lock {
    object: Object,
    mutex: RobustMutex,
}

/// A lock that the thread which holds it may take again; it is free when each of its guards is
/// gone.
///
/// In everything else it is as [`Lock`].
///
/// # Examples
///
/// ```
/// let lock = procpool::RLock::new()?;
/// let outer = lock.acquire()?;
/// let inner = lock.try_acquire()?;
/// drop(outer);
/// let taken = || lock.try_acquire().is_ok();
/// assert!(!std::thread::scope(|it| it.spawn(taken).join().expect("no panic")));
/// drop(inner);
/// assert!(std::thread::scope(|it| it.spawn(taken).join().expect("no panic")));
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct RLock {
    object: Object,
    mutex: RobustMutex,
}

/// Holds a [`Lock`] until it is dropped.
#[must_use = "dropping a guard lets its lock go"]
#[derive(Debug)]
pub struct LockGuard<'a>(#[expect(dead_code, reason = "it is held")] HeldMutex<'a>);

/// Holds an [`RLock`] until it is dropped.
#[must_use = "dropping a guard lets its lock go"]
#[derive(Debug)]
pub struct RLockGuard<'a>(#[expect(dead_code, reason = "it is held")] HeldMutex<'a>);

/// Makes an object of a robust mutex alone.
fn create(kind: ObjectKind, reentry: MutexKind) -> Result<Object> {
    let object = Object::create(kind, 0, RobustMutex::SIZE)?;
    let mutex = RobustMutex::create(object.mapping().clone(), Object::BODY, reentry);
    mutex.map_err(|it| Error::io(format_args!("failed to create a {kind}"), it))?;
    Ok(object)
}

impl Lock {
    /// Makes one that nobody holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when the system gives no memory or no descriptor.
    pub fn new() -> Result<Self> {
        create(Self::KIND, MutexKind::ErrorCheck).map(Self::of)
    }

    /// Takes the lock, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if this thread holds it already.
    #[inline]
    pub fn acquire(&self) -> LockResult<LockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Forever, LockGuard)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if it is not, also if this thread holds it;
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error.
    #[inline]
    pub fn try_acquire(&self) -> LockResult<LockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Never, LockGuard)
    }

    /// Takes the lock, waiting at most `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut), also if this thread holds it;
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error.
    pub fn acquire_timeout(&self, limit: Duration) -> LockResult<LockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Timeout(limit), LockGuard)
    }
}

impl RLock {
    /// Makes one that nobody holds.
    ///
    /// # Errors
    ///
    /// As [`Lock::new`].
    pub fn new() -> Result<Self> {
        create(Self::KIND, MutexKind::Recursive).map(Self::of)
    }

    /// Takes the lock, waiting as long as another thread has it.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error.
    #[inline]
    pub fn acquire(&self) -> LockResult<RLockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Forever, RLockGuard)
    }

    /// Takes the lock unless another thread has it.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if one has;
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error.
    #[inline]
    pub fn try_acquire(&self) -> LockResult<RLockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Never, RLockGuard)
    }

    /// Takes the lock, waiting at most `limit` for another thread that has it.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut);
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error.
    pub fn acquire_timeout(&self, limit: Duration) -> LockResult<RLockGuard<'_>> {
        HeldMutex::acquire(
            &self.mutex,
            Self::KIND,
            LockWait::Timeout(limit),
            RLockGuard,
        )
    }
}

impl Handle for Lock {
    const KIND: ObjectKind = ObjectKind::Lock;

    fn least() -> usize {
        Object::BODY + RobustMutex::SIZE
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn of(object: Object) -> Self {
        let mutex = RobustMutex::open(object.mapping().clone(), Object::BODY);
        Self { object, mutex }
    }
}

impl Handle for RLock {
    const KIND: ObjectKind = ObjectKind::RLock;

    fn least() -> usize {
        Object::BODY + RobustMutex::SIZE
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn of(object: Object) -> Self {
        let mutex = RobustMutex::open(object.mapping().clone(), Object::BODY);
        Self { object, mutex }
    }
}

handle!(Lock);
handle!(RLock);
