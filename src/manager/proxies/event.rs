//! Events in the server.

use crate::error::{ErrorKind, Result};
use crate::manager::{
    protocol::HandlerResult,
    proxies::object::proxy,
    server::wait_queue::{WaitLimit, WaitQueue, wait_until},
    server::{Server, Session},
};
use crate::process::function::Invocation;
use parking_lot::Mutex;
use std::time::Duration;

proxy! {
    /// An event in a manager's server, made by [`Manager::event`](crate::Manager::event): it is set
    /// or not, and can be waited for.
    ///
    /// All who wait when it is set go on, also if it is cleared at once.
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let event = manager.event()?;
    /// let setter = event.clone();
    /// let thread = std::thread::spawn(move || setter.set());
    /// event.wait()?;
    /// assert!(event.is_set()?);
    /// # thread.join().unwrap()?;
    /// # Ok::<(), procpool::Error>(())
    /// ```
    EventProxy
}

impl EventProxy {
    /// Sets it, and wakes all who wait.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone, here and in all
    /// other methods.
    pub fn set(&self) -> Result<()> {
        self.0.ask(set, &())
    }

    /// Clears it.
    pub fn clear(&self) -> Result<()> {
        self.0.ask(clear, &())
    }

    /// Whether it is set.
    pub fn is_set(&self) -> Result<bool> {
        self.0.ask(is_set, &())
    }

    /// Waits until it is set.
    pub fn wait(&self) -> Result<()> {
        self.0.ask(wait, &WaitLimit::Forever)
    }

    /// Waits until it is set, at most for `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut).
    pub fn wait_timeout(&self, limit: Duration) -> Result<()> {
        self.0.ask(wait, &WaitLimit::AtMost(limit))
    }
}

struct ServerEvent(Mutex<ServerEventState>);

struct ServerEventState {
    is_set: bool,
    /// How often it was set.
    sets: u64,
    waiters: WaitQueue,
}

/// Makes one that is not set.
pub(in crate::manager) fn create(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let state = ServerEventState {
        is_set: false,
        sets: 0,
        waiters: WaitQueue::broadcast(),
    };
    server.create(ServerEvent(Mutex::new(state)), call)
}

fn set(event: &ServerEvent, _: &mut Invocation<'_>) -> HandlerResult {
    let mut state = event.0.lock();
    state.is_set = true;
    state.sets += 1;
    state.waiters.wake();
    Ok(())
}

fn clear(event: &ServerEvent, _: &mut Invocation<'_>) -> HandlerResult {
    event.0.lock().is_set = false;
    Ok(())
}

fn is_set(event: &ServerEvent, call: &mut Invocation<'_>) -> HandlerResult {
    let is_set = event.0.lock().is_set;
    call.encode(&is_set)
}

fn wait(event: &ServerEvent, call: &mut Invocation<'_>) -> HandlerResult {
    let wait: WaitLimit = call.decode()?;
    let before = event.0.lock().sets;
    let attempt = |it: &mut ServerEventState| (it.is_set || it.sets != before).then_some(());
    let waited = wait_until(
        &event.0,
        |it| &mut it.waiters,
        Session::of(call),
        wait,
        attempt,
    );
    waited.map_err(|it| it.into_call_error(wait, ErrorKind::WouldBlock, "the event was not set"))
}
