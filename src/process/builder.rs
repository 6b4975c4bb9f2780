//! Settings of a process, and its start.

use super::{
    child::ChildProcess,
    child_main,
    control::{ParentMessage, send_handles},
    function::WireFunction,
    identity::ChildIdentity,
    launch::{ChildSetup, LaunchData},
    process_handle::Process,
    result_channel::ResultReceiver,
    start::{self, Child, SpawnArgs, SpawnFlags},
    start_method::{StartMethod, start_method},
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Buffer, FreshSlabs};
use crate::sys::{child::Threads, environment, socket};
use crate::wire::{Wire, codec, handle};
use std::{
    ffi::{OsStr, OsString},
    fmt, iter,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

/// Settings of a [`Process`] that is to be started.
///
/// ```
/// use procpool::{Process, StartMethod};
///
/// let process = Process::builder(|()| std::env::var("LANG").ok(), ())
///     .name("polyglot")
///     .env("LANG", "de_DE.UTF-8")
///     .start_method(StartMethod::Spawn)
///     .start()?;
/// assert_eq!(process.name(), "polyglot");
/// assert_eq!(process.result()?.as_deref(), Some("de_DE.UTF-8"));
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use = "nothing is started before `start`"]
pub struct ProcessBuilder<A, R> {
    function: fn(A) -> R,
    argument: A,
    name: Option<String>,
    is_daemon: bool,
    is_service: bool,
    method: StartMethod,
    environment: Vec<(OsString, OsString)>,
    threads: Threads,
}

impl<A: Wire, R: Wire> ProcessBuilder<A, R> {
    pub(super) fn new(function: fn(A) -> R, argument: A) -> Self {
        Self {
            function,
            argument,
            name: None,
            is_daemon: false,
            is_service: false,
            method: start_method(),
            environment: Vec::new(),
            threads: Threads::One,
        }
    }

    /// Its name, for [`current_process`](crate::current_process),
    /// [`active_children`](crate::active_children) and `ps` (the first 15 bytes).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it ends with the program that starts it, however that ends, and is stopped when its
    /// handle is dropped. False by default.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.is_daemon = daemon;
        self
    }

    /// Blocks the signals that ask the process to end until its function calls
    /// [`leave_the_end_to_the_owner`](crate::sys::signal::leave_the_end_to_the_owner).
    pub(crate) fn service(mut self) -> Self {
        self.is_service = true;
        self
    }

    /// How it comes to exist; [`start_method`] by default.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = method;
        self
    }

    /// Sets an environment variable for it, besides those of this process at the start.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let pair = (key.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push(pair);
        self
    }

    /// Lets [`StartMethod::Fork`] copy this process although it has other threads, or guards that
    /// give references to shared memory.
    ///
    /// # Safety
    ///
    /// As `fork(2)` in a threaded process: what the other threads hold at that moment stays as it
    /// is in the child for ever. The child must not allocate, print, or touch anything else behind
    /// a lock unless no other thread can hold that lock; this crate allocates in the child itself,
    /// before it calls the function.
    ///
    /// Nothing in the child may use a reference that a guard of a [`Value`](crate::Value) or an
    /// [`Array`](crate::Array) gave out before the start, in any thread or leaked: the parent uses
    /// the same memory. A guard that is itself used in the child panics.
    #[expect(unsafe_code, reason = "the contract demands it; its body is safe")]
    pub unsafe fn allow_fork_with_threads(mut self) -> Self {
        self.threads = Threads::Any;
        self
    }

    /// Starts the process. The argument is encoded here and dropped, and with it what was handed
    /// over: the parent's ends of connections that are passed are closed.
    ///
    /// # Errors
    ///
    /// As [`Process::fork_children`]; [`ErrorKind::InvalidInput`] for a variable whose name is
    /// empty or has an `=` or a zero byte in it, or whose value has a zero byte.
    pub fn start(self) -> Result<Process<R>> {
        let environment = self.child_environment()?;
        let function = WireFunction::unary(self.function)?;
        let identity = ChildIdentity::for_child(self.name.clone());
        let name = identity.name.clone();
        let (argument, descriptors) = encode_argument(&self.argument)?;
        let setup = ChildSetup {
            identity,
            is_copy: self.method == StartMethod::Fork,
            is_service: self.is_service,
            method: start_method(),
            environment,
            function: function.to_bytes(),
            handles: descriptors.len(),
        };
        let launch = LaunchData::pack(argument, &setup);
        let started = launch.and_then(|it| self.start_process(name, &it, &descriptors));
        started.map(Process::new).map_err(into_start_error)
    }

    fn start_process(
        &self,
        name: String,
        launch: &LaunchData,
        descriptors: &[handle::Attached],
    ) -> Result<ChildProcess> {
        let pair = socket::pair();
        let (ours, theirs) =
            pair.map_err(|it| Error::io("failed to create a process's socket", it))?;
        send_handles(&ours, descriptors)
            .map_err(|it| Error::io("failed to hand over the handles in an argument", it))?;
        let passed: Vec<_> = iter::once(theirs.as_fd())
            .chain(launch.shared_fd())
            .collect();
        let start = SpawnArgs {
            main: child_main::main,
            passed: &passed,
            bytes: launch.inline_bytes(),
            flags: SpawnFlags {
                is_daemon: self.is_daemon,
                executes: self.method == StartMethod::Spawn,
            },
        };
        let child = self.start_child(&start, &ours)?;
        let kind = (self.is_daemon, self.method);
        Ok(ChildProcess::new(
            name,
            kind,
            child,
            ResultReceiver::new(ours),
        ))
    }

    /// Has the child made, and tells it to run.
    fn start_child(&self, start: &SpawnArgs<'_>, socket: &OwnedFd) -> Result<Child> {
        let go = || {
            let sent = ParentMessage::Go.send(socket);
            sent.map_err(|it| Error::io("failed to have a process run", it))
        };
        if self.method == StartMethod::Fork {
            // A copy waits by itself for its parent to have it; it would never see the end of this
            // socket, which it has, too.
            go()?;
            return start::fork::start(start, self.threads);
        }
        let directory = start::open_working_directory()?;
        let child = start::fork_server::client::start(start, directory.as_fd());
        let child = child.and_then(|it| go().map(|()| it));
        // The server may have made one all the same. If it cannot be told, there is none, or it
        // finds the end of the socket.
        child.inspect_err(|_| drop(ParentMessage::Stop.send(socket)))
    }

    /// This process's environment, with what was set for the child.
    fn child_environment(&self) -> Result<Vec<u8>> {
        for (key, value) in &self.environment {
            if !environment::can_be_set(key, value) {
                let message = format!("{key:?}={value:?} cannot be an environment variable");
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
        }
        Ok(environment::with(&self.environment))
    }
}

/// What the system refuses on the way is a start that failed, whichever step it was.
fn into_start_error(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Io => error.with_kind(ErrorKind::StartFailed),
        _ => error,
    }
}

/// Encodes an argument: a large one into a slab of its own.
fn encode_argument<A: Wire>(argument: &A) -> Result<(Buffer, Vec<handle::Attached>)> {
    let mut buffer = Buffer::new(Arc::new(FreshSlabs));
    let mut descriptors = Vec::new();
    let outcome = handle::collect(&mut descriptors, || codec::encode(argument, &mut buffer));
    outcome.map_err(|reason| {
        let message = format!("failed to encode the argument of a process: {reason}");
        Error::new(ErrorKind::Codec, message)
    })?;
    Ok((buffer, descriptors))
}

impl<A, R> fmt::Debug for ProcessBuilder<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessBuilder")
            .field("name", &self.name)
            .field("daemon", &self.is_daemon)
            .field("start_method", &self.method)
            .finish_non_exhaustive()
    }
}
