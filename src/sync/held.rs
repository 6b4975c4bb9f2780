//! Taking a robust mutex in the user's words, and holding it.

use super::lock_error::{LockError, LockResult};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::Kind;
use crate::sys::{
    pid,
    robust::{Refusal, RobustMutex, Taken},
};
use std::{
    marker::PhantomData,
    thread,
    time::{Duration, Instant},
};

/// How long a call waits for a mutex.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    Forever,
    Never,
    AtMost(Duration),
}

/// A mutex that this thread of this process holds.
#[derive(Debug)]
pub(super) struct Held<'a> {
    mutex: &'a RobustMutex,
    /// A copy of this process has a copy of this value, and holds nothing.
    process: u32,
    /// The mutex is its thread's.
    bound_to_thread: PhantomData<*const ()>,
}

impl<'a> Held<'a> {
    #[inline]
    fn new(mutex: &'a RobustMutex) -> Self {
        Self {
            mutex,
            process: pid::current(),
            bound_to_thread: PhantomData,
        }
    }

    /// Takes a mutex, and makes a guard of it.
    #[inline]
    pub(super) fn take<G>(
        mutex: &'a RobustMutex,
        kind: Kind,
        wait: Wait,
        guard: impl FnOnce(Self) -> G,
    ) -> LockResult<G> {
        let taken = match wait {
            Wait::Forever => mutex.lock(),
            Wait::Never => mutex.try_lock(),
            Wait::AtMost(limit) => return Self::take_within(mutex, kind, limit, guard),
        };
        match taken {
            Ok(Taken::Clean) => Ok(guard(Self::new(mutex))),
            taken => Self::taken(taken, mutex, kind, wait, guard),
        }
    }

    fn take_within<G>(
        mutex: &'a RobustMutex,
        kind: Kind,
        limit: Duration,
        guard: impl FnOnce(Self) -> G,
    ) -> LockResult<G> {
        let deadline = Instant::now().checked_add(limit);
        let taken = mutex.lock_until(deadline);
        if let (Err(Refusal::HeldByThisThread), Some(deadline)) = (&taken, deadline) {
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            return Err(timed_out(kind, limit).into());
        }
        Self::taken(taken, mutex, kind, Wait::AtMost(limit), guard)
    }

    #[cold]
    fn taken<G>(
        taken: std::result::Result<Taken, Refusal>,
        mutex: &'a RobustMutex,
        kind: Kind,
        wait: Wait,
        guard: impl FnOnce(Self) -> G,
    ) -> LockResult<G> {
        match taken {
            Ok(Taken::Clean) => Ok(guard(Self::new(mutex))),
            Ok(Taken::OwnerDied) => Err(LockError::owner_died(kind, guard(Self::new(mutex)))),
            Err(refusal) => Err(refused(refusal, kind, wait).into()),
        }
    }

    /// Whether this is the process that took the mutex, and not a copy of it.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        self.process == pid::current()
    }

    /// Lets the mutex go while `wait` runs; true if a holder died meanwhile.
    pub(super) fn without<T>(&mut self, wait: impl FnOnce() -> T) -> (T, Result<()>) {
        self.mutex.unlock();
        let outcome = wait();
        (outcome, self.take_again())
    }

    fn take_again(&self) -> Result<()> {
        match self.mutex.lock() {
            Ok(Taken::Clean) => Ok(()),
            Ok(Taken::OwnerDied) => {
                let message = "a process died that held the Condition while this one waited";
                Err(Error::new(ErrorKind::OwnerDied, message))
            }
            // Something else has written to the mutex. It is not held: to let it go does nothing.
            Err(refusal) => Err(refused(refusal, Kind::Condition, Wait::Forever)),
        }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_here() {
            self.mutex.unlock();
        }
    }
}

fn timed_out(kind: Kind, limit: Duration) -> Error {
    let message = format!("the {kind} was not to be had within {limit:?}");
    Error::new(ErrorKind::TimedOut, message)
}

#[cold]
pub(super) fn refused(refusal: Refusal, kind: Kind, wait: Wait) -> Error {
    match (refusal, wait) {
        (Refusal::Failed(error), _) => Error::io(format_args!("failed to take the {kind}"), error),
        (Refusal::Held | Refusal::HeldByThisThread, Wait::Never) => {
            Error::new(ErrorKind::WouldBlock, format!("the {kind} is taken"))
        }
        (Refusal::Held, Wait::AtMost(limit)) => timed_out(kind, limit),
        (Refusal::HeldByThisThread | Refusal::Held, _) => {
            let message = format!(
                "this thread holds the {kind} already and would wait for itself: an RLock can be taken again"
            );
            Error::new(ErrorKind::InvalidInput, message)
        }
    }
}
