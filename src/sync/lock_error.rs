//! The error of calls that take a lock. It holds the lock itself if the last holder died.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;

/// The result of calls that take a lock, like `std::sync::LockResult`.
pub type LockResult<G> = std::result::Result<G, LockError<G>>;

/// The error of a call that takes a lock.
///
/// If its kind is [`OwnerDied`](ErrorKind::OwnerDied), it holds the lock. The protected data may be
/// half changed, and the caller should repair it. [`into_inner`](Self::into_inner) returns the
/// guard; dropping the error releases the lock. The next holder is not told again. With any other
/// kind, the lock is not held.
///
/// `?` converts it to an [`Error`], which releases the lock. In a function with another error type,
/// write `lock.acquire().map_err(procpool::Error::from)?`.
///
/// ```
/// let lock = procpool::Lock::new()?;
/// // Whatever became of its last holder.
/// let held = lock.acquire().or_else(|error| error.into_inner())?;
/// # drop(held);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct LockError<G> {
    error: Error,
    guard: Option<G>,
}

impl<G> LockError<G> {
    pub(crate) fn owner_died(kind: impl fmt::Display, guard: G) -> Self {
        let message = format!("the last holder of the {kind} died while it held it");
        Self {
            error: Error::new(ErrorKind::OwnerDied, message),
            guard: Some(guard),
        }
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// Returns the guard of the lock whose last holder died.
    ///
    /// # Errors
    ///
    /// This error, if it is of another kind.
    pub fn into_inner(self) -> Result<G> {
        self.guard.ok_or(self.error)
    }
}

/// Creates an error that does not hold the lock.
impl<G> From<Error> for LockError<G> {
    fn from(error: Error) -> Self {
        Self { error, guard: None }
    }
}

/// Releases the lock, if it is held.
impl<G> From<LockError<G>> for Error {
    fn from(refused: LockError<G>) -> Self {
        refused.error
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockError")
            .field("error", &self.error)
            .field("is_held", &self.guard.is_some())
            .finish()
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<G> std::error::Error for LockError<G> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}
