//! Locks between processes, which report the death of a holder to the next one.

use super::{
    handle::{Handle, handle},
    held::{HeldMutex, LockWait},
    lock_error::LockResult,
};
use crate::error::{Error, Result};
use crate::shm::{Object, ObjectKind};
use crate::sys::robust::{MutexKind, RobustMutex};
use std::time::Duration;

/// A lock between processes and threads. Its guard holds it.
///
/// If a process dies or a thread ends while it holds the lock, the next holder receives the lock in
/// an error of kind [`OwnerDied`](crate::ErrorKind::OwnerDied); see
/// [`LockError`](crate::LockError).
///
/// A guard belongs to its thread. A guard that is copied by `fork` holds nothing and releases
/// nothing in the copy. A thread must not hold more than 2048 locks at a time: the kernel does not
/// release more of them when the thread dies.
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

/// A lock that its holder may take again. It is free when all guards of the holder are dropped.
///
/// Otherwise it works like [`Lock`].
///
/// # Examples
///
/// ```
/// let lock = procpool::RLock::new()?;
/// let outer = lock.acquire()?;
/// let inner = lock.try_acquire()?;
/// drop(outer);
/// let taken = || lock.try_acquire().is_ok();
/// assert!(!std::thread::scope(|scope| scope.spawn(taken).join().expect("no panic")));
/// drop(inner);
/// assert!(std::thread::scope(|scope| scope.spawn(taken).join().expect("no panic")));
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct RLock {
    object: Object,
    mutex: RobustMutex,
}

/// Holds a [`Lock`] until it is dropped.
#[must_use = "dropping a guard releases its lock"]
#[derive(Debug)]
pub struct LockGuard<'a>(#[expect(dead_code, reason = "it is held")] HeldMutex<'a>);

/// Holds an [`RLock`] until it is dropped.
#[must_use = "dropping a guard releases its lock"]
#[derive(Debug)]
pub struct RLockGuard<'a>(#[expect(dead_code, reason = "it is held")] HeldMutex<'a>);

/// Creates an object that consists of a robust mutex.
fn create(kind: ObjectKind, reentry: MutexKind) -> Result<Object> {
    let object = Object::create(kind, 0, RobustMutex::SIZE)?;
    let mutex = RobustMutex::create(object.mapping().clone(), Object::BODY, reentry);
    mutex.map_err(|error| Error::io(format_args!("failed to create a {kind}"), error))?;
    Ok(object)
}

impl Lock {
    /// Creates a lock that is free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the memory or the descriptor cannot be created.
    pub fn new() -> Result<Self> {
        create(Self::KIND, MutexKind::ErrorCheck).map(Self::of)
    }

    /// Takes the lock. Blocks until it is free.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error, if the last holder
    /// died; [`InvalidInput`](crate::ErrorKind::InvalidInput) if this thread holds it already.
    #[inline]
    pub fn acquire(&self) -> LockResult<LockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Forever, LockGuard)
    }

    /// Takes the lock if it is free. Does not block.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if it is held, also by this thread;
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error, if the last holder
    /// died.
    #[inline]
    pub fn try_acquire(&self) -> LockResult<LockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Never, LockGuard)
    }

    /// Takes the lock. Blocks for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if it is not free in time, also if this thread
    /// holds it; [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error, if the
    /// last holder died.
    pub fn acquire_timeout(&self, limit: Duration) -> LockResult<LockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Timeout(limit), LockGuard)
    }
}

impl RLock {
    /// Creates a lock that is free.
    ///
    /// # Errors
    ///
    /// Like [`Lock::new`].
    pub fn new() -> Result<Self> {
        create(Self::KIND, MutexKind::Recursive).map(Self::of)
    }

    /// Takes the lock. Blocks while another thread holds it.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error, if the last holder
    /// died.
    #[inline]
    pub fn acquire(&self) -> LockResult<RLockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Forever, RLockGuard)
    }

    /// Takes the lock unless another thread holds it. Does not block.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if another thread holds it;
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error, if the last holder
    /// died.
    #[inline]
    pub fn try_acquire(&self) -> LockResult<RLockGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Never, RLockGuard)
    }

    /// Takes the lock. Blocks for at most `limit` while another thread holds it.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if it is not free in time;
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error, if the last holder
    /// died.
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
