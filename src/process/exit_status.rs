//! How a process ended.

use crate::sys::child::WaitStatus;
use std::fmt;

/// How a [`Process`](crate::Process) ended.
///
/// Neither a code nor a signal is known of a process whose status was taken by other code of this
/// program, or whose fork server was killed before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub(super) Option<WaitStatus>);

impl ExitStatus {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code() == Some(0)
    }

    /// The code it gave to `exit`: 0 when its function returned, 101 when that panicked.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.0.and_then(WaitStatus::exit_code)
    }

    /// The signal that killed it.
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
