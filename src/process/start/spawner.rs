//! `Spawner`: starts the workers of a pool, replacements too.

use super::{
    Child, SpawnArgs, SpawnFlags,
    fork_server::{Template, client},
    open_working_directory,
};
use crate::error::Result;
use crate::process::{function::ChildMain, start_method::StartMethod};
use crate::sys::{child::Threads, pidfd::PidFd};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Starts the workers of one pool.
#[derive(Debug)]
pub(crate) struct Spawner {
    method: SpawnMethod,
    /// The working directory of workers. Opened once, so a later `chdir` of this process affects
    /// only pools that are built after it.
    directory: OwnedFd,
}

#[derive(Debug)]
enum SpawnMethod {
    ForkServer,
    /// The fork server; its children execute the program again.
    Spawn,
    /// A fork of this process, made when the pool was built, because this process may have threads
    /// later.
    Template(Template),
}

impl Spawner {
    /// Prepares to start workers by this method.
    pub(crate) fn new(method: StartMethod, threads: Threads) -> Result<Self> {
        let method = match method {
            StartMethod::ForkServer => SpawnMethod::ForkServer,
            StartMethod::Spawn => SpawnMethod::Spawn,
            StartMethod::Fork => SpawnMethod::Template(Template::new(threads)?),
        };
        // After the template, which would inherit it.
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

    /// Sends a signal to a worker through the process that forked it, for an owner that may not
    /// send it itself. Blocks until the signal is sent or has failed.
    pub(crate) fn signal(&self, pid: u32, pidfd: &PidFd, signal: i32) -> io::Result<()> {
        match &self.method {
            SpawnMethod::ForkServer | SpawnMethod::Spawn => client::signal(pid, pidfd, signal),
            SpawnMethod::Template(template) => template.signal(pid, pidfd, signal),
        }
    }
}
