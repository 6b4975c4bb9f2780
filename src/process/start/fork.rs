//! A child that is a plain copy of this process: it finds everything as it was, and shares nothing afterwards.
//!
//! Only for a process with one thread. In the copy of any other, locks may be held by threads that do not exist there, the
//! allocator's among them.

use crate::error::{Error, ErrorKind, Result};
use crate::process::{
    entry,
    start::{Child, Start},
};
use crate::sys::child::{self, Forked, PidFd, Threads};
use std::{io, os::fd::OwnedFd};

/// Forks this process.
pub(crate) fn start(start: &Start<'_>, threads: Threads) -> Result<Child> {
    if threads == Threads::One {
        check_threads()?;
    }
    fork(start, threads)
        .map_err(|it| Error::io("failed to fork", it).with_kind(ErrorKind::StartFailed))
}

fn check_threads() -> Result<()> {
    let threads = child::thread_count();
    let threads = threads.map_err(|it| Error::io("failed to count this process's threads", it))?;
    if threads == 1 {
        return Ok(());
    }
    let message = format!(
        "this process has {threads} threads, and a fork copies only one of them: use StartMethod::ForkServer or \
         StartMethod::Spawn, or fork before the first thread is started"
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}

fn fork(start: &Start<'_>, threads: Threads) -> io::Result<Child> {
    let passed: io::Result<Vec<OwnedFd>> = start
        .passed
        .iter()
        .map(|it| it.try_clone_to_owned())
        .collect();
    let passed = passed?;
    // What is in the buffers would be written by both.
    entry::flush_output();
    let parent = std::process::id();
    match child::fork(threads)? {
        Forked::Child => {
            // After the parent's death a daemon has nothing to do.
            if start.flags.is_daemon && !child::ends_with(parent) {
                child::exit_now(0);
            }
            entry::run_forked(start.main, passed)
        }
        Forked::Parent(pid) => Ok(Child {
            pid,
            pidfd: PidFd::open(pid)?,
        }),
    }
}
