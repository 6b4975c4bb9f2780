//! The exit status of a process.

use crate::sys::pidfd::WaitStatus;
use std::fmt;

/// The exit status of a [`Process`](crate::Process).
///
/// [`code`](Self::code) and [`signal`](Self::signal) are both `None` if other code of this program
/// reaped the process, or if the fork server was killed before it could.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub(super) Option<WaitStatus>);

impl ExitStatus {
    /// Whether the process exited with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code() == Some(0)
    }

    /// Returns the exit code: 0 if the function returned, 101 if it panicked, `None` if a signal
    /// killed the process.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.0.and_then(WaitStatus::exit_code)
    }

    /// Returns the signal that killed the process.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.0.and_then(WaitStatus::signal)
    }
}

impl fmt::Debug for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExitStatus({self})")
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code(), self.signal()) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("unknown status"),
        }
    }
}
