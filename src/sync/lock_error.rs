//! What comes back when a lock is not simply taken: an error, and the lock itself where its last
//! holder died.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;

/// What the calls that take a lock return, as `std::sync::LockResult`.
pub type LockResult<G> = std::result::Result<G, LockError<G>>;

/// Why a lock was not simply taken.
///
/// Of the kind [`OwnerDied`](ErrorKind::OwnerDied), it holds the lock: what the lock protects may
/// be half changed, which is for the caller to mend. [`into_inner`](Self::into_inner) goes on with
/// it, dropping the error lets it go; whoever takes it next is told nothing. Of any other kind, the
/// lock is not held. `?` makes an [`Error`] of it, which holds nothing; in a function with another
/// error type that is `lock.acquire().map_err(procpool::Error::from)?`.
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
    pub(crate) fn owner_died(what: impl fmt::Display, guard: G) -> Self {
        let message = format!("the last holder of the {what} died while it held it");
        Self {
            error: Error::new(ErrorKind::OwnerDied, message),
            guard: Some(guard),
        }
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// Goes on with the lock whose holder died.
    ///
    /// # Errors
    ///
    /// This error, if it is of another kind.
    pub fn into_inner(self) -> Result<G> {
        self.guard.ok_or(self.error)
    }
}

/// The lock is not held.
impl<G> From<Error> for LockError<G> {
    fn from(error: Error) -> Self {
        Self { error, guard: None }
    }
}

/// Lets the lock go, if it is held.
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
