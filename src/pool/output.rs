//! Where workers write.

use crate::sys::fd::{self, Stdio};
use serde::{Deserialize, Serialize};
use std::io;

/// Where a worker's standard output or error goes; see
/// [`ProcessPoolBuilder::stdout`](crate::ProcessPoolBuilder::stdout).
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Where that of the program goes.
    #[default]
    Inherit,
    /// Nowhere.
    Null,
}

impl Output {
    /// Has this process write there.
    pub(super) fn apply(self, stream: Stdio) -> io::Result<()> {
        match self {
            Self::Inherit => Ok(()),
            Self::Null => fd::redirect_to_null(stream),
        }
    }
}
