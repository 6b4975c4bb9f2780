//! Locks in the server: plain ones, and those that a thread may take again.

use crate::error::{ErrorKind, Result};
use crate::manager::{
    client::held_locks::{HeldLockGuard, Reentrancy},
    client::reference::{ObjectConnection, Reference},
    protocol::HandlerResult,
    proxies::object::proxy,
    server::wait_queue::{WaitError, WaitLimit, WaitQueue, wait_until},
    server::{Holdable, Server, Session},
};
use crate::process::function::{CallError, Invocation};
use crate::sync::{LockError, LockResult};
use parking_lot::Mutex;
use std::{fmt, marker::PhantomData, mem, sync::Arc, time::Duration};

proxy! {
    /// A lock in a manager's server, made by [`Manager::lock`](crate::Manager::lock): held by one
    /// thread of one process, on any machine.
    ///
    /// Those who wait get it in the order in which they came. If the process that holds it dies,
    /// the next one gets it with [`OwnerDied`](crate::ErrorKind::OwnerDied), once; a client on
    /// another machine that vanishes is dead after two minutes.
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let lock = manager.lock()?;
    /// let held = lock.acquire()?;
    /// let other = lock.clone();
    /// let refused = std::thread::spawn(move || other.try_acquire().map(drop).unwrap_err().kind());
    /// assert_eq!(refused.join().unwrap(), procpool::ErrorKind::WouldBlock);
    /// drop(held);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    LockProxy
}

proxy! {
    /// A lock in a manager's server that the thread which holds it may take again, made by
    /// [`Manager::rlock`](crate::Manager::rlock).
    ///
    /// It is let go when the last guard is. Else as [`LockProxy`].
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let lock = manager.rlock()?;
    /// let outer = lock.acquire()?;
    /// let inner = lock.acquire()?;
    /// drop((outer, inner));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    RLockProxy
}

/// Holds a [`LockProxy`] or an [`RLockProxy`] until it is dropped. A copy of the process that holds
/// it (`fork`) does not hold it.
#[must_use = "the lock is let go when this is dropped"]
pub struct ProxyGuard<'a> {
    _held: HeldLockGuard,
    lock: PhantomData<&'a Reference>,
}

macro_rules! lock_proxy {
    ($name:ident, $what:literal, $reentry:expr) => {
        impl $name {
            /// Takes the lock, waiting as long as it takes.
            ///
            /// # Errors
            ///
            /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the lock in the error.
            /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if this thread holds it and it
            /// cannot be taken again. [`Disconnected`](crate::ErrorKind::Disconnected) when the
            /// server is gone.
            pub fn acquire(&self) -> LockResult<ProxyGuard<'_>> {
                self.take(WaitLimit::Forever)
            }

            /// Takes the lock if it is free.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if it is not; else as
            /// [`acquire`](Self::acquire).
            pub fn try_acquire(&self) -> LockResult<ProxyGuard<'_>> {
                self.take(WaitLimit::Never)
            }

            /// Takes the lock, waiting at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut); else as [`acquire`](Self::acquire).
            pub fn acquire_timeout(&self, limit: Duration) -> LockResult<ProxyGuard<'_>> {
                self.take(WaitLimit::AtMost(limit))
            }

            fn take(&self, wait: WaitLimit) -> LockResult<ProxyGuard<'_>> {
                let taken = HeldLockGuard::acquire(&self.0, acquire, release_lock, wait, $reentry);
                let (held, owner_died) = taken?;
                let guard = ProxyGuard {
                    _held: held,
                    lock: PhantomData,
                };
                if owner_died {
                    return Err(LockError::owner_died($what, guard));
                }
                Ok(guard)
            }
        }
    };
}

lock_proxy!(LockProxy, "manager's Lock", Reentrancy::ErrorCheck);
lock_proxy!(RLockProxy, "manager's RLock", Reentrancy::Recursive);

fn release_lock(held: &ObjectConnection) -> Result<()> {
    held.ask(release, &())
}

/// A lock that sessions hold.
pub(in crate::manager) struct ServerLock(Arc<SharedServerLock>);

struct SharedServerLock(Mutex<ServerLockState>);

struct ServerLockState {
    /// The number of the session that holds it.
    holder: Option<u64>,
    /// Whether the last holder died with it, and nobody has been told.
    owner_died: bool,
    waiters: WaitQueue,
}

impl ServerLock {
    pub(in crate::manager) fn new() -> Self {
        Self(Arc::new(SharedServerLock(Mutex::new(ServerLockState {
            holder: None,
            owner_died: false,
            waiters: WaitQueue::fifo(),
        }))))
    }

    /// Takes it; whether the last holder died with it.
    pub(in crate::manager) fn acquire(
        &self,
        session: &Session,
        wait: WaitLimit,
    ) -> Result<bool, WaitError> {
        let attempt = |state: &mut ServerLockState| {
            state.holder.is_none().then(|| {
                state.holder = Some(session.number());
                mem::take(&mut state.owner_died)
            })
        };
        let owner_died = wait_until(&self.0.0, |it| &mut it.waiters, session, wait, attempt)?;
        session.add_held(self.holdable());
        Ok(owner_died)
    }

    /// Lets it go; false if the session does not hold it.
    pub(in crate::manager) fn release(&self, session: &Session) -> bool {
        let mut state = self.0.0.lock();
        if state.holder != Some(session.number()) {
            return false;
        }
        state.holder = None;
        state.waiters.wake();
        drop(state);
        session.remove_held(&self.holdable());
        true
    }

    fn holdable(&self) -> Arc<dyn Holdable> {
        Arc::clone(&self.0) as _
    }
}

impl Holdable for SharedServerLock {
    fn release_gone_holder(&self, session: u64) {
        let mut state = self.0.lock();
        if state.holder == Some(session) {
            (state.holder, state.owner_died) = (None, true);
            state.waiters.wake();
        }
    }
}

/// What is said of one that is taken.
pub(in crate::manager) const IS_HELD: &str = "the lock is held";

/// What is said to who does not hold it.
pub(in crate::manager) fn err_not_held() -> CallError {
    let message = "the lock is not held through this connection";
    CallError::Refused(ErrorKind::InvalidInput, message.to_owned())
}

/// Makes one that nobody holds.
pub(in crate::manager) fn create(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    server.create(ServerLock::new(), call)
}

fn acquire(lock: &ServerLock, call: &mut Invocation<'_>) -> HandlerResult {
    let wait: WaitLimit = call.decode()?;
    let taken = lock.acquire(Session::of(call), wait);
    let owner_died =
        taken.map_err(|it| it.into_call_error(wait, ErrorKind::WouldBlock, IS_HELD))?;
    call.encode(&owner_died)
}

fn release(lock: &ServerLock, call: &mut Invocation<'_>) -> HandlerResult {
    let is_released = lock.release(Session::of(call));
    is_released.then_some(()).ok_or_else(err_not_held)
}

impl fmt::Debug for ProxyGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyGuard").finish_non_exhaustive()
    }
}
