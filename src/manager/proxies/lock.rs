//! Locks in the server: plain and reentrant ones.

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
    /// A lock in a manager's server, created by [`Manager::lock`](crate::Manager::lock). One thread
    /// of one process, on any machine, holds it at a time.
    ///
    /// Waiters acquire the lock in the order of their arrival. If the process that holds it dies,
    /// the next acquisition fails once with [`OwnerDied`](crate::ErrorKind::OwnerDied) and holds
    /// the lock. A client on another machine that becomes unreachable counts as dead after two
    /// minutes.
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
    /// A lock in a manager's server that its holder, a thread, can acquire again, created by
    /// [`Manager::rlock`](crate::Manager::rlock).
    ///
    /// Dropping the last guard releases it. Otherwise it is like [`LockProxy`].
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

/// Holds a [`LockProxy`] or an [`RLockProxy`] until it is dropped. A copy of the holding process
/// (`fork`) does not hold the lock.
#[must_use = "the lock is released when this is dropped"]
pub struct ProxyGuard<'a> {
    _held: HeldLockGuard,
    lock: PhantomData<&'a Reference>,
}

macro_rules! lock_proxy {
    ($name:ident, $what:literal, $reentry:expr) => {
        impl $name {
            /// Acquires the lock. Blocks until it is free.
            ///
            /// # Errors
            ///
            /// [`OwnerDied`](crate::ErrorKind::OwnerDied), with the held lock in the error, if its
            /// last holder died. [`InvalidInput`](crate::ErrorKind::InvalidInput) if this thread
            /// holds the lock and it is not reentrant.
            /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited.
            pub fn acquire(&self) -> LockResult<ProxyGuard<'_>> {
                self.take(WaitLimit::Forever)
            }

            /// Acquires the lock if it is free, without blocking for it.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if the lock is held; else fails like
            /// [`acquire`](Self::acquire).
            pub fn try_acquire(&self) -> LockResult<ProxyGuard<'_>> {
                self.take(WaitLimit::Never)
            }

            /// Acquires the lock. Blocks for at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut) if the lock is not free in time; else fails
            /// like [`acquire`](Self::acquire).
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
    /// The number of the session that holds the lock.
    holder: Option<u64>,
    /// Whether the last holder died with the lock and no later holder has been told.
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

    /// Acquires the lock. Returns whether the last holder died with it.
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

    /// Releases the lock. Returns false if the session does not hold it.
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

/// The message if the lock is held.
pub(in crate::manager) const IS_HELD: &str = "the lock is held";

/// Returns the error for a session that does not hold the lock.
pub(in crate::manager) fn err_not_held() -> CallError {
    let message = "the lock is not held through this connection";
    CallError::Refused(ErrorKind::InvalidInput, message.to_owned())
}

/// Creates a free lock.
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
