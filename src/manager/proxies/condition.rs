//! Conditions in the server: a lock, and waiting for changes that are made under it.

use crate::error::{Error, ErrorKind, Result};
use crate::manager::{
    client::held_locks::{HeldLockGuard, Reentrancy},
    client::reference::{ObjectConnection, Reference},
    protocol::HandlerResult,
    proxies::lock::{IS_HELD, ServerLock, err_not_held},
    proxies::object::proxy,
    server::wait_queue::{WaitError, WaitLimit, park},
    server::{Server, Session},
};
use crate::process::function::Invocation;
use crate::sync::{LockError, LockResult};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt,
    marker::PhantomData,
    thread::{self, Thread},
    time::{Duration, Instant},
};

proxy! {
    /// A condition in a manager's server, created by
    /// [`Manager::condition`](crate::Manager::condition): a lock, and waiting for changes that
    /// other threads make while they hold it. The changed state is in any other object.
    ///
    /// A notification goes to the waiters that were there when it was sent, in the order in which
    /// they arrived. If the waiter's process has died, the next waiter gets the notification.
    ///
    /// ```
    /// use std::thread;
    ///
    /// let manager = procpool::Manager::start()?;
    /// let (condition, is_ready) = (manager.condition()?, manager.value(false)?);
    /// thread::scope(|scope| {
    ///     scope.spawn(|| {
    ///         let _held = condition.lock();
    ///         is_ready.set(true)?;
    ///         condition.notify_all()
    ///     });
    ///     let mut held = condition.lock()?;
    ///     held.wait_while(|| !is_ready.get().unwrap_or(true))
    /// })?;
    /// assert!(is_ready.get()?);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ConditionProxy
}

/// Holds the lock of a [`ConditionProxy`] until it is dropped.
///
/// After any wait, also a failed one, the lock is held, unless the server has exited.
#[must_use = "the lock is released when this is dropped"]
pub struct ConditionProxyGuard<'a> {
    held: HeldLockGuard,
    condition: PhantomData<&'a Reference>,
}

impl ConditionProxy {
    /// Acquires the lock. Blocks until it is free.
    ///
    /// # Errors
    ///
    /// Fails like [`LockProxy::acquire`](crate::LockProxy::acquire).
    pub fn lock(&self) -> LockResult<ConditionProxyGuard<'_>> {
        let taken = HeldLockGuard::acquire(
            &self.0,
            acquire,
            release_lock,
            WaitLimit::Forever,
            Reentrancy::ErrorCheck,
        );
        let (held, owner_died) = taken?;
        let guard = ConditionProxyGuard {
            held,
            condition: PhantomData,
        };
        if owner_died {
            return Err(LockError::owner_died("manager's Condition", guard));
        }
        Ok(guard)
    }

    /// Wakes the waiter that has waited longest. The caller need not hold the lock.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited.
    pub fn notify_one(&self) -> Result<()> {
        self.0.ask(notify, &1usize)
    }

    /// Wakes all waiters.
    ///
    /// # Errors
    ///
    /// Fails like [`notify_one`](Self::notify_one).
    pub fn notify_all(&self) -> Result<()> {
        self.0.ask(notify, &usize::MAX)
    }
}

impl ConditionProxyGuard<'_> {
    /// Releases the lock, waits for a notification, and acquires the lock again.
    ///
    /// # Errors
    ///
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied) if the previous holder died during the wait; the
    /// lock is held nevertheless. [`Disconnected`](crate::ErrorKind::Disconnected) if the server
    /// has exited.
    pub fn wait(&mut self) -> Result<()> {
        self.wait_with(WaitLimit::Forever)
    }

    /// Like [`wait`](Self::wait), but waits for at most `limit`, plus the time to acquire the lock
    /// again.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if no notification arrives in time; else fails like
    /// `wait`.
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<()> {
        self.wait_with(WaitLimit::AtMost(limit))
    }

    /// Waits as long as `condition` returns true.
    ///
    /// # Errors
    ///
    /// Fails like [`wait`](Self::wait).
    pub fn wait_while(&mut self, mut condition: impl FnMut() -> bool) -> Result<()> {
        while condition() {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits as long as `condition` returns true, for at most `limit`.
    ///
    /// # Errors
    ///
    /// Fails like [`wait_timeout`](Self::wait_timeout).
    pub fn wait_while_timeout(
        &mut self,
        limit: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now().checked_add(limit);
        while condition() {
            match deadline {
                None => self.wait()?,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.wait_timeout(left)?;
                }
            }
        }
        Ok(())
    }

    fn wait_with(&mut self, wait_for: WaitLimit) -> Result<()> {
        let (is_notified, owner_died): (bool, bool) =
            self.held.connection()?.ask(wait, &wait_for)?;
        if owner_died {
            let message = "the last holder of the manager's Condition died while it held it";
            return Err(Error::new(ErrorKind::OwnerDied, message));
        }
        if !is_notified {
            let message = "no notification arrived in time";
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        Ok(())
    }
}

fn release_lock(held: &ObjectConnection) -> Result<()> {
    held.ask(release, &())
}

/// A condition in the server.
struct ServerCondition {
    lock: ServerLock,
    waiters: Mutex<ConditionWaiters>,
}

#[derive(Default)]
struct ConditionWaiters {
    last_number: u64,
    /// In the order of arrival, including notified waiters that have not left yet.
    queue: VecDeque<ConditionWaiter>,
}

struct ConditionWaiter {
    number: u64,
    thread: Thread,
    is_notified: bool,
}

impl ConditionWaiters {
    fn push(&mut self) -> u64 {
        self.last_number += 1;
        self.queue.push_back(ConditionWaiter {
            number: self.last_number,
            thread: thread::current(),
            is_notified: false,
        });
        self.last_number
    }

    fn is_notified(&self, number: u64) -> bool {
        let found = self.queue.iter().find(|waiter| waiter.number == number);
        found.is_some_and(|it| it.is_notified)
    }

    fn remove(&mut self, number: u64) {
        self.queue.retain(|waiter| waiter.number != number);
    }

    fn notify(&mut self, count: usize) {
        let asleep = self.queue.iter_mut().filter(|waiter| !waiter.is_notified);
        for sleeper in asleep.take(count) {
            sleeper.is_notified = true;
            sleeper.thread.unpark();
        }
    }
}

impl ServerCondition {
    /// Waits until the waiter is notified or the deadline has passed.
    fn wait_notified(
        &self,
        number: u64,
        session: &Session,
        wait: WaitLimit,
    ) -> Result<bool, WaitError> {
        let deadline = wait.deadline();
        loop {
            let has_gone = session.probe_gone();
            let mut sleepers = self.waiters.lock();
            let is_notified = sleepers.is_notified(number);
            let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if is_notified || is_over || has_gone {
                sleepers.remove(number);
                if has_gone {
                    sleepers.notify(usize::from(is_notified));
                    return Err(WaitError::ClientGone);
                }
                return Ok(is_notified);
            }
            drop(sleepers);
            park(deadline);
        }
    }
}

/// Creates a condition whose lock is free.
pub(in crate::manager) fn create(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let condition = ServerCondition {
        lock: ServerLock::new(),
        waiters: Mutex::default(),
    };
    server.create(condition, call)
}

fn acquire(condition: &ServerCondition, call: &mut Invocation<'_>) -> HandlerResult {
    let wait: WaitLimit = call.decode()?;
    let taken = condition.lock.acquire(Session::of(call), wait);
    let owner_died =
        taken.map_err(|error| error.into_call_error(wait, ErrorKind::WouldBlock, IS_HELD))?;
    call.encode(&owner_died)
}

fn release(condition: &ServerCondition, call: &mut Invocation<'_>) -> HandlerResult {
    let is_released = condition.lock.release(Session::of(call));
    is_released.then_some(()).ok_or_else(err_not_held)
}

fn wait(condition: &ServerCondition, call: &mut Invocation<'_>) -> HandlerResult {
    let (wait, session): (WaitLimit, _) = (call.decode()?, Session::of(call));
    // The waiter is queued before the lock is released. Otherwise: 1. this thread releases the
    // lock; 2. another thread acquires it, changes the state and notifies; 3. this thread queues
    // itself and misses the notification.
    let number = condition.waiters.lock().push();
    if !condition.lock.release(session) {
        condition.waiters.lock().remove(number);
        return Err(err_not_held());
    }
    let gone = |error: WaitError| error.into_call_error(wait, ErrorKind::WouldBlock, IS_HELD);
    let is_notified = condition
        .wait_notified(number, session, wait)
        .map_err(gone)?;
    let taken = condition.lock.acquire(session, WaitLimit::Forever);
    let owner_died = taken.map_err(|error| {
        condition.waiters.lock().notify(usize::from(is_notified));
        gone(error)
    })?;
    call.encode(&(is_notified, owner_died))
}

fn notify(condition: &ServerCondition, call: &mut Invocation<'_>) -> HandlerResult {
    let count = call.decode()?;
    condition.waiters.lock().notify(count);
    Ok(())
}

impl fmt::Debug for ConditionProxyGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionProxyGuard")
            .finish_non_exhaustive()
    }
}
