//! The error type of the crate, its kinds, and the details of a panic or a dead process.

use crate::sys::{
    crash,
    pidfd::WaitStatus,
    stack::{Frames, Trace},
};
use serde::{Deserialize, Serialize};
use std::{error::Error as StdError, fmt, io, sync::Arc};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error type of this crate.
///
/// Match on [`kind`](Error::kind). [`remote_panic`](Error::remote_panic) and
/// [`worker`](Error::worker) return the details of a panic and of a dead worker. Cloning is cheap:
/// when a pool breaks, every waiting future gets an error of its own.
///
/// The message ends with the text of [`source`](StdError::source), if there is one (an
/// [`io::Error`]). Print either the message or the chain of sources: both would show that text
/// twice.
///
/// An error is serializable, so a task or a process can return a `Result` of this crate. Its source
/// is not sent.
#[derive(Clone, Serialize, Deserialize)]
pub struct Error(Box<Repr>);

#[derive(Clone, Serialize, Deserialize)]
struct Repr {
    kind: ErrorKind,
    message: String,
    detail: Detail,
    #[serde(skip)]
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

#[derive(Clone, Serialize, Deserialize)]
enum Detail {
    None,
    Panic(RemotePanic),
    Exit(WorkerExit),
}

/// The kinds of failure, for `match`.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The task panicked; see [`Error::remote_panic`].
    Panicked,
    /// The process that ran the task exited before it answered; see [`Error::worker`].
    WorkerDied,
    /// A time limit passed.
    TimedOut,
    /// The task was cancelled before it started, or killed.
    Cancelled,
    /// The pool is shut down: it accepts no more tasks, or was stopped before this task completed.
    Shutdown,
    /// No process could be started, or its initializer failed.
    StartFailed,
    /// A value could not be encoded or decoded.
    Codec,
    /// A limit is reached: a bounded queue, a pool's budget, or a manager's clients.
    Full,
    /// A queue is empty.
    Empty,
    /// A lock or semaphore is held, so a call that does not block failed.
    WouldBlock,
    /// The peer closed its end, or died.
    Disconnected,
    /// The previous holder of a lock died while holding it.
    OwnerDied,
    /// A waiter left the barrier early, or the barrier was aborted.
    BrokenBarrier,
    /// The two ends of a connection have different keys.
    AuthenticationFailed,
    /// The worker has not loaded the module that contains the function.
    UnknownFunction,
    /// An argument of the call is invalid.
    InvalidInput,
    /// The operation is unsupported on this system or in this state of the process.
    Unsupported,
    /// A system call failed; see [`source`](StdError::source).
    Io,
}

/// A panic in another process. A message longer than 24 KiB is truncated and ends in `…`.
#[non_exhaustive]
#[derive(Clone, Serialize, Deserialize)]
pub struct RemotePanic {
    /// The message of the `panic!`.
    pub message: String,
    /// The location as `file:line:column`; `None` if the task replaced the panic hook.
    pub location: Option<String>,
    stack: Trace,
}

impl RemotePanic {
    pub(crate) fn new(message: String, location: Option<String>, calls: Frames) -> Self {
        Self {
            message,
            location,
            stack: Trace::of_this_program(calls),
        }
    }

    /// Returns the backtrace of the panic in the format of `std::backtrace`: the frames of the
    /// function, at most 128.
    ///
    /// The process that panicked records addresses only. The first call resolves them in this
    /// process, which reads the debug information of the program and takes up to a second. `Debug`
    /// of the error resolves them too. A frame in a shared object that this process has not loaded
    /// shows as a file and an offset, and so does a frame of another program.
    ///
    /// ```
    /// fn panics(_: u32) {
    ///     panic!("no");
    /// }
    ///
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
    /// let error = pool.apply(panics, 7).unwrap_err();
    /// let panic = error.remote_panic().expect("a panic");
    /// assert!(panic.backtrace().contains("panics"));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[must_use]
    pub fn backtrace(&self) -> &str {
        self.stack.text()
    }
}

/// How a worker exited.
#[non_exhaustive]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerExit {
    /// The process id. The system may have reused it.
    pub pid: u32,
    /// The signal that killed the worker.
    pub signal: Option<i32>,
    /// The exit code. Both this and `signal` are `None` if the fork server was killed too.
    pub exit_code: Option<i32>,
    /// Whether a stack overflow in one of its threads raised this signal.
    ///
    /// Detected on x86-64 and 64-bit ARM, always on the main thread. Under
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) it is detected on every thread of std, if
    /// the program is a Rust program. Under the other start methods it is detected on threads that
    /// were started by code loaded before the function was called. An overflow on any other thread
    /// shows as a plain SIGSEGV.
    pub stack_overflow: bool,
}

impl WorkerExit {
    /// Describes the exit of a process. `has_overflowed` says whether the process reported a stack
    /// overflow.
    pub(crate) fn new(pid: u32, status: Option<WaitStatus>, has_overflowed: bool) -> Self {
        let signal = status.and_then(WaitStatus::signal);
        Self {
            pid,
            signal,
            exit_code: status.and_then(WaitStatus::exit_code),
            // The function may have installed a handler that survives the overflow; then another
            // signal, or none, ends the process.
            stack_overflow: has_overflowed && signal.is_some_and(crash::may_be_of_overflow),
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Repr {
            kind,
            message: message.into(),
            detail: Detail::None,
            source: None,
        }))
    }

    /// Creates the error of a system call that failed during `what`.
    pub(crate) fn io(what: impl fmt::Display, source: io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("{what}: {source}")).with_source(source)
    }

    pub(crate) fn panicked(panic: RemotePanic) -> Self {
        let mut error = Self::new(ErrorKind::Panicked, String::new());
        error.0.detail = Detail::Panic(panic);
        error
    }

    pub(crate) fn worker_died(exit: WorkerExit) -> Self {
        let mut error = Self::new(ErrorKind::WorkerDied, String::new());
        error.0.detail = Detail::Exit(exit);
        error
    }

    /// Like [`worker_died`](Self::worker_died), for a [`Process`](crate::Process).
    pub(crate) fn process_died(exit: WorkerExit) -> Self {
        let message = format!("process {} {exit} before its function returned", exit.pid);
        let mut error = Self::new(ErrorKind::WorkerDied, message);
        error.0.detail = Detail::Exit(exit);
        error
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Replaces the message.
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Returns the kind of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the panic of the task, for [`ErrorKind::Panicked`].
    #[must_use]
    pub fn remote_panic(&self) -> Option<&RemotePanic> {
        match &self.0.detail {
            Detail::Panic(panic) => Some(panic),
            _ => None,
        }
    }

    /// Returns how the worker exited, for [`ErrorKind::WorkerDied`].
    #[must_use]
    pub fn worker(&self) -> Option<&WorkerExit> {
        match &self.0.detail {
            Detail::Exit(exit) => Some(exit),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.detail {
            Detail::None => f.write_str(&self.0.message),
            _ if !self.0.message.is_empty() => f.write_str(&self.0.message),
            Detail::Panic(panic) => write!(f, "the function panicked{panic}"),
            Detail::Exit(exit) => write!(f, "worker {} {exit} before it answered", exit.pid),
        }
    }
}

impl fmt::Display for RemotePanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, " at {location}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Debug for RemotePanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemotePanic")
            .field("message", &self.message)
            .field("location", &self.location)
            .field("backtrace", &self.backtrace())
            .finish()
    }
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.signal, self.exit_code) {
            (Some(signal), _) if self.stack_overflow => {
                write!(
                    f,
                    "was killed by {} on a stack overflow",
                    SignalName(signal)
                )
            }
            (Some(signal), _) => write!(f, "was killed by {}", SignalName(signal)),
            (None, Some(code)) => write!(f, "exited with code {code}"),
            (None, None) => f.write_str("exited with unknown status"),
        }
    }
}

/// Displays as `SIGKILL (signal 9)`. The numbers hold on every Linux architecture except MIPS,
/// Alpha and SPARC.
struct SignalName(i32);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "SIGHUP",
            2 => "SIGINT",
            3 => "SIGQUIT",
            4 => "SIGILL",
            5 => "SIGTRAP",
            6 => "SIGABRT",
            7 => "SIGBUS",
            8 => "SIGFPE",
            9 => "SIGKILL",
            11 => "SIGSEGV",
            13 => "SIGPIPE",
            14 => "SIGALRM",
            15 => "SIGTERM",
            24 => "SIGXCPU",
            25 => "SIGXFSZ",
            31 => "SIGSYS",
            _ => return write!(f, "signal {}", self.0),
        };
        write!(f, "{name} (signal {})", self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind);
        debug.field("message", &self.to_string());
        if let Detail::Panic(panic) = &self.0.detail {
            debug.field("backtrace", &panic.backtrace());
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.source.as_deref();
        source.map(|source| source as _)
    }
}
