//! Waiting in the server, in the name of a client: in line, with a limit, and no longer than the client is there.
//!
//! Who waits is parked, and looks again whenever it is woken: at what it waits for, whether its client has gone, at the clock. A
//! change wakes the head of a line, or all of a crowd; who leaves a line for any reason wakes the next head. So no wake-up is
//! lost with a client that dies: it leaves, and the next one looks.

use super::server::Session;
use crate::error::ErrorKind;
use crate::process::function::Failure;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a call may wait.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Wait {
    Forever,
    Never,
    AtMost(Duration),
}

impl Wait {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Forever => None,
            Self::Never => Some(Instant::now()),
            Self::AtMost(limit) => Instant::now().checked_add(limit),
        }
    }

    /// The failure of a call that has waited long enough; `kind` is that of one that must not wait.
    pub(super) fn over(self, kind: ErrorKind, what: &str) -> Failure {
        match self {
            Self::AtMost(limit) => {
                let message = format!("{what}, not within {limit:?}");
                Failure::Refused(ErrorKind::TimedOut, message)
            }
            _ => Failure::Refused(kind, what.to_owned()),
        }
    }
}

/// Why a wait has ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client has gone: nobody will hear of it.
    Gone,
    TimedOut,
}

impl Ended {
    pub(super) fn into_failure(self, wait: Wait, kind: ErrorKind, what: &str) -> Failure {
        match self {
            Self::Gone => {
                Failure::Refused(ErrorKind::Disconnected, "the client has gone".to_owned())
            }
            Self::TimedOut => wait.over(kind, what),
        }
    }
}

/// Who waits for one thing.
#[derive(Debug)]
pub(super) struct Line {
    last: u64,
    waiting: VecDeque<(u64, Thread)>,
    /// Whether they are served one after the other, and not all at once.
    is_in_turn: bool,
}

impl Line {
    /// One in which the first is served first.
    pub(super) fn in_turn() -> Self {
        Self {
            last: 0,
            waiting: VecDeque::new(),
            is_in_turn: true,
        }
    }

    /// One in which a change is for everybody.
    pub(super) fn crowd() -> Self {
        Self {
            is_in_turn: false,
            ..Self::in_turn()
        }
    }

    /// Something has changed.
    pub(super) fn wake(&self) {
        let count = if self.is_in_turn { 1 } else { usize::MAX };
        self.waiting.iter().take(count).for_each(|it| it.1.unpark());
    }

    fn is_turn_of(&self, place: Option<u64>) -> bool {
        let first = self.waiting.front().map(|it| it.0);
        !self.is_in_turn || first.is_none() || first == place
    }

    fn join(&mut self) -> u64 {
        self.last += 1;
        self.waiting.push_back((self.last, thread::current()));
        self.last
    }

    fn leave(&mut self, place: Option<u64>) {
        if place.is_some() {
            self.waiting.retain(|it| Some(it.0) != place);
            if self.is_in_turn {
                self.wake();
            }
        }
    }
}

/// Waits in a line until `attempt` gives something. It is tried under the lock, and once more when the time is up, whosever
/// turn it is.
pub(super) fn wait_in<S, T>(
    state: &Mutex<S>,
    line: impl Fn(&mut S) -> &mut Line,
    session: &Session,
    wait: Wait,
    mut attempt: impl FnMut(&mut S) -> Option<T>,
) -> Result<T, Ended> {
    let deadline = wait.deadline();
    let mut place = None;
    loop {
        // What comes now may come just after a death: whoever has waited makes sure, so that it is the next one's.
        let has_gone = place.is_some() && session.has_just_gone();
        let mut inside = state.lock();
        let is_over = deadline.is_some_and(|it| it <= Instant::now());
        let may_try = !has_gone && (is_over || line(&mut inside).is_turn_of(place));
        let found = may_try.then(|| attempt(&mut inside)).flatten();
        let ended = match found {
            Some(found) => Some(Ok(found)),
            None if has_gone || session.has_gone() => Some(Err(Ended::Gone)),
            None if is_over => Some(Err(Ended::TimedOut)),
            None => None,
        };
        if let Some(ended) = ended {
            line(&mut inside).leave(place);
            return ended;
        }
        place.get_or_insert_with(|| line(&mut inside).join());
        drop(inside);
        park(deadline);
    }
}

/// Sleeps until somebody unparks this thread, or for no reason at all.
pub(super) fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
