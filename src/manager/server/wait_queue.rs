//! Waiting in the server for a client: in a queue, with a time limit, and no longer than the client
//! is alive.
//!
//! A waiter parks. After each wake-up it checks its condition, its client and the clock. A change
//! wakes the first waiter of a FIFO queue, or all waiters of a broadcast queue. A waiter that
//! leaves a FIFO queue for any reason wakes the next first waiter. So a client that dies loses no
//! wake-up.

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

    /// Returns the error of a call that has timed out; `kind` is the kind for a call that must not
    /// wait.
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

/// The reason why a wait has ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manager) enum WaitError {
    /// The client is gone and receives no reply.
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
                CallError::Refused(ErrorKind::Disconnected, "the client is gone".to_owned())
            }
            Self::TimedOut => wait.timeout_error(kind, what),
        }
    }
}

/// The waiters for one condition.
#[derive(Debug)]
pub(in crate::manager) struct WaitQueue {
    last_ticket: u64,
    waiting: VecDeque<(u64, Thread)>,
    /// Whether waiters are served in order, one at a time, instead of all at once.
    is_fifo: bool,
}

impl WaitQueue {
    /// Returns a queue that serves waiters in the order of their arrival.
    pub(in crate::manager) fn fifo() -> Self {
        Self {
            last_ticket: 0,
            waiting: VecDeque::new(),
            is_fifo: true,
        }
    }

    /// Returns a queue in which a change wakes all waiters.
    pub(in crate::manager) fn broadcast() -> Self {
        Self {
            is_fifo: false,
            ..Self::fifo()
        }
    }

    /// Wakes the first waiter, or all waiters of a broadcast queue, after a change.
    pub(in crate::manager) fn wake(&self) {
        let count = if self.is_fifo { 1 } else { usize::MAX };
        self.waiting
            .iter()
            .take(count)
            .for_each(|(_, thread)| thread.unpark());
    }

    fn may_proceed(&self, ticket: Option<u64>) -> bool {
        let first = self.waiting.front().map(|(first, _)| *first);
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
            self.waiting.retain(|(waiting, _)| Some(*waiting) != ticket);
            if self.is_fifo {
                self.wake();
            }
        }
    }
}

/// Waits in a queue until `attempt` returns a value. `attempt` runs under the lock, and once more
/// at the deadline even if the waiter is not first.
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
        // The client may have died without notice: 1. the client of the first waiter dies; 2. an
        // item arrives and wakes that waiter; 3. the waiter runs before the monitor has set
        // `is_gone`. It would take the item and lose it. So a waiter that has slept checks the
        // client itself, and leaves the item to the next one.
        let has_gone = ticket.is_some() && session.probe_gone();
        let mut inside = state.lock();
        let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
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

/// Parks this thread until it is unparked or the deadline has passed; may return spuriously.
pub(in crate::manager) fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
