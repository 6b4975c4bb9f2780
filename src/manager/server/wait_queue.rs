//! Waiting in the server, in the name of a client: in line, with a limit, and no longer than the
//! client is there.
//!
//! Who waits is parked, and looks again whenever it is woken: at what it waits for, whether its
//! client has gone, at the clock. A change wakes the head of a line, or all of a crowd; who leaves
//! a line for any reason wakes the next head. So no wake-up is lost with a client that dies: it
//! leaves, and the next one looks.

use crate::error::ErrorKind;
use crate::manager::server::Session;
use crate::process::function::CallError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a call may wait.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::manager) enum WaitLimit {
    Forever,
    Never,
    AtMost(Duration),
}

impl WaitLimit {
    pub(in crate::manager) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Forever => None,
            Self::Never => Some(Instant::now()),
            Self::AtMost(limit) => Instant::now().checked_add(limit),
        }
    }

    /// The failure of a call that has waited long enough; `kind` is that of one that must not wait.
    pub(in crate::manager) fn timeout_error(self, kind: ErrorKind, what: &str) -> CallError {
        match self {
            Self::AtMost(limit) => {
                let message = format!("{what}, not within {limit:?}");
                CallError::Refused(ErrorKind::TimedOut, message)
            }
            _ => CallError::Refused(kind, what.to_owned()),
        }
    }
}

/// Why a wait has ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manager) enum WaitError {
    /// The client has gone: nobody will hear of it.
    ClientGone,
    TimedOut,
}

impl WaitError {
    pub(in crate::manager) fn into_call_error(
        self,
        wait: WaitLimit,
        kind: ErrorKind,
        what: &str,
    ) -> CallError {
        match self {
            Self::ClientGone => {
                CallError::Refused(ErrorKind::Disconnected, "the client has gone".to_owned())
            }
            Self::TimedOut => wait.timeout_error(kind, what),
        }
    }
}

/// Who waits for one thing.
#[derive(Debug)]
pub(in crate::manager) struct WaitQueue {
    last_ticket: u64,
    waiting: VecDeque<(u64, Thread)>,
    /// Whether they are served one after the other, and not all at once.
    is_fifo: bool,
}

impl WaitQueue {
    /// One in which the first is served first.
    pub(in crate::manager) fn fifo() -> Self {
        Self {
            last_ticket: 0,
            waiting: VecDeque::new(),
            is_fifo: true,
        }
    }

    /// One in which a change is for everybody.
    pub(in crate::manager) fn broadcast() -> Self {
        Self {
            is_fifo: false,
            ..Self::fifo()
        }
    }

    /// Something has changed.
    pub(in crate::manager) fn wake(&self) {
        let count = if self.is_fifo { 1 } else { usize::MAX };
        self.waiting.iter().take(count).for_each(|it| it.1.unpark());
    }

    fn may_proceed(&self, ticket: Option<u64>) -> bool {
        let first = self.waiting.front().map(|it| it.0);
        !self.is_fifo || first.is_none() || first == ticket
    }

    fn push(&mut self) -> u64 {
        self.last_ticket += 1;
        self.waiting
            .push_back((self.last_ticket, thread::current()));
        self.last_ticket
    }

    fn remove(&mut self, ticket: Option<u64>) {
        if ticket.is_some() {
            self.waiting.retain(|it| Some(it.0) != ticket);
            if self.is_fifo {
                self.wake();
            }
        }
    }
}

/// Waits in a queue until `attempt` gives something. It is tried under the lock, and once more when
/// the time is up, whosever turn it is.
pub(in crate::manager) fn wait_until<S, T>(
    state: &Mutex<S>,
    queue: impl Fn(&mut S) -> &mut WaitQueue,
    session: &Session,
    wait: WaitLimit,
    mut attempt: impl FnMut(&mut S) -> Option<T>,
) -> Result<T, WaitError> {
    let deadline = wait.deadline();
    let mut ticket = None;
    loop {
        // What comes now may come just after a death: whoever has waited makes sure, so that it is
        // the next one's.
        let has_gone = ticket.is_some() && session.probe_gone();
        let mut inside = state.lock();
        let is_over = deadline.is_some_and(|it| it <= Instant::now());
        let may_try = !has_gone && (is_over || queue(&mut inside).may_proceed(ticket));
        let found = may_try.then(|| attempt(&mut inside)).flatten();
        let ended = match found {
            Some(found) => Some(Ok(found)),
            None if has_gone || session.is_gone() => Some(Err(WaitError::ClientGone)),
            None if is_over => Some(Err(WaitError::TimedOut)),
            None => None,
        };
        if let Some(ended) = ended {
            queue(&mut inside).remove(ticket);
            return ended;
        }
        ticket.get_or_insert_with(|| queue(&mut inside).push());
        drop(inside);
        park(deadline);
    }
}

/// Sleeps until somebody unparks this thread, or for no reason at all.
pub(in crate::manager) fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
