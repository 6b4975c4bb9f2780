//! Taking and holding a robust mutex, with the errors of this crate.

use super::lock_error::{LockError, LockResult};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::ObjectKind;
use crate::sys::{
    pid,
    robust::{LockState, MutexError, RobustMutex},
};
use std::{
    marker::PhantomData,
    thread,
    time::{Duration, Instant},
};

/// How long a call waits for a mutex.
#[derive(Debug, Clone, Copy)]
pub(super) enum LockWait {
    Forever,
    Never,
    Timeout(Duration),
}

/// A robust mutex that this thread of this process holds.
#[derive(Debug)]
pub(super) struct HeldMutex<'a> {
    mutex: &'a RobustMutex,
    /// The process that took the mutex. A forked copy of this value does not hold it.
    process: u32,
    /// A robust mutex belongs to its thread.
    bound_to_thread: PhantomData<*const ()>,
}

impl<'a> HeldMutex<'a> {
    #[inline]
    fn new(mutex: &'a RobustMutex) -> Self {
        Self {
            mutex,
            process: pid::current(),
            bound_to_thread: PhantomData,
        }
    }

    /// Takes a mutex and wraps it in a guard.
    #[inline]
    pub(super) fn acquire<G>(
        mutex: &'a RobustMutex,
        kind: ObjectKind,
        wait: LockWait,
        guard: impl FnOnce(Self) -> G,
    ) -> LockResult<G> {
        let taken = match wait {
            LockWait::Forever => mutex.lock(),
            LockWait::Never => mutex.try_lock(),
            LockWait::Timeout(limit) => return Self::acquire_within(mutex, kind, limit, guard),
        };
        match taken {
            Ok(LockState::Clean) => Ok(guard(Self::new(mutex))),
            taken => Self::finish_acquire(taken, mutex, kind, wait, guard),
        }
    }

    fn acquire_within<G>(
        mutex: &'a RobustMutex,
        kind: ObjectKind,
        limit: Duration,
        guard: impl FnOnce(Self) -> G,
    ) -> LockResult<G> {
        let deadline = Instant::now().checked_add(limit);
        let taken = mutex.lock_until(deadline);
        if let (Err(MutexError::HeldByThisThread), Some(deadline)) = (&taken, deadline) {
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            return Err(err_timed_out(kind, limit).into());
        }
        Self::finish_acquire(taken, mutex, kind, LockWait::Timeout(limit), guard)
    }

    #[cold]
    fn finish_acquire<G>(
        taken: std::result::Result<LockState, MutexError>,
        mutex: &'a RobustMutex,
        kind: ObjectKind,
        wait: LockWait,
        guard: impl FnOnce(Self) -> G,
    ) -> LockResult<G> {
        match taken {
            Ok(LockState::Clean) => Ok(guard(Self::new(mutex))),
            Ok(LockState::OwnerDied) => Err(LockError::owner_died(kind, guard(Self::new(mutex)))),
            Err(refusal) => Err(lock_error(refusal, kind, wait).into()),
        }
    }

    /// Whether this is the process that took the mutex, and not a forked copy.
    #[inline]
    pub(super) fn is_own_process(&self) -> bool {
        self.process == pid::current()
    }

    /// Runs `wait` with the mutex released, then takes it again.
    pub(super) fn unlocked<T>(&mut self, wait: impl FnOnce() -> T) -> (T, Result<()>) {
        self.mutex.unlock();
        let outcome = wait();
        (outcome, self.reacquire())
    }

    fn reacquire(&self) -> Result<()> {
        match self.mutex.lock() {
            Ok(LockState::Clean) => Ok(()),
            Ok(LockState::OwnerDied) => {
                let message = "a holder of the Condition died during the wait";
                Err(Error::new(ErrorKind::OwnerDied, message))
            }
            // Something else has written to the mutex. It is not held, and unlocking it does
            // nothing.
            Err(refusal) => Err(lock_error(
                refusal,
                ObjectKind::Condition,
                LockWait::Forever,
            )),
        }
    }
}

impl Drop for HeldMutex<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_own_process() {
            self.mutex.unlock();
        }
    }
}

fn err_timed_out(kind: ObjectKind, limit: Duration) -> Error {
    let message = format!("the {kind} was not free within {limit:?}");
    Error::new(ErrorKind::TimedOut, message)
}

#[cold]
pub(super) fn lock_error(refusal: MutexError, kind: ObjectKind, wait: LockWait) -> Error {
    match (refusal, wait) {
        (MutexError::Failed(error), _) => {
            Error::io(format_args!("failed to take the {kind}"), error)
        }
        (MutexError::Held | MutexError::HeldByThisThread, LockWait::Never) => {
            Error::new(ErrorKind::WouldBlock, format!("the {kind} is held already"))
        }
        (MutexError::Held, LockWait::Timeout(limit)) => err_timed_out(kind, limit),
        (MutexError::HeldByThisThread | MutexError::Held, _) => {
            let message = format!(
                "this thread holds the {kind} already and would block forever: use an RLock"
            );
            Error::new(ErrorKind::InvalidInput, message)
        }
    }
}
