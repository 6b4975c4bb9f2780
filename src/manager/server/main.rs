//! The start of a server: a process of the same program, which reports its address.

use super::{Server, connection, peer_monitor::PeerMonitor};
use crate::error::{Error, ErrorKind, Result};
use crate::ipc::{Address, AuthKey, Connection, Listener, Receiver, Sender, one_way};
use crate::manager::protocol::ServerLimits;
use crate::process::{
    Process, StartMethod,
    panic::{self, OnPanic},
    task_error::TaskError,
};
use crate::sys::{
    child,
    fd::{self, Stdio},
    pid,
    pidfd::PidFd,
    signal,
};
use crate::wire::handle::Descriptor;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// The arguments of a server process.
#[derive(Serialize, Deserialize)]
struct ServerConfig {
    address: Address,
    key: Vec<u8>,
    limits: ServerLimits,
    /// The owner's process. The server exits after it.
    owner: Descriptor,
    /// The server exits when the owner sends a message here or hangs up.
    shutdown: Receiver<()>,
    /// Reports the server's address, or the reason for a failed start.
    report: Sender<Result<Address, TaskError>>,
}

/// A server that was started.
#[derive(Debug)]
pub(in crate::manager) struct StartedServer {
    pub(in crate::manager) process: Process<()>,
    pub(in crate::manager) shutdown: Sender<()>,
    pub(in crate::manager) address: Address,
}

/// Starts a server. Blocks until it listens.
///
/// The process is not a daemon, which would be killed when the owner exits. It exits by itself and
/// removes its socket's file first.
pub(in crate::manager) fn start(
    address: Address,
    key: &AuthKey,
    limits: ServerLimits,
) -> Result<StartedServer> {
    let owner = PidFd::open(pid::current());
    let owner = owner.map_err(|error| Error::io("failed to open this process", error))?;
    let (shutdown, shutdown_sender) = one_way()?;
    let (reported, report) = one_way()?;
    let config = ServerConfig {
        address,
        key: key.bytes().to_vec(),
        limits,
        owner: owner.into_fd().into(),
        shutdown,
        report,
    };
    let process = Process::builder(run, config)
        .name("Manager")
        .service()
        .start_method(StartMethod::ForkServer)
        .start()?;
    let address = reported.recv().map_err(|error| {
        let message = format!("the manager's server exited before it listened: {error}");
        Error::new(ErrorKind::StartFailed, message)
    })?;
    Ok(StartedServer {
        process,
        shutdown: shutdown_sender,
        address: address.map_err(TaskError::into_error)?,
    })
}

/// The main function of the server process.
fn run(config: ServerConfig) {
    let ServerConfig {
        address,
        key,
        limits,
        owner,
        shutdown,
        report,
    } = config;
    let prepared = prepare(address, key.into(), &owner, &shutdown, limits);
    let (server, listener, monitor) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // Fails if the owner has exited.
            let _ = report.send(&Err(TaskError::Refused(error.kind(), error.to_string())));
            return;
        }
    };
    let (listener, monitor) = (Arc::new(listener), Arc::new(monitor));
    let accepting = {
        let (listener, monitor) = (Arc::clone(&listener), Arc::clone(&monitor));
        thread::Builder::new().spawn(move || accept_loop(server, &listener, &monitor, limits))
    };
    let sent = match accepting {
        Ok(_) => report.send(&Ok(server.address().clone())),
        Err(error) => report.send(&Err(TaskError::Refused(ErrorKind::Io, error.to_string()))),
    };
    if sent.is_ok() {
        monitor.run();
    }
    remove_file(server.address());
    // Exits without returning: the threads of clients may block anywhere, and the server does not
    // wait for their user code.
    child::exit_now(0);
}

fn prepare(
    address: Address,
    key: AuthKey,
    owner: &Descriptor,
    shutdown: &Receiver<()>,
    limits: ServerLimits,
) -> Result<(&'static Server, Listener, PeerMonitor)> {
    panic::install_hook(OnPanic::SILENT);
    fd::allow_many();
    let prepared = signal::leave_the_end_to_the_owner(None).and_then(|()| {
        fd::redirect_to_null(Stdio::Input)?;
        let monitor = PeerMonitor::new()?;
        monitor.stop_on(owner)?;
        monitor.stop_on(shutdown.as_fd())?;
        Ok(monitor)
    });
    let monitor =
        prepared.map_err(|error| Error::io("failed to prepare a manager's server", error))?;
    let listener = Listener::bind(address, Some(key))?.expect_clients(limits.clients);
    let server = Server::init(listener.address().clone())?;
    Ok((server, listener, monitor))
}

/// Removes the file of the server's socket, and the directory if it was created for the socket.
fn remove_file(address: &Address) {
    if let Address::Unix(path) = address {
        // The owner may have removed them already.
        let _ = fs::remove_file(path);
        if let Some(folder) = path.parent().filter(|it| is_private_dir(it)) {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The prefix of the names of directories that are created for sockets.
pub(in crate::manager) const DIR_PREFIX: &str = "procpool-manager-";

fn is_private_dir(folder: &std::path::Path) -> bool {
    let name = folder.file_name().and_then(|it| it.to_str());
    name.is_some_and(|it| it.starts_with(DIR_PREFIX))
}

/// Returns the path of the socket in such a directory.
pub(in crate::manager) fn socket_path(folder: &std::path::Path) -> PathBuf {
    folder.join("socket")
}

/// How long the server waits before it accepts again when it has no free descriptors. Otherwise it
/// would spin.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(10);

fn accept_loop(
    server: &'static Server,
    listener: &Listener,
    monitor: &Arc<PeerMonitor>,
    limits: ServerLimits,
) {
    let permits = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept() {
            Ok(connection) => admit(server, connection, monitor, &permits, limits),
            Err(error) if error.kind() == ErrorKind::Io => thread::sleep(ACCEPT_RETRY_DELAY),
            // The client was refused or has disconnected.
            Err(_) => {}
        }
    }
}

fn admit(
    server: &'static Server,
    connection: Connection<(), ()>,
    monitor: &Arc<PeerMonitor>,
    permits: &Arc<AtomicUsize>,
    limits: ServerLimits,
) {
    let permit = ClientPermit::acquire(permits);
    if permit.number > limits.clients {
        let why = format!(
            "the manager's server already has {} clients",
            limits.clients
        );
        return connection::refuse(&connection, ErrorKind::Full, &why);
    }
    let monitor = Arc::clone(monitor);
    // Shared, so that the client can still be refused if no thread starts.
    let connection = Arc::new(connection);
    let theirs = Arc::clone(&connection);
    let serve = move || {
        let _permit = permit;
        connection::serve(server, &monitor, &theirs, limits);
    };
    if thread::Builder::new().spawn(serve).is_err() {
        let why = "the manager's server failed to start a thread for another client";
        connection::refuse(&connection, ErrorKind::Full, why);
    }
}

/// Counts a client towards the limit until it is dropped.
struct ClientPermit {
    in_use: Arc<AtomicUsize>,
    number: usize,
}

impl ClientPermit {
    fn acquire(taken: &Arc<AtomicUsize>) -> Self {
        Self {
            number: taken.fetch_add(1, Ordering::Relaxed) + 1,
            in_use: Arc::clone(taken),
        }
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}
