//! Where workers read from.

use crate::sys::fd::{self, Stdio};
use serde::{Deserialize, Serialize};
use std::io;

/// Where a worker's standard input comes from; see
/// [`ProcessPoolBuilder::stdin`](crate::ProcessPoolBuilder::stdin).
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// It is empty: whatever reads from it finds the end of the file.
    #[default]
    Null,
    /// It is that of the program, which shares it with its workers: input goes to the process that
    /// reads it first.
    ///
    /// A read of a terminal takes one line. A read of a pipe or a file through
    /// [`std::io::stdin`] takes as much as fits into its buffer, and no other process sees the
    /// lines in it.
    Inherit,
}

impl Input {
    /// Makes this process read from there.
    pub(super) fn apply(self) -> io::Result<()> {
        match self {
            Self::Null => fd::redirect_to_null(Stdio::Input),
            Self::Inherit => Ok(()),
        }
    }
}
