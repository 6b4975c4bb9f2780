//! `Process`: one function in a process of its own.

use super::{
    builder::ProcessBuilder,
    child::ChildProcess,
    children,
    exit_status::ExitStatus,
    result_channel::{ChildResult, ResultPayload},
};
use crate::error::{Error, ErrorKind, Result, WorkerExit};
use crate::wire::{
    Wire, codec,
    handle::{self, Attached},
};
use std::{
    fmt,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// A function that runs in a process of its own.
///
/// Made by [`fork_children`](Self::fork_children) or with settings by [`builder`](Self::builder).
/// The handle may be shared between threads. What the function returns waits until
/// [`result`](Self::result) takes it, whatever its size: the child never waits for its parent. More
/// than 64 KiB wait in shared memory, which takes a descriptor of either. If the function panics,
/// its message is printed, the process ends with code 101, and `result` is [`ErrorKind::Panicked`].
///
/// Dropping the handle waits for the process; a daemon gets SIGTERM, and SIGKILL after 2 s.
/// [`detach`](Self::detach) does neither. A daemon ends with the program that started it, however
/// that ends; any other process runs on to its end.
///
/// When the function has returned, standard output is flushed and the process ends: threads that it
/// has started are cut off, and no exit handler runs. Under `ForkServer` and `Spawn` the programs
/// that it has started and not waited for are killed then, but for processes of this crate that are
/// no daemons; under `Fork` they live on.
///
/// Take what a child sends before you drop its handle: one that waits for room in a pipe whose
/// receiver the dropping thread holds never ends, and so neither does the drop.
///
/// ```
/// use procpool::Process;
///
/// let process = Process::start(|x| x * x, 7u64)?;
/// assert_eq!(process.result()?, 49);
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// A process class is a struct that can be sent, and its method:
///
/// ```
/// use procpool::Process;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Crawler {
///     url: String,
/// }
///
/// impl Crawler {
///     fn run(self) -> usize {
///         self.url.len()
///     }
/// }
///
/// let crawler = Crawler { url: "https://example.org".to_owned() };
/// assert_eq!(Process::start(Crawler::run, crawler)?.result()?, 19);
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// A closure must not capture anything: what it needs is its argument.
///
/// ```compile_fail,E0308
/// let factor = 3;
/// procpool::Process::start(|x: u64| x * factor, 7);
/// ```
///
/// What is no data cannot be passed, and does not compile: a file, for one. Its path can, what was
/// read from it, and the open file itself as a [`Descriptor`](crate::Descriptor).
///
/// ```compile_fail,E0277
/// let file = std::fs::File::open("/etc/hostname")?;
/// procpool::Process::start(|file: std::fs::File| drop(file), file);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A `std::sync::Mutex` is data, to serde: it is locked while it is encoded, and travels as a copy
/// of what it holds, with a lock of its own that keeps nobody out in other processes.
///
/// ```
/// use procpool::Process;
/// use std::sync::Mutex;
///
/// let add = |counter: Mutex<u32>| counter.into_inner().ok().map(|it| it + 1);
/// let [a, b] = [Process::start(add, Mutex::new(0))?, Process::start(add, Mutex::new(0))?];
/// assert_eq!((a.result()?, b.result()?), (Some(1), Some(1)));
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use = "dropping a process waits for it"]
pub struct Process<R> {
    /// None once detached.
    child: Option<Arc<ChildProcess>>,
    result: PhantomData<fn() -> R>,
}

impl<R: Wire> Process<R> {
    /// Starts `f(arg)` in a process of its own, by the [start method](crate::start_method) that is
    /// set. The handles in `arg` are on their way until the process takes them, of which the system
    /// allows as many as this process may have descriptors.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`] if the argument cannot be encoded, [`ErrorKind::StartFailed`] if the
    /// system gives no process, [`ErrorKind::Unsupported`] for
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) with threads running, or with a guard of a
    /// [`Value`](crate::Value) or an [`Array`](crate::Array) that is held or leaked.
    pub fn start<A: Wire>(f: fn(A) -> R, arg: A) -> Result<Self> {
        Self::builder(f, arg).start()
    }

    /// As [`fork_children`](Self::fork_children), with settings.
    pub fn builder<A: Wire>(f: fn(A) -> R, arg: A) -> ProcessBuilder<A, R> {
        ProcessBuilder::new(f, arg)
    }

    /// Waits for the end of the process, and gives what its function returned.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Panicked`] if the function panicked, [`ErrorKind::WorkerDied`] if the process
    /// ended before it returned, be it by `exit(0)`, [`ErrorKind::Codec`] if argument or result
    /// could not be encoded or decoded, [`ErrorKind::StartFailed`] if the process could not be set
    /// up: it had no room for its handles, say. [`ErrorKind::Unsupported`] in a copy of the process
    /// that started it.
    pub fn result(self) -> Result<R> {
        self.check_owner()?;
        let status = self.join()?;
        let child = self.child();
        let (result, handles) = child.result.take();
        match result {
            ChildResult::Value(value) => Self::decode(value, handles),
            ChildResult::Error(error) => Err(error.into_error()),
            ChildResult::Missing => Err(Error::process_died(WorkerExit::new(
                child.pid(),
                status.0,
                child.result.has_overflowed(),
            ))),
        }
    }

    fn decode(value: ResultPayload, handles: Vec<Attached>) -> Result<R> {
        let fail = |reason: String| {
            let message = format!("failed to decode the result of the process: {reason}");
            Error::new(ErrorKind::Codec, message)
        };
        let decoded =
            value.read(|mut bytes| handle::provide(handles, || codec::decode(&mut bytes)));
        decoded.and_then(|it| it).map_err(fail)
    }
}

impl<R> Process<R> {
    pub(super) fn new(child: ChildProcess) -> Self {
        let child = Arc::new(child);
        children::add(&child);
        Self {
            child: Some(child),
            result: PhantomData,
        }
    }

    fn child(&self) -> &ChildProcess {
        self.child
            .as_ref()
            .expect("only `detach` takes it, with the handle")
    }

    /// Its name: `Process-1`, `Process-2` and so on, `Process-1:1` for a child of the first, unless
    /// it was given one.
    #[must_use]
    pub fn name(&self) -> &str {
        self.child().name()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().pid()
    }

    /// Whether it ends with the program that started it.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.child().is_daemon
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.child().is_alive()
    }

    /// None while it runs; then the code it gave to `exit`, or the negative number of the signal
    /// that killed it. None, too, if other code of this program took its status, and it may be so
    /// in a copy of the process that started it.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        if self.is_alive() {
            return None;
        }
        let status = self.child().status();
        status.code().or_else(|| status.signal().map(|it| -it))
    }

    /// Waits for its end. Can be repeated.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if it cannot be waited for.
    pub fn join(&self) -> Result<ExitStatus> {
        let child = self.child();
        child.wait(None)?;
        Ok(child.status())
    }

    /// As [`join`](Self::join), for at most `limit`: none if it still runs then.
    ///
    /// # Errors
    ///
    /// As `join`.
    pub fn join_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        let child = self.child();
        let ended = child.wait(Instant::now().checked_add(limit))?;
        Ok(ended.then(|| child.status()))
    }

    /// Sends SIGTERM; nothing happens to a process that has ended.
    ///
    /// The process ends unless its function handles the signal. A SIGTERM from elsewhere, to the
    /// whole process group say, does the same.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] in a copy of the process that started it. [`ErrorKind::Io`] if
    /// the process may not be signalled, by this process or the fork server, because a sandbox
    /// forbids it say.
    pub fn terminate(&self) -> Result<()> {
        self.check_owner()?;
        self.child().terminate()
    }

    /// Sends SIGKILL; nothing happens to a process that has ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> Result<()> {
        self.check_owner()?;
        self.child().kill()
    }

    fn check_owner(&self) -> Result<()> {
        if !self.child().is_foreign() {
            return Ok(());
        }
        let message = "the process belongs to the process that this one was forked from";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Takes the status of a process that has ended, so that nothing of it is left. Can be
    /// repeated.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] while it runs.
    pub fn close(&self) -> Result<()> {
        if self.is_alive() {
            let message = "the process still runs: join it before it is closed";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.child().status();
        Ok(())
    }

    /// A descriptor that is readable when the process has ended, for
    /// [`wait_ready`](crate::wait_ready), `poll` or `epoll`.
    #[must_use]
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.child().as_fd()
    }

    /// Lets go of the process: it is neither waited for nor stopped. A daemon still ends with the
    /// program.
    pub fn detach(mut self) {
        if let Some(child) = self.child.take() {
            children::detach(child);
        }
    }
}

impl<R> Drop for Process<R> {
    /// Waits for the process; a daemon is stopped first. In a copy of the process that started it
    /// nothing happens.
    fn drop(&mut self) {
        if let Some(child) = self.child.take()
            && !child.is_foreign()
        {
            child.stop_or_join();
        }
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("daemon", &self.daemon())
            .field("exit_code", &self.exit_code())
            .finish_non_exhaustive()
    }
}
