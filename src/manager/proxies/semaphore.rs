//! Semaphores in the server.

use crate::error::{ErrorKind, Result};
use crate::manager::{
    protocol::HandlerResult,
    proxies::object::proxy,
    server::wait_queue::{WaitLimit, WaitQueue, wait_until},
    server::{Server, Session},
};
use crate::process::function::{CallError, Invocation};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

proxy! {
    /// A semaphore in a manager's server, created by
    /// [`Manager::semaphore`](crate::Manager::semaphore).
    ///
    /// Permits have no owner. If a process dies, its permits are lost until another process
    /// releases them. A process that dies during its wait takes no permit, except if the server
    /// grants one before it notices the death.
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let permits = manager.semaphore(1)?;
    /// permits.acquire()?;
    /// assert_eq!(permits.try_acquire().unwrap_err().kind(), procpool::ErrorKind::WouldBlock);
    /// permits.release()?;
    /// assert_eq!(permits.value()?, 1);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    SemaphoreProxy
}

proxy! {
    /// A [`SemaphoreProxy`] whose initial number of permits is also its maximum, created by
    /// [`Manager::bounded_semaphore`](crate::Manager::bounded_semaphore).
    BoundedSemaphoreProxy
}

macro_rules! semaphore_proxy {
    ($name:ident) => {
        impl $name {
            /// Takes a permit. Blocks until one is available.
            ///
            /// # Errors
            ///
            /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited.
            pub fn acquire(&self) -> Result<()> {
                self.0.ask(acquire, &WaitLimit::Forever)
            }

            /// Takes a permit if one is available.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if no permit is available; else fails
            /// like [`acquire`](Self::acquire).
            pub fn try_acquire(&self) -> Result<()> {
                self.0.ask(acquire, &WaitLimit::Never)
            }

            /// Takes a permit. Blocks for at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut) if no permit is available in time; else
            /// fails like [`acquire`](Self::acquire).
            pub fn acquire_timeout(&self, limit: Duration) -> Result<()> {
                self.0.ask(acquire, &WaitLimit::AtMost(limit))
            }

            /// Adds a permit.
            ///
            /// # Errors
            ///
            /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the number of permits is at its
            /// maximum; else fails like [`acquire`](Self::acquire).
            pub fn release(&self) -> Result<()> {
                self.0.ask(release, &())
            }

            /// Returns the number of available permits.
            ///
            /// # Errors
            ///
            /// Fails like [`acquire`](Self::acquire).
            pub fn value(&self) -> Result<usize> {
                self.0.ask(value, &())
            }
        }
    };
}

semaphore_proxy!(SemaphoreProxy);
semaphore_proxy!(BoundedSemaphoreProxy);

struct ServerSemaphore(Arc<Mutex<ServerSemaphoreState>>);

struct ServerSemaphoreState {
    permits: usize,
    max_permits: usize,
    waiters: WaitQueue,
}

fn create_with(
    server: &Server,
    permits: usize,
    max_permits: usize,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let waiters = WaitQueue::fifo();
    let state = ServerSemaphoreState {
        permits,
        max_permits,
        waiters,
    };
    server.create(ServerSemaphore(Arc::new(Mutex::new(state))), call)
}

/// Creates a semaphore without a maximum.
pub(in crate::manager) fn create(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let permits = call.decode()?;
    create_with(server, permits, usize::MAX, call)
}

/// Creates a semaphore whose initial number of permits is its maximum.
pub(in crate::manager) fn create_bounded(
    server: &Server,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let permits = call.decode()?;
    create_with(server, permits, permits, call)
}

fn acquire(semaphore: &ServerSemaphore, call: &mut Invocation<'_>) -> HandlerResult {
    let wait: WaitLimit = call.decode()?;
    let attempt = |it: &mut ServerSemaphoreState| {
        it.permits = it.permits.checked_sub(1)?;
        Some(())
    };
    let session = Session::of(call);
    let taken = wait_until(&semaphore.0, |it| &mut it.waiters, session, wait, attempt);
    taken
        .map_err(|it| it.into_call_error(wait, ErrorKind::WouldBlock, "no permit is available"))?;
    let state = Arc::clone(&semaphore.0);
    session.on_undelivered(move || {
        let mut state = state.lock();
        state.permits += 1;
        state.waiters.wake();
    });
    Ok(())
}

fn release(semaphore: &ServerSemaphore, _: &mut Invocation<'_>) -> HandlerResult {
    let mut state = semaphore.0.lock();
    if state.permits == state.max_permits {
        let message = "the semaphore has its maximum number of permits";
        return Err(CallError::Refused(
            ErrorKind::InvalidInput,
            message.to_owned(),
        ));
    }
    state.permits += 1;
    state.waiters.wake();
    Ok(())
}

fn value(semaphore: &ServerSemaphore, call: &mut Invocation<'_>) -> HandlerResult {
    let permits = semaphore.0.lock().permits;
    call.encode(&permits)
}
