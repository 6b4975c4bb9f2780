//! `StartMethod::Fork`: a copy of this process, which inherits its memory.
//!
//! Requires a process with one thread. In the copy of any other process, threads that do not exist
//! there may hold locks, for example the allocator's. The threads of this crate are stopped during
//! the fork. Also requires that no guard gives references to shared memory, because the copy would
//! share them.

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
    child::{self, Forked, Threads},
    parent_death,
    pidfd::PidFd,
    socket, threads,
};
use std::{
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Forks this process; the child runs the main function of `start`.
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
        // 1. The fork returns here. 2. The parent dies. 3. The parent-death signal is set too late
        //    to be sent. `ends_with` detects that, and the daemon exits.
        if is_daemon && !ends_with(parent) {
            child::exit_now(0);
        }
        child_exit::run_and_exit(main, args)
    })
}

/// Forks this process. The copy calls `run` and exits.
pub(crate) fn fork_self(threads: Threads, run: impl FnOnce()) -> Result<Child> {
    let _paused = match threads {
        Threads::One => Some(ready()?),
        Threads::Any => None,
    };
    // Both processes would write the contents of the buffers.
    child_exit::flush_output();
    let (control, theirs) = socket::pair().map_err(fork_error)?;
    match child::fork(threads).map_err(fork_error)? {
        Forked::Child => {
            drop(control);
            // A panic must not unwind into the parent's frames, which this process inherited.
            let caught = catch_unwind(AssertUnwindSafe(|| {
                if wait_for_go(theirs) {
                    run();
                    at_exit::stop_children();
                }
            }));
            child::exit_now(if caught.is_ok() { 0 } else { 101 })
        }
        Forked::Parent(pid) => {
            // Frees a descriptor for the pidfd.
            drop(theirs);
            adopt_child(pid, &control).map_err(fork_error)
        }
    }
}

/// The message that tells a copy to run.
const GO: [u8; 1] = [1];

/// Blocks in a copy until the parent has opened its pidfd. Returns false if the copy must exit
/// without running.
fn wait_for_go(parent: OwnedFd) -> bool {
    let mut message = [0];
    socket::receive(&parent, &mut message).is_ok() && message == GO
}

/// Opens the pidfd of a copy and tells the copy to run. Reaps the copy if that fails.
fn adopt_child(pid: u32, copy: &OwnedFd) -> io::Result<Child> {
    // The copy waits for `GO`. Without that, this race would open the pidfd of a stranger:
    // 1. The copy exits before `PidFd::open`. 2. The program ignores SIGCHLD or reaps all of its
    //    children, so the pid is free. 3. Another process gets the pid.
    let pidfd = PidFd::open(pid);
    let message = if pidfd.is_ok() { GO } else { [0] };
    // Fails only if the copy was killed, which its pidfd shows.
    let _ = socket::send(copy, &message, &[]);
    if pidfd.is_err() {
        child::reap(pid);
    }
    Ok(Child { pid, pidfd: pidfd? })
}

fn fork_error(error: io::Error) -> Error {
    start_error("failed to fork", error)
}

/// Checks that this process can be forked, and stops the threads of this crate. The calling thread
/// is the only one afterwards, so no guard can be taken before the fork.
fn ready() -> Result<PauseGuard> {
    let paused = ensure_single_threaded()?;
    without_guards().map(|()| paused)
}

/// Fails if a guard gives references to shared memory.
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

/// Stops the threads of this crate. Fails if other threads remain.
fn ensure_single_threaded() -> Result<PauseGuard> {
    let paused = background_threads::pause();
    let threads = threads::count()
        .map_err(|error| start_error("failed to count this process's threads", error))?;
    if threads == 1 {
        return Ok(paused);
    }
    let message = format!(
        "this process has {threads} threads, and a fork copies only one of them: use StartMethod::ForkServer or \
         StartMethod::Spawn, or fork before the first thread is started"
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}
