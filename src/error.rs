//! The crate's one error type, its kinds, and what it carries of a panic or a death.

use crate::sys::{
    child::WaitStatus,
    crash,
    stack::{Frames, Trace},
};
use serde::{Deserialize, Serialize};
use std::{error::Error as StdError, fmt, io, sync::Arc};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the words of the caller's own call.
///
/// Sort by [`kind`](Error::kind); a panic in a task and a worker's death carry their details as
/// data. Cloning is cheap: one broken pool gives every waiting future an error of its own.
///
/// The message is complete: it ends with the text of [`source`](StdError::source), which is there
/// as data (an [`io::Error`]). Print the message and not the chain, or that text appears twice.
///
/// An error is itself a value that can be sent, without its source: a task or a process may return
/// a `Result` of this crate's.
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

/// The sorts of failure, for `match`.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The task panicked; see [`Error::remote_panic`].
    Panicked,
    /// The process that ran the task ended before it answered; see [`Error::worker`].
    WorkerDied,
    /// A time limit passed.
    TimedOut,
    /// The task was cancelled before it started, or killed.
    Cancelled,
    /// The pool takes no more tasks, or was stopped before this one was done.
    Shutdown,
    /// No process could be started, or its initializer failed.
    StartFailed,
    /// A value could not be encoded or decoded.
    Codec,
    /// There is no room: in a bounded queue, a pool's budget, among a manager's clients.
    Full,
    /// A queue has no item.
    Empty,
    /// A lock or semaphore is taken.
    WouldBlock,
    /// The other end is gone.
    Disconnected,
    /// The previous holder of a lock died while it held it.
    OwnerDied,
    /// A party of the barrier gave up, or it was aborted.
    BrokenBarrier,
    /// The two ends do not have the same key.
    AuthenticationFailed,
    /// The worker has no module with the function that was sent.
    UnknownFunction,
    /// An argument of the call makes no sense.
    InvalidInput,
    /// This cannot be had here.
    Unsupported,
    /// The operating system refused; see [`source`](StdError::source).
    Io,
}

/// A panic of another process. The message is cut at 24 KiB, and ends in `…` then.
#[non_exhaustive]
#[derive(Clone, Serialize, Deserialize)]
pub struct RemotePanic {
    /// What was said in `panic!`.
    pub message: String,
    /// `file:line:column`, unless the task's own panic hook kept it to itself.
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

    /// Returns the calls that led to the panic, as `std::backtrace` prints them: those of the
    /// function, at most 128.
    ///
    /// The process that panicked notes only where they are. This process names them when the text
    /// is first asked for (by `Debug` of the error, too), which takes up to a second, as the
    /// program's debug information is read. A call in a shared object that is not loaded here, or
    /// of another program, shows as the file of its code and an offset there.
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

/// How a worker ended.
#[non_exhaustive]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerExit {
    /// Its process id, which may be in use again by now.
    pub pid: u32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The code it gave to `exit`. Neither this nor a signal is known when the fork server was
    /// killed too.
    pub exit_code: Option<i32>,
    /// Whether one of its threads has overflowed its stack, which ended it by this signal.
    ///
    /// It is known on x86-64 and 64-bit ARM: of the main thread; under
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) of a Rust program, of every thread of std's;
    /// under the other start methods, of every thread that is started by code which was loaded
    /// before the function was called. The others end by SIGSEGV without a word.
    pub stack_overflow: bool,
}

impl WorkerExit {
    /// Tells how a process ended that has noted an overflow of a stack, or has not.
    pub(crate) fn new(pid: u32, status: Option<WaitStatus>, has_overflowed: bool) -> Self {
        let signal = status.and_then(WaitStatus::signal);
        Self {
            pid,
            signal,
            exit_code: status.and_then(WaitStatus::exit_code),
            // A handler of the function's own may have let it go on.
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

    /// An operating system's error while we did `what`.
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

    /// As [`worker_died`](Self::worker_died), of a process of its own.
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

    /// The same in other words.
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The task's panic, for [`ErrorKind::Panicked`].
    #[must_use]
    pub fn remote_panic(&self) -> Option<&RemotePanic> {
        match &self.0.detail {
            Detail::Panic(panic) => Some(panic),
            _ => None,
        }
    }

    /// How the worker ended, for [`ErrorKind::WorkerDied`].
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

/// `SIGKILL (signal 9)`; numbers as on every Linux architecture but MIPS, Alpha and SPARC.
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
        self.0.source.as_deref().map(|it| it as _)
    }
}
