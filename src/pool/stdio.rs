//! The standard streams of workers.

use crate::sys::fd::{self, Stdio};
use serde::{Deserialize, Serialize};
use std::io;

/// Where a worker's standard input comes from; see
/// [`ProcessPoolBuilder::stdin`](crate::ProcessPoolBuilder::stdin).
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The input is empty: a read returns the end of the file.
    #[default]
    Null,
    /// The worker shares the standard input of the program. The first process that reads gets the
    /// data.
    ///
    /// A read of a terminal takes one line. A read of a pipe or a file through
    /// [`std::io::stdin`] takes as much as fits into its buffer, and no other process sees the
    /// lines in it.
    Inherit,
}

impl Input {
    /// Redirects the standard input of this process.
    pub(super) fn apply(self) -> io::Result<()> {
        match self {
            Self::Null => fd::redirect_to_null(Stdio::Input),
            Self::Inherit => Ok(()),
        }
    }
}

/// Where a worker's standard output or standard error goes; see
/// [`ProcessPoolBuilder::stdout`](crate::ProcessPoolBuilder::stdout).
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// To the same place as the program's.
    #[default]
    Inherit,
    /// Nowhere: the output is discarded.
    Null,
}

impl Output {
    /// Redirects `stream` of this process.
    pub(super) fn apply(self, stream: Stdio) -> io::Result<()> {
        match self {
            Self::Inherit => Ok(()),
            Self::Null => fd::redirect_to_null(stream),
        }
    }
}
