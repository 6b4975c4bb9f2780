//! A plain copy of this process: it finds everything as it was, and shares nothing afterwards.
//!
//! Only of a process with one thread. In the copy of any other, locks may be held by threads that
//! do not exist there, the allocator's among them. This crate's own threads rest meanwhile. And
//! only of a process without references to shared memory that a lock protects, which the copy would
//! have, too.

use crate::error::{Error, ErrorKind, Result};
use crate::process::{
    at_exit,
    background_threads::{self, PauseGuard},
    child_exit,
    function::ChildArgs,
    start::{Child, SpawnArgs, start_error::start_error},
};
use crate::shm;
use crate::sys::{
    child::{self, Forked, PidFd, Threads},
    parent_death, socket, threads,
};
use std::{
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Starts a child that is a copy of this process.
pub(crate) fn start(start: &SpawnArgs<'_>, threads: Threads) -> Result<Child> {
    let passed: io::Result<Vec<OwnedFd>> = start
        .passed
        .iter()
        .map(|it| it.try_clone_to_owned())
        .collect();
    let mut args = ChildArgs {
        fds: passed.map_err(fork_error)?,
        bytes: start.bytes.to_vec(),
    };
    start.flags.add_run_on_mark(&mut args).map_err(fork_error)?;
    let (main, is_daemon) = (start.main, start.flags.is_daemon);
    let parent = std::process::id();
    let ends_with = match threads {
        Threads::One => child::ends_with,
        Threads::Any => parent_death::ends_with_process,
    };
    fork_self(threads, || {
        // After the parent's death a daemon has nothing to do.
        if is_daemon && !ends_with(parent) {
            child::exit_now(0);
        }
        child_exit::run_and_exit(main, args)
    })
}

/// Copies this process; the copy runs `catch`, which ends it.
pub(crate) fn fork_self(threads: Threads, run: impl FnOnce()) -> Result<Child> {
    let _paused = match threads {
        Threads::One => Some(ready()?),
        Threads::Any => None,
    };
    // What is in the buffers would be written by both.
    child_exit::flush_output();
    let (control, theirs) = socket::pair().map_err(fork_error)?;
    match child::fork(threads).map_err(fork_error)? {
        Forked::Child => {
            drop(control);
            // A panic must not leave into the frames of the parent's copy.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                if wait_for_go(theirs) {
                    run();
                    at_exit::stop_children();
                }
            }));
            child::exit_now(if outcome.is_ok() { 0 } else { 101 })
        }
        Forked::Parent(pid) => {
            // It makes room for the pidfd.
            drop(theirs);
            adopt_child(pid, &control).map_err(fork_error)
        }
    }
}

/// What the parent says to a copy that may run.
const GO: [u8; 1] = [1];

/// Waits in a copy until the parent has it: one that had ended by then might be gone without a
/// trace, in a program that ignores or takes the ends of its children, and its number be another's.
fn wait_for_go(parent: OwnedFd) -> bool {
    let mut message = [0];
    socket::receive(&parent, &mut message).is_ok() && message == GO
}

/// Takes hold of a copy, and lets it run; one that nobody could watch ends without.
fn adopt_child(pid: u32, copy: &OwnedFd) -> io::Result<Child> {
    let pidfd = PidFd::open(pid);
    let message = if pidfd.is_ok() { GO } else { [0] };
    // It fails only for a copy that was killed, as can be seen by its pidfd.
    let _ = socket::send(copy, &message, &[]);
    if pidfd.is_err() {
        child::reap(pid);
    }
    Ok(Child { pid, pidfd: pidfd? })
}

fn fork_error(error: io::Error) -> Error {
    start_error("failed to fork", error)
}

/// Has the calling thread be the only one. No other can take a guard between this and the fork.
fn ready() -> Result<PauseGuard> {
    let paused = ensure_single_threaded()?;
    without_guards().map(|()| paused)
}

fn without_guards() -> Result<()> {
    let Some(guards) = shm::guards() else {
        return Ok(());
    };
    let message = format!(
        "this process holds or has leaked {guards}, and a fork copies the references to shared memory \
         with it: drop the guard first, or use StartMethod::ForkServer or StartMethod::Spawn"
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}

/// Has the calling thread be the only one, if the others are our own.
fn ensure_single_threaded() -> Result<PauseGuard> {
    let paused = background_threads::pause();
    let threads = threads::count();
    let threads =
        threads.map_err(|it| start_error("failed to count this process's threads", it))?;
    if threads == 1 {
        return Ok(paused);
    }
    let message = format!(
        "this process has {threads} threads, and a fork copies only one of them: use StartMethod::ForkServer or \
         StartMethod::Spawn, or fork before the first thread is started"
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}
