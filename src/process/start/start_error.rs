//! Errors of a failed start, with the missing feature of the system where the errno does not name
//! it.

use crate::error::{Error, ErrorKind};
use crate::sys::{child, pidfd::PidFd};
use std::{fmt, io};

/// Creates the error of a process that could not be started.
pub(super) fn start_error(what: impl fmt::Display, error: io::Error) -> Error {
    let error = match missing_feature(&error) {
        Some(missing) => Error::io(format_args!("{what}: {missing}"), error),
        None => Error::io(what, error),
    };
    error.with_kind(ErrorKind::StartFailed)
}

fn missing_feature(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::NotFound if !child::has_proc() => Some("/proc is not mounted"),
        io::ErrorKind::Unsupported if !PidFd::is_available() => Some(
            "the system call pidfd_open is unavailable: it needs Linux 5.3, and valgrind before \
             3.24 and some seccomp filters lack it",
        ),
        io::ErrorKind::WouldBlock => Some(
            "no process is left, by the limit of the user (RLIMIT_NPROC), of the cgroup (pids.max) \
             or of the system",
        ),
        _ => None,
    }
}
