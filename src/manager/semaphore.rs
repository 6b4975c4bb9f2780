//! Semaphores in the server.

use super::{
    protocol::Answer,
    proxy::proxy,
    server::{Server, Session},
    waiting::{Line, Wait, wait_in},
};
use crate::error::{ErrorKind, Result};
use crate::process::function::{Failure, Invocation};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

proxy! {
    /// A semaphore in a manager's server, made by [`Manager::semaphore`](crate::Manager::semaphore).
    ///
    /// A permit is nobody's: those that a process has when it dies are gone until somebody releases them. One that dies while it
    /// waits takes none, unless it is given one in that very moment, before the server has heard of its death.
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
    /// A [`SemaphoreProxy`] that never has more permits than at first, made by
    /// [`Manager::bounded_semaphore`](crate::Manager::bounded_semaphore).
    BoundedSemaphoreProxy
}

macro_rules! semaphore_proxy {
    ($name:ident) => {
        impl $name {
            /// Takes a permit, waiting as long as it takes.
            ///
            /// # Errors
            ///
            /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone.
            pub fn acquire(&self) -> Result<()> {
                self.0.ask(acquire, &Wait::Forever)
            }

            /// Takes a permit if there is one.
            ///
            /// # Errors
            ///
            /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if there is none; else as [`acquire`](Self::acquire).
            pub fn try_acquire(&self) -> Result<()> {
                self.0.ask(acquire, &Wait::Never)
            }

            /// Takes a permit, waiting at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut); else as [`acquire`](Self::acquire).
            pub fn acquire_timeout(&self, limit: Duration) -> Result<()> {
                self.0.ask(acquire, &Wait::AtMost(limit))
            }

            /// Gives a permit back, or one more.
            ///
            /// # Errors
            ///
            /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when there are as many as there may be; else as
            /// [`acquire`](Self::acquire).
            pub fn release(&self) -> Result<()> {
                self.0.ask(release, &())
            }

            /// How many permits there are.
            ///
            /// # Errors
            ///
            /// As [`acquire`](Self::acquire).
            pub fn value(&self) -> Result<usize> {
                self.0.ask(value, &())
            }
        }
    };
}

semaphore_proxy!(SemaphoreProxy);
semaphore_proxy!(BoundedSemaphoreProxy);

struct Semaphore(Arc<Mutex<State>>);

struct State {
    permits: usize,
    most: usize,
    line: Line,
}

fn make(server: &Server, permits: usize, most: usize, call: &mut Invocation<'_>) -> Answer {
    let line = Line::in_turn();
    let state = State {
        permits,
        most,
        line,
    };
    server.create(Semaphore(Arc::new(Mutex::new(state))), call)
}

/// Makes one with so many permits.
pub(super) fn create(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let permits = call.decode()?;
    make(server, permits, usize::MAX, call)
}

/// Makes one with so many permits and never more.
pub(super) fn create_bounded(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let permits = call.decode()?;
    make(server, permits, permits, call)
}

fn acquire(semaphore: &Semaphore, call: &mut Invocation<'_>) -> Answer {
    let wait: Wait = call.decode()?;
    let attempt = |it: &mut State| {
        it.permits = it.permits.checked_sub(1)?;
        Some(())
    };
    let session = Session::of(call);
    let taken = wait_in(&semaphore.0, |it| &mut it.line, session, wait, attempt);
    taken.map_err(|it| it.into_failure(wait, ErrorKind::WouldBlock, "there is no permit"))?;
    let state = Arc::clone(&semaphore.0);
    session.if_undelivered(move || {
        let mut state = state.lock();
        state.permits += 1;
        state.line.wake();
    });
    Ok(())
}

fn release(semaphore: &Semaphore, _: &mut Invocation<'_>) -> Answer {
    let mut state = semaphore.0.lock();
    if state.permits == state.most {
        let message = "the semaphore has as many permits as it may have";
        return Err(Failure::Refused(
            ErrorKind::InvalidInput,
            message.to_owned(),
        ));
    }
    state.permits += 1;
    state.line.wake();
    Ok(())
}

fn value(semaphore: &Semaphore, call: &mut Invocation<'_>) -> Answer {
    let permits = semaphore.0.lock().permits;
    call.encode(&permits)
}
