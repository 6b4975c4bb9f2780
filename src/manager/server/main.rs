//! How a server comes to be: a process of the program's own, which says where it listens.

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
    child::{self, PidFd},
    fd::{self, Stdio},
    pid, signal,
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

/// What the process of a server is told.
#[derive(Serialize, Deserialize)]
struct ServerConfig {
    address: Address,
    key: Vec<u8>,
    limits: ServerLimits,
    /// The owner's process: the server ends with it.
    owner: Descriptor,
    /// Where the owner says that it is time to end, or hangs up.
    shutdown: Receiver<()>,
    /// Where the server says where it listens, or why it does not.
    report: Sender<Result<Address, TaskError>>,
}

/// A server that was started.
#[derive(Debug)]
pub(in crate::manager) struct StartedServer {
    pub(in crate::manager) process: Process<()>,
    pub(in crate::manager) shutdown: Sender<()>,
    pub(in crate::manager) address: Address,
}

/// Starts a server, and waits until it listens.
///
/// Its process is no daemon, which would be killed at the owner's end: it ends by itself then, and
/// takes its socket's file along.
pub(in crate::manager) fn start(
    address: Address,
    key: &AuthKey,
    limits: ServerLimits,
) -> Result<StartedServer> {
    let owner = PidFd::open(pid::current());
    let owner = owner.map_err(|it| Error::io("failed to open this process", it))?;
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
        let message = format!("the manager's server has ended before it began: {error}");
        Error::new(ErrorKind::StartFailed, message)
    })?;
    Ok(StartedServer {
        process,
        shutdown: shutdown_sender,
        address: address.map_err(TaskError::into_error)?,
    })
}

/// The server's process.
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
            // An owner that is gone needs not know.
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
    // Not by returning: the threads of clients may be anywhere, and nothing of theirs is to be
    // waited for.
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
    let monitor = prepared.map_err(|it| Error::io("failed to prepare a manager's server", it))?;
    let listener = Listener::bind(address, Some(key))?.expect_clients(limits.clients);
    let server = Server::init(listener.address().clone())?;
    Ok((server, listener, monitor))
}

/// Removes the file of the server's socket, and its folder if that was made for it.
fn remove_file(address: &Address) {
    if let Address::Unix(path) = address {
        // The owner does the same.
        let _ = fs::remove_file(path);
        if let Some(folder) = path.parent().filter(|it| is_private_dir(it)) {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Begins the name of a folder that is made for a socket.
pub(in crate::manager) const DIR_PREFIX: &str = "procpool-manager-";

fn is_private_dir(folder: &std::path::Path) -> bool {
    let name = folder.file_name().and_then(|it| it.to_str());
    name.is_some_and(|it| it.starts_with(DIR_PREFIX))
}

/// The socket in such a folder.
pub(in crate::manager) fn socket_path(folder: &std::path::Path) -> PathBuf {
    folder.join("socket")
}

/// How long nobody is accepted when there is no room for a descriptor, instead of asking all the
/// time.
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
            // A client that was refused, or has hung up.
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
            "the manager's server has {} clients already",
            limits.clients
        );
        return connection::refuse(&connection, ErrorKind::Full, &why);
    }
    let monitor = Arc::clone(monitor);
    // Shared, so that it is there to refuse by when there is no thread.
    let connection = Arc::new(connection);
    let theirs = Arc::clone(&connection);
    let serve = move || {
        let _permit = permit;
        connection::serve(server, &monitor, &theirs, limits);
    };
    if thread::Builder::new().spawn(serve).is_err() {
        let why = "the manager's server has no thread for another client";
        connection::refuse(&connection, ErrorKind::Full, why);
    }
}

/// A client's place among as many as there may be.
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
