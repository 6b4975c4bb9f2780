//! Where a pool's workers come from: one place for all of them, replacements too.

use super::{
    Child, Flags, Start, directory,
    forkserver::{self, Template},
};
use crate::error::Result;
use crate::process::{function::ChildMain, method::StartMethod};
use crate::sys::child::{PidFd, Threads};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// A source of workers.
#[derive(Debug)]
pub(crate) struct Origin {
    method: Method,
    /// Where workers start: a later change of this process's directory concerns only pools that are built later.
    directory: OwnedFd,
}

#[derive(Debug)]
enum Method {
    ForkServer,
    /// The fork server, whose children execute the program again.
    Spawn,
    /// A copy of this process, made when the pool was built: this one may have threads later on.
    Template(Template),
}

impl Origin {
    /// Prepares for workers by this method.
    pub(crate) fn new(method: StartMethod, threads: Threads) -> Result<Self> {
        let method = match method {
            StartMethod::ForkServer => Method::ForkServer,
            StartMethod::Spawn => Method::Spawn,
            StartMethod::Fork => Method::Template(Template::new(threads)?),
        };
        // Behind the template, which would have it, too.
        let directory = directory()?;
        Ok(Self { method, directory })
    }

    /// Starts a worker.
    pub(crate) fn start(&self, main: ChildMain, passed: &[BorrowedFd<'_>]) -> Result<Child> {
        let flags = Flags {
            is_daemon: true,
            executes: matches!(self.method, Method::Spawn),
        };
        let start = Start {
            main,
            passed,
            bytes: &[],
            flags,
        };
        let directory = self.directory.as_fd();
        match &self.method {
            Method::ForkServer | Method::Spawn => forkserver::start(&start, directory),
            Method::Template(template) => template.start(&start, directory),
        }
    }

    /// Sends a signal to a worker, for an owner that may not send it itself. Blocks until the
    /// process that has forked the worker has sent it, or has failed to.
    pub(crate) fn signal(&self, pid: u32, pidfd: &PidFd, signal: i32) -> io::Result<()> {
        match &self.method {
            Method::ForkServer | Method::Spawn => forkserver::signal(pid, pidfd, signal),
            Method::Template(template) => template.signal(pid, pidfd, signal),
        }
    }
}
