//! `Process`: runs one function in a process of its own.

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

/// A handle to a process that runs one function.
///
/// Created by [`start`](Self::start), or with settings by [`builder`](Self::builder). The handle
/// can be shared between threads.
///
/// The child never waits for its parent: the return value stays in a socket until
/// [`result`](Self::result) takes it. A value of more than 64 KiB stays in shared memory, which
/// uses one descriptor of each process. If the function panics, the process prints the message and
/// exits with code 101, and `result` returns [`ErrorKind::Panicked`].
///
/// Dropping the handle waits for the process. A daemon gets SIGTERM first, and SIGKILL after 2 s.
/// After [`detach`](Self::detach) neither happens. A daemon dies with the program that started it,
/// even if that program is killed. Any other process keeps running until its function returns.
///
/// After the function returns, the process flushes standard output and exits. Threads that the
/// function started are killed, and exit handlers do not run. Under `ForkServer` and `Spawn`, child
/// processes that the function started and did not wait for are killed, except processes of this
/// crate that are not daemons. Under `Fork` all of them keep running.
///
/// Receive what a child sends before dropping its handle. If the child is blocked writing to a pipe
/// whose receiver this thread holds, dropping the handle deadlocks.
///
/// ```
/// use procpool::Process;
///
/// let process = Process::start(|x| x * x, 7u64)?;
/// assert_eq!(process.result()?, 49);
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// A process class is a serializable struct with a method:
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
/// A closure must not capture anything: pass its data as the argument.
///
/// ```compile_fail,E0308
/// let factor = 3;
/// procpool::Process::start(|x: u64| x * factor, 7);
/// ```
///
/// Only data can be passed: a `File` does not compile. Pass its path, its contents, or the open
/// file as a [`Descriptor`](crate::Descriptor).
///
/// ```compile_fail,E0277
/// let file = std::fs::File::open("/etc/hostname")?;
/// procpool::Process::start(|file: std::fs::File| drop(file), file);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// serde treats a `std::sync::Mutex` as data: it is locked while it is encoded, and the child gets
/// a copy of the contents. The two locks are independent.
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
    /// `None` once detached.
    child: Option<Arc<ChildProcess>>,
    result: PhantomData<fn() -> R>,
}

impl<R: Wire> Process<R> {
    /// Starts `f(arg)` in a process of its own, by the default [start method](crate::start_method).
    ///
    /// Returns when the process exists, and does not wait for `f`. Handles in `arg` are in flight
    /// until the process receives them; the system limits those in flight to the number of
    /// descriptors this process may have.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`] if the argument cannot be encoded. [`ErrorKind::StartFailed`] if the
    /// system cannot create a process. [`ErrorKind::Unsupported`] under
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) if this process has other threads, or holds
    /// or has leaked a guard of a [`Value`](crate::Value) or an [`Array`](crate::Array).
    pub fn start<A: Wire>(f: fn(A) -> R, arg: A) -> Result<Self> {
        Self::builder(f, arg).start()
    }

    /// Like [`start`](Self::start), but returns a builder for the settings of the process.
    pub fn builder<A: Wire>(f: fn(A) -> R, arg: A) -> ProcessBuilder<A, R> {
        ProcessBuilder::new(f, arg)
    }

    /// Blocks until the process exits, and returns the value of its function.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Panicked`] if the function panicked. [`ErrorKind::WorkerDied`] if the process
    /// exited before the function returned, also by `exit(0)`. [`ErrorKind::Codec`] if the argument
    /// or the result could not be encoded or decoded. [`ErrorKind::StartFailed`] if the process
    /// could not be set up, for example because it had too many descriptors for its handles.
    /// [`ErrorKind::Unsupported`] in a fork of the process that started it.
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
        let codec_error = |reason: String| {
            let message = format!("failed to decode the result of the process: {reason}");
            Error::new(ErrorKind::Codec, message)
        };
        let decoded =
            value.read(|mut bytes| handle::provide(handles, || codec::decode(&mut bytes)));
        decoded.and_then(|value| value).map_err(codec_error)
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

    /// Returns the name: by default `Process-1`, `Process-2` and so on, or `Process-1:1` for a
    /// child of `Process-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.child().name()
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().pid()
    }

    /// Whether the process dies with the program that started it.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.child().is_daemon
    }

    /// Whether the process is running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.child().is_alive()
    }

    /// Returns the exit code, or the negative number of the signal that killed the process.
    ///
    /// Returns `None` while the process runs, and if other code of this program reaped it. May
    /// return `None` in a fork of the process that started it.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        if self.is_alive() {
            return None;
        }
        let status = self.child().status();
        let signal = || status.signal().map(|signal| -signal);
        status.code().or_else(signal)
    }

    /// Blocks until the process exits. Can be called repeatedly.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the system call that waits fails.
    pub fn join(&self) -> Result<ExitStatus> {
        let child = self.child();
        child.wait(None)?;
        Ok(child.status())
    }

    /// Like [`join`](Self::join), but returns `None` if the process still runs after `limit`.
    ///
    /// # Errors
    ///
    /// Like `join`.
    pub fn join_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        let child = self.child();
        let ended = child.wait(Instant::now().checked_add(limit))?;
        Ok(ended.then(|| child.status()))
    }

    /// Sends SIGTERM to the process. Does nothing if it has exited.
    ///
    /// The process exits unless its function handles the signal. A SIGTERM from another sender has
    /// the same effect, for example one to the process group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] in a fork of the process that started it. [`ErrorKind::Io`] if
    /// neither this process nor the fork server may signal the process, for example in a sandbox.
    pub fn terminate(&self) -> Result<()> {
        self.check_owner()?;
        self.child().terminate()
    }

    /// Sends SIGKILL to the process. Does nothing if it has exited.
    ///
    /// # Errors
    ///
    /// Like [`terminate`](Self::terminate).
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

    /// Reaps a process that has exited. Can be called repeatedly.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the process is running.
    pub fn close(&self) -> Result<()> {
        if self.is_alive() {
            let message = "the process still runs: join it before it is closed";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.child().status();
        Ok(())
    }

    /// Returns a descriptor that becomes readable when the process exits, for
    /// [`wait_ready`](crate::wait_ready), `poll` or `epoll`.
    #[must_use]
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.child().as_fd()
    }

    /// Detaches the process: dropping the handle neither waits for it nor stops it. A daemon still
    /// dies with the program.
    pub fn detach(mut self) {
        if let Some(child) = self.child.take() {
            children::detach(child);
        }
    }
}

impl<R> Drop for Process<R> {
    /// Waits for the process, and stops a daemon first. Does nothing in a fork of the process that
    /// started it.
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
