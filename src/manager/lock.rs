//! Locks in the server: plain ones, and those that a thread may take again.

use super::{
    hold::{Hold, Reentry},
    protocol::Answer,
    proxy::proxy,
    reference::{Held, Reference},
    server::{Holdable, Server, Session},
    waiting::{Ended, Line, Wait, wait_in},
};
use crate::error::{ErrorKind, Result};
use crate::process::function::{Failure, Invocation};
use crate::sync::{LockError, LockResult};
use parking_lot::Mutex;
use std::{fmt, marker::PhantomData, mem, sync::Arc, time::Duration};

proxy! {
    /// A lock in a manager's server, made by [`Manager::lock`](crate::Manager::lock): held by one thread of one process, on any machine.
    ///
    /// Those who wait get it in the order in which they came. If the process that holds it dies, the next one gets it with
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied), once; a client on another machine that vanishes is dead after two minutes.
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
    /// A lock in a manager's server that the thread which holds it may take again, made by [`Manager::rlock`](crate::Manager::rlock).
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

/// Holds a [`LockProxy`] or an [`RLockProxy`] until it is dropped. A copy of the process that holds it (`fork`) does not hold it.
#[must_use = "the lock is let go when this is dropped"]
pub struct ProxyGuard<'a> {
    _hold: Hold,
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
            /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if this thread holds it and it cannot be taken again.
            /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone.
            pub fn acquire(&self) -> LockResult<ProxyGuard<'_>> {
                self.take(Wait::Forever)
            }

            /// Takes the lock if it is free.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if it is not; else as [`acquire`](Self::acquire).
            pub fn try_acquire(&self) -> LockResult<ProxyGuard<'_>> {
                self.take(Wait::Never)
            }

            /// Takes the lock, waiting at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut); else as [`acquire`](Self::acquire).
            pub fn acquire_timeout(&self, limit: Duration) -> LockResult<ProxyGuard<'_>> {
                self.take(Wait::AtMost(limit))
            }

            fn take(&self, wait: Wait) -> LockResult<ProxyGuard<'_>> {
                let taken = Hold::take(&self.0, acquire, let_go, wait, $reentry);
                let (hold, owner_died) = taken?;
                let guard = ProxyGuard {
                    _hold: hold,
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

lock_proxy!(LockProxy, "manager's Lock", Reentry::Refused);
lock_proxy!(RLockProxy, "manager's RLock", Reentry::Counted);

fn let_go(held: &Held) -> Result<()> {
    held.ask(release, &())
}

/// A lock that sessions hold.
pub(super) struct Lock(Arc<Shared>);

struct Shared(Mutex<State>);

struct State {
    /// The number of the session that holds it.
    holder: Option<u64>,
    /// Whether the last holder died with it, and nobody has been told.
    owner_died: bool,
    line: Line,
}

impl Lock {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared(Mutex::new(State {
            holder: None,
            owner_died: false,
            line: Line::in_turn(),
        }))))
    }

    /// Takes it; whether the last holder died with it.
    pub(super) fn acquire(&self, session: &Session, wait: Wait) -> Result<bool, Ended> {
        let attempt = |state: &mut State| {
            state.holder.is_none().then(|| {
                state.holder = Some(session.number());
                mem::take(&mut state.owner_died)
            })
        };
        let owner_died = wait_in(&self.0.0, |it| &mut it.line, session, wait, attempt)?;
        session.holds(self.holdable());
        Ok(owner_died)
    }

    /// Lets it go; false if the session does not hold it.
    pub(super) fn release(&self, session: &Session) -> bool {
        let mut state = self.0.0.lock();
        if state.holder != Some(session.number()) {
            return false;
        }
        state.holder = None;
        state.line.wake();
        drop(state);
        session.lets_go(&self.holdable());
        true
    }

    fn holdable(&self) -> Arc<dyn Holdable> {
        Arc::clone(&self.0) as _
    }
}

impl Holdable for Shared {
    fn holder_has_gone(&self, session: u64) {
        let mut state = self.0.lock();
        if state.holder == Some(session) {
            (state.holder, state.owner_died) = (None, true);
            state.line.wake();
        }
    }
}

/// What is said of one that is taken.
pub(super) const IS_HELD: &str = "the lock is held";

/// What is said to who does not hold it.
pub(super) fn not_held() -> Failure {
    let message = "the lock is not held through this connection";
    Failure::Refused(ErrorKind::InvalidInput, message.to_owned())
}

/// Makes one that nobody holds.
pub(super) fn create(server: &Server, call: &mut Invocation<'_>) -> Answer {
    server.create(Lock::new(), call)
}

fn acquire(lock: &Lock, call: &mut Invocation<'_>) -> Answer {
    let wait: Wait = call.decode()?;
    let taken = lock.acquire(Session::of(call), wait);
    let owner_died = taken.map_err(|it| it.into_failure(wait, ErrorKind::WouldBlock, IS_HELD))?;
    call.encode(&owner_died)
}

fn release(lock: &Lock, call: &mut Invocation<'_>) -> Answer {
    let is_released = lock.release(Session::of(call));
    is_released.then_some(()).ok_or_else(not_held)
}

impl fmt::Debug for ProxyGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyGuard").finish_non_exhaustive()
    }
}
