//! The settings of a task, and the record of its attempts.

use crate::error::{Error, ErrorKind};
use std::time::Duration;

/// The time limit, the retries and the priority of a task or a map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TaskConfig {
    /// How long an item may run.
    pub(crate) timeout: Option<Duration>,
    /// How often an item is retried.
    pub(crate) retries: u32,
    /// Whether a panic is retried, too.
    pub(crate) retries_panics: bool,
    /// Tasks with a higher number start first.
    pub(crate) priority: i32,
}

/// How the attempts at an item ended, except the current one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts {
    errors: Vec<Error>,
    /// The number of workers that died while the item was the next to start.
    losses: u32,
}

impl TaskConfig {
    /// Whether an item that failed with `error` is retried if it has tries left.
    pub(crate) fn retries_after(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::WorkerDied | ErrorKind::TimedOut => self.retries > 0,
            ErrorKind::Panicked => self.retries > 0 && self.retries_panics,
            _ => false,
        }
    }
}

impl Attempts {
    /// Returns the number of the next attempt, from 1.
    pub(crate) fn next(&self) -> u32 {
        self.errors.len() as u32 + 1
    }

    /// Records the error of an attempt.
    pub(crate) fn push(&mut self, error: Error) {
        self.errors.push(error);
    }

    /// Counts a worker that died while the item was the next to start, and returns the number of
    /// such workers.
    pub(crate) fn count_loss(&mut self) -> u32 {
        self.losses += 1;
        self.losses
    }

    /// Returns the last error of an item without tries left; its message includes the errors before
    /// it.
    pub(crate) fn into_error(mut self) -> Option<Error> {
        let last = self.errors.pop()?;
        if self.errors.is_empty() {
            return Some(last);
        }
        let count = self.errors.len() + 1;
        let before: Vec<String> = self.errors.iter().map(Error::to_string).collect();
        let message = format!(
            "{last} (attempt {count} of {count}; before that: {})",
            before.join("; ")
        );
        Some(last.with_message(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::WorkerExit;
    use crate::sys::pidfd::WaitStatus;

    #[test]
    fn the_last_error_tells_of_those_before_it() {
        let mut attempts = Attempts::default();
        assert!(attempts.clone().into_error().is_none());
        attempts.push(Error::new(ErrorKind::TimedOut, "too slow"));
        let alone = attempts.clone().into_error().map(|it| it.to_string());
        assert_eq!((attempts.next(), alone.as_deref()), (2, Some("too slow")));
        let killed = WorkerExit::new(7, Some(WaitStatus(9)), false);
        attempts.push(Error::worker_died(killed));
        let error = attempts.into_error().expect("two errors");
        assert_eq!(
            error.to_string(),
            "worker 7 was killed by SIGKILL (signal 9) before it answered (attempt 2 of 2; \
             before that: too slow)"
        );
        assert!(error.worker().is_some() && error.kind() == ErrorKind::WorkerDied);
    }
}
