//! The error of a task that a pool does not accept.

use crate::error::{Error, ErrorKind};
use std::{error::Error as StdError, fmt};

/// The error of [`ProcessPoolExecutor::try_submit`](crate::ProcessPoolExecutor::try_submit), which
/// holds the argument of the task.
pub struct TrySubmitError<A> {
    error: Error,
    argument: A,
}

impl<A> TrySubmitError<A> {
    pub(super) fn new(error: Error, argument: A) -> Self {
        Self { error, argument }
    }

    /// Returns why the task was not submitted. [`ErrorKind::Full`] if a later call may succeed.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// Returns the argument.
    #[must_use]
    pub fn into_inner(self) -> A {
        self.argument
    }
}

impl<A> From<TrySubmitError<A>> for Error {
    fn from(refused: TrySubmitError<A>) -> Self {
        refused.error
    }
}

impl<A> fmt::Display for TrySubmitError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<A> fmt::Debug for TrySubmitError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrySubmitError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<A> StdError for TrySubmitError<A> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}
