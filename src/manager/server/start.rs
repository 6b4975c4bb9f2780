//! How a server comes to be: a process of the program's own, which says where it listens.

use super::{Server, serving, watcher::Watcher};
use crate::error::{Error, ErrorKind, Result};
use crate::ipc::{Address, AuthKey, Connection, Listener, Receiver, Sender, one_way};
use crate::process::{
    Process, StartMethod,
    fault::Fault,
    panic::{self, OnPanic},
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

/// What a server lets its clients do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::manager) struct Limits {
    /// Connections at once.
    pub(in crate::manager) clients: usize,
    /// Bytes of a request.
    pub(in crate::manager) message: usize,
}

/// What the process of a server is told.
#[derive(Serialize, Deserialize)]
struct Order {
    address: Address,
    key: Vec<u8>,
    limits: Limits,
    /// The owner's process: the server ends with it.
    owner: Descriptor,
    /// Where the owner says that it is time to end, or hangs up.
    end: Receiver<()>,
    /// Where the server says where it listens, or why it does not.
    report: Sender<Result<Address, Fault>>,
}

/// A server that was started.
#[derive(Debug)]
pub(in crate::manager) struct Started {
    pub(in crate::manager) process: Process<()>,
    pub(in crate::manager) end: Sender<()>,
    pub(in crate::manager) address: Address,
}

/// Starts a server, and waits until it listens.
///
/// Its process is no daemon, which would be killed at the owner's end: it ends by itself then, and takes its socket's file along.
pub(in crate::manager) fn start(
    address: Address,
    key: &AuthKey,
    limits: Limits,
) -> Result<Started> {
    let owner = PidFd::open(pid::current());
    let owner = owner.map_err(|it| Error::io("failed to open this process", it))?;
    let (end, say_end) = one_way()?;
    let (reported, report) = one_way()?;
    let order = Order {
        address,
        key: key.bytes().to_vec(),
        limits,
        owner: owner.into_fd().into(),
        end,
        report,
    };
    let process = Process::builder(run, order)
        .name("Manager")
        .service()
        .start_method(StartMethod::ForkServer)
        .start()?;
    let address = reported.recv().map_err(|error| {
        let message = format!("the manager's server has ended before it began: {error}");
        Error::new(ErrorKind::StartFailed, message)
    })?;
    Ok(Started {
        process,
        end: say_end,
        address: address.map_err(Fault::into_error)?,
    })
}

/// The server's process.
fn run(order: Order) {
    let Order {
        address,
        key,
        limits,
        owner,
        end,
        report,
    } = order;
    let prepared = prepare(address, key.into(), &owner, &end, limits);
    let (server, listener, watcher) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // An owner that is gone needs not know.
            let _ = report.send(&Err(Fault::Refused(error.kind(), error.to_string())));
            return;
        }
    };
    let (listener, watcher) = (Arc::new(listener), Arc::new(watcher));
    let accepting = {
        let (listener, watcher) = (Arc::clone(&listener), Arc::clone(&watcher));
        thread::Builder::new().spawn(move || accept_all(server, &listener, &watcher, limits))
    };
    let said = match accepting {
        Ok(_) => report.send(&Ok(server.address().clone())),
        Err(error) => report.send(&Err(Fault::Refused(ErrorKind::Io, error.to_string()))),
    };
    if said.is_ok() {
        watcher.run();
    }
    remove_file(server.address());
    // Not by returning: the threads of clients may be anywhere, and nothing of theirs is to be waited for.
    child::exit_now(0);
}

fn prepare(
    address: Address,
    key: AuthKey,
    owner: &Descriptor,
    end: &Receiver<()>,
    limits: Limits,
) -> Result<(&'static Server, Listener, Watcher)> {
    panic::install_hook(OnPanic::SILENT);
    fd::allow_many();
    let prepared = signal::leave_the_end_to_the_owner(None).and_then(|()| {
        fd::redirect_to_null(Stdio::Input)?;
        let watcher = Watcher::new()?;
        watcher.ends_with(owner)?;
        watcher.ends_with(end.as_fd())?;
        Ok(watcher)
    });
    let watcher = prepared.map_err(|it| Error::io("failed to prepare a manager's server", it))?;
    let listener = Listener::bind(address, Some(key))?.expecting(limits.clients);
    let server = Server::settle(listener.address().clone())?;
    Ok((server, listener, watcher))
}

/// Removes the file of the server's socket, and its folder if that was made for it.
fn remove_file(address: &Address) {
    if let Address::Unix(path) = address {
        // The owner does the same.
        let _ = fs::remove_file(path);
        if let Some(folder) = path.parent().filter(|it| is_own_folder(it)) {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Begins the name of a folder that is made for a socket.
pub(in crate::manager) const FOLDER: &str = "procpool-manager-";

fn is_own_folder(folder: &std::path::Path) -> bool {
    let name = folder.file_name().and_then(|it| it.to_str());
    name.is_some_and(|it| it.starts_with(FOLDER))
}

/// The socket in such a folder.
pub(in crate::manager) fn socket_in(folder: &std::path::Path) -> PathBuf {
    folder.join("socket")
}

/// How long nobody is accepted when there is no room for a descriptor, instead of asking all the time.
const PAUSE: Duration = Duration::from_millis(10);

fn accept_all(
    server: &'static Server,
    listener: &Listener,
    watcher: &Arc<Watcher>,
    limits: Limits,
) {
    let seats = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept() {
            Ok(connection) => admit(server, connection, watcher, &seats, limits),
            Err(error) if error.kind() == ErrorKind::Io => thread::sleep(PAUSE),
            // A client that was refused, or has hung up.
            Err(_) => {}
        }
    }
}

fn admit(
    server: &'static Server,
    connection: Connection<(), ()>,
    watcher: &Arc<Watcher>,
    seats: &Arc<AtomicUsize>,
    limits: Limits,
) {
    let seat = Seat::take(seats);
    if seat.number > limits.clients {
        let why = format!(
            "the manager's server has {} clients already",
            limits.clients
        );
        return serving::refuse(&connection, ErrorKind::Full, &why);
    }
    let watcher = Arc::clone(watcher);
    // Shared, so that it is there to refuse by when there is no thread.
    let connection = Arc::new(connection);
    let theirs = Arc::clone(&connection);
    let serve = move || {
        let _seat = seat;
        serving::serve(server, &watcher, &theirs, limits);
    };
    if thread::Builder::new().spawn(serve).is_err() {
        let why = "the manager's server has no thread for another client";
        serving::refuse(&connection, ErrorKind::Full, why);
    }
}

/// A client's place among as many as there may be.
struct Seat {
    taken: Arc<AtomicUsize>,
    number: usize,
}

impl Seat {
    fn take(taken: &Arc<AtomicUsize>) -> Self {
        Self {
            number: taken.fetch_add(1, Ordering::Relaxed) + 1,
            taken: Arc::clone(taken),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
