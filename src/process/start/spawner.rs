//! Where a pool's workers come from: one place for all of them, replacements too.

use super::{
    Child, SpawnArgs, SpawnFlags,
    fork_server::{Template, client},
    open_working_directory,
};
use crate::error::Result;
use crate::process::{function::ChildMain, start_method::StartMethod};
use crate::sys::child::{PidFd, Threads};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// A source of workers.
#[derive(Debug)]
pub(crate) struct Spawner {
    method: SpawnMethod,
    /// Where workers start: a later change of this process's directory concerns only pools that are
    /// built later.
    directory: OwnedFd,
}

#[derive(Debug)]
enum SpawnMethod {
    ForkServer,
    /// The fork server, whose children execute the program again.
    Spawn,
    /// A copy of this process, made when the pool was built: this one may have threads later on.
    Template(Template),
}

impl Spawner {
    /// Prepares for workers by this method.
    pub(crate) fn new(method: StartMethod, threads: Threads) -> Result<Self> {
        let method = match method {
            StartMethod::ForkServer => SpawnMethod::ForkServer,
            StartMethod::Spawn => SpawnMethod::Spawn,
            StartMethod::Fork => SpawnMethod::Template(Template::new(threads)?),
        };
        // Behind the template, which would have it, too.
        let directory = open_working_directory()?;
        Ok(Self { method, directory })
    }

    /// Starts a worker.
    pub(crate) fn start(&self, main: ChildMain, passed: &[BorrowedFd<'_>]) -> Result<Child> {
        let flags = SpawnFlags {
            is_daemon: true,
            executes: matches!(self.method, SpawnMethod::Spawn),
        };
        let start = SpawnArgs {
            main,
            passed,
            bytes: &[],
            flags,
        };
        let directory = self.directory.as_fd();
        match &self.method {
            SpawnMethod::ForkServer | SpawnMethod::Spawn => client::start(&start, directory),
            SpawnMethod::Template(template) => template.start(&start, directory),
        }
    }

    /// Sends a signal to a worker, for an owner that may not send it itself. Blocks until the
    /// process that has forked the worker has sent it, or has failed to.
    pub(crate) fn signal(&self, pid: u32, pidfd: &PidFd, signal: i32) -> io::Result<()> {
        match &self.method {
            SpawnMethod::ForkServer | SpawnMethod::Spawn => client::signal(pid, pidfd, signal),
            SpawnMethod::Template(template) => template.signal(pid, pidfd, signal),
        }
    }
}
