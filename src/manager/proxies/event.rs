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
    /// An event in a manager's server, created by [`Manager::event`](crate::Manager::event). It is
    /// set or not set, and threads can wait for it.
    ///
    /// Setting it wakes all current waiters, also if it is cleared immediately afterwards.
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
    /// Sets the event and wakes all waiters.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited, here and in all
    /// other methods.
    pub fn set(&self) -> Result<()> {
        self.0.ask(set, &())
    }

    /// Clears the event.
    pub fn clear(&self) -> Result<()> {
        self.0.ask(clear, &())
    }

    /// Whether the event is set.
    pub fn is_set(&self) -> Result<bool> {
        self.0.ask(is_set, &())
    }

    /// Blocks until the event is set.
    pub fn wait(&self) -> Result<()> {
        self.0.ask(wait, &WaitLimit::Forever)
    }

    /// Blocks until the event is set, for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if it is not set in time.
    pub fn wait_timeout(&self, limit: Duration) -> Result<()> {
        self.0.ask(wait, &WaitLimit::AtMost(limit))
    }
}

struct ServerEvent(Mutex<ServerEventState>);

struct ServerEventState {
    is_set: bool,
    /// How many times the event was set.
    sets: u64,
    waiters: WaitQueue,
}

/// Creates an event that is not set.
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
