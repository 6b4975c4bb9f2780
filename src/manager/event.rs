//! Events in the server.

use super::{
    protocol::Answer,
    proxy::proxy,
    server::{Server, Session},
    waiting::{Line, Wait, wait_in},
};
use crate::error::{ErrorKind, Result};
use crate::process::function::Invocation;
use parking_lot::Mutex;
use std::time::Duration;

proxy! {
    /// An event in a manager's server, made by [`Manager::event`](crate::Manager::event): it is set or not, and can be waited for.
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
    /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone, here and in all other methods.
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
        self.0.ask(wait, &Wait::Forever)
    }

    /// Waits until it is set, at most for `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut).
    pub fn wait_timeout(&self, limit: Duration) -> Result<()> {
        self.0.ask(wait, &Wait::AtMost(limit))
    }
}

struct Event(Mutex<State>);

struct State {
    is_set: bool,
    /// How often it was set.
    sets: u64,
    line: Line,
}

/// Makes one that is not set.
pub(super) fn create(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let state = State {
        is_set: false,
        sets: 0,
        line: Line::crowd(),
    };
    server.create(Event(Mutex::new(state)), call)
}

fn set(event: &Event, _: &mut Invocation<'_>) -> Answer {
    let mut state = event.0.lock();
    state.is_set = true;
    state.sets += 1;
    state.line.wake();
    Ok(())
}

fn clear(event: &Event, _: &mut Invocation<'_>) -> Answer {
    event.0.lock().is_set = false;
    Ok(())
}

fn is_set(event: &Event, call: &mut Invocation<'_>) -> Answer {
    let is_set = event.0.lock().is_set;
    call.encode(&is_set)
}

fn wait(event: &Event, call: &mut Invocation<'_>) -> Answer {
    let wait: Wait = call.decode()?;
    let before = event.0.lock().sets;
    let attempt = |it: &mut State| (it.is_set || it.sets != before).then_some(());
    let waited = wait_in(
        &event.0,
        |it| &mut it.line,
        Session::of(call),
        wait,
        attempt,
    );
    waited.map_err(|it| it.into_failure(wait, ErrorKind::WouldBlock, "the event was not set"))
}
