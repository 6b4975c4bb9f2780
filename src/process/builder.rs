//! `ProcessBuilder`: the settings of a process, and its start.

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

/// Configures and starts a [`Process`]; created by [`Process::builder`].
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

    /// Sets the name, for [`current_process`](crate::current_process),
    /// [`active_children`](crate::active_children) and `ps` (the first 15 bytes).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets whether the process dies with the program that starts it, and is stopped when its
    /// handle is dropped. False by default.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.is_daemon = daemon;
        self
    }

    /// Blocks the signals that request termination until the function calls
    /// [`leave_the_end_to_the_owner`](crate::sys::signal::leave_the_end_to_the_owner).
    pub(crate) fn service(mut self) -> Self {
        self.is_service = true;
        self
    }

    /// Sets the start method; [`start_method`] by default.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = method;
        self
    }

    /// Sets an environment variable. The process inherits all others from this process.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let pair = (key.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push(pair);
        self
    }

    /// Allows [`StartMethod::Fork`] although this process has other threads, or guards that give
    /// references to shared memory.
    ///
    /// # Safety
    ///
    /// Like `fork(2)` in a threaded process: a lock that another thread holds during the fork stays
    /// locked in the child forever. The child must not allocate, print, or use anything else that
    /// takes a lock, unless no other thread can hold that lock. This crate allocates in the child
    /// before it calls the function.
    ///
    /// The child must not use a reference that a guard of a [`Value`](crate::Value) or an
    /// [`Array`](crate::Array) gave out before the start, in any thread or leaked: the parent uses
    /// the same memory. Using the guard itself in the child panics.
    #[expect(unsafe_code, reason = "the contract demands it; its body is safe")]
    pub unsafe fn allow_fork_with_threads(mut self) -> Self {
        self.threads = Threads::Any;
        self
    }

    /// Starts the process. Returns when it exists, and does not wait for its function.
    ///
    /// Encodes the argument and drops it, so the parent's ends of connections in it are closed.
    ///
    /// # Errors
    ///
    /// Like [`Process::start`]. [`ErrorKind::InvalidInput`] if the name of a variable is empty or
    /// contains `=` or a zero byte, or if its value contains a zero byte.
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
        let started = launch.and_then(|launch| self.start_process(name, &launch, &descriptors));
        started.map(Process::new).map_err(into_start_error)
    }

    fn start_process(
        &self,
        name: String,
        launch: &LaunchData,
        descriptors: &[handle::Attached],
    ) -> Result<ChildProcess> {
        let (ours, theirs) = socket::pair()
            .map_err(|error| Error::io("failed to create a process's socket", error))?;
        send_handles(&ours, descriptors)
            .map_err(|error| Error::io("failed to send the handles in an argument", error))?;
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

    /// Creates the child, and sends it the message to run.
    fn start_child(&self, start: &SpawnArgs<'_>, socket: &OwnedFd) -> Result<Child> {
        let go = || {
            let sent = ParentMessage::Go.send(socket);
            sent.map_err(|error| Error::io("failed to send a process the message to run", error))
        };
        if self.method == StartMethod::Fork {
            // `Go` is sent before the fork. A forked child waits for its parent in `fork_self`. It
            // cannot wait for the end of this socket, because it inherits both ends.
            go()?;
            return start::fork::start(start, self.threads);
        }
        let directory = start::open_working_directory()?;
        let child = start::fork_server::client::start(start, directory.as_fd());
        let child = child.and_then(|child| go().map(|()| child));
        // 1. The server forks a child. 2. Its reply is late or lost, so `start` fails here. 3. The
        //    child waits for `Go`. `Stop` ends it. If `Stop` cannot be sent, the child does not
        //    exist, or the child sees the end of the socket.
        child.inspect_err(|_| drop(ParentMessage::Stop.send(socket)))
    }

    /// Returns the environment of this process with the variables that were set for the child.
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

/// Turns an error of the system into a failed start.
fn into_start_error(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Io => error.with_kind(ErrorKind::StartFailed),
        _ => error,
    }
}

/// Encodes an argument; a large one into a slab of its own.
fn encode_argument<A: Wire>(argument: &A) -> Result<(Buffer, Vec<handle::Attached>)> {
    let mut buffer = Buffer::new(Arc::new(FreshSlabs));
    let mut descriptors = Vec::new();
    let encoded = handle::collect(&mut descriptors, || codec::encode(argument, &mut buffer));
    encoded.map_err(|reason| {
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
