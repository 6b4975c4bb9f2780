//! `Template`: a fork server that is a copy of its owner. The workers of one pool under
//! `StartMethod::Fork` are forked from it.

use super::{
    client::{END_LIMIT, FORK_LIMIT, ForkServer, SpawnRequest, StartError},
    server::ForkServerProcess,
};
use crate::error::{Error, ErrorKind, Result};
use crate::process::{
    at_exit::{self, StopAtExit},
    child_exit::EX_SOFTWARE,
    start::{Child, SpawnArgs, fork, start_error::start_error},
};
use crate::sys::{
    child::{self, Threads},
    fd,
    pidfd::PidFd,
    signal::{self, IgnoredSignals},
    socket,
};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    panic,
    sync::Arc,
};

/// A fork server that is a copy of this process when the pool was built. It cannot be replaced,
/// because this process may have threads later.
#[derive(Debug)]
pub(crate) struct Template {
    pid: u32,
    server: Arc<Mutex<ForkServer>>,
}

impl Template {
    pub(crate) fn new(threads: Threads) -> Result<Self> {
        let failed = |error| start_error("failed to fork a template for workers", error);
        let (control, theirs) = socket::pair().map_err(failed)?;
        let owner = PidFd::open(std::process::id()).map_err(failed)?;
        // The copy closes the owner's end, so that its children do not inherit it.
        let control = Cell::new(Some(control));
        let copy = fork::fork_self(threads, || {
            drop(control.take());
            run_template(theirs, owner)
        })?;
        let control = control.take().expect("only the copy has taken it");
        let server = ForkServer::wait_for_ready(control)
            // If the copy cannot be killed, it ends with this process.
            .inspect_err(|_| drop(copy.pidfd.kill_and_reap()))
            .map_err(failed)?;
        let server = Arc::new(Mutex::new(server));
        at_exit::register(&server);
        Ok(Self {
            pid: copy.pid,
            server,
        })
    }

    /// Starts a child of the template in `directory`.
    pub(in crate::process::start) fn start(
        &self,
        start: &SpawnArgs<'_>,
        directory: BorrowedFd<'_>,
    ) -> Result<Child> {
        let request = SpawnRequest::new(start, directory)?;
        let started = self.server.lock().start(&request, FORK_LIMIT);
        started.map_err(|error| match error {
            StartError::ServerGone => self.ended_error(),
            StartError::Failed(_) => error.into_error(),
        })
    }

    /// Sends a signal to a child of the template, for an owner that may not send it itself.
    pub(in crate::process::start) fn signal(
        &self,
        pid: u32,
        pidfd: &PidFd,
        signal: i32,
    ) -> io::Result<()> {
        self.server.lock().signal(pid, pidfd, signal)
    }

    fn ended_error(&self) -> Error {
        let message = format!(
            "failed to fork a worker: process {}, the template from which all workers of this pool by StartMethod::Fork \
             are forked, has ended or does not answer; build the pool anew",
            self.pid
        );
        Error::new(ErrorKind::StartFailed, message)
    }
}

impl StopAtExit for Mutex<ForkServer> {
    fn stop(&self) {
        if let Some(server) = self.try_lock_for(END_LIMIT) {
            server.shut_down();
        }
    }
}

impl Drop for Template {
    /// Shuts the template down instead of killing it, so that it writes its profile and kills the
    /// orphans of its workers.
    fn drop(&mut self) {
        self.server.lock().shut_down();
    }
}

/// Serves as a template in a new fork of the owner, then ends the process.
fn run_template(control: OwnedFd, owner: PidFd) -> ! {
    let served = panic::catch_unwind(move || -> std::io::Result<()> {
        let ignored = IgnoredSignals::now();
        signal::reset(ignored);
        // The children of the template inherit its standard streams.
        fd::fill_stdio()?;
        ForkServerProcess::template(control, owner)?.serve(ignored)
    });
    let is_good = matches!(served, Ok(Ok(())));
    child::exit_now(if is_good { 0 } else { EX_SOFTWARE })
}
