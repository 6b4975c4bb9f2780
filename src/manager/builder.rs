//! Settings of a manager, and its start.

use super::{
    Manager,
    client::Client,
    protocol::ServerLimits,
    server::{self, DIR_PREFIX, StartedServer, socket_path},
};
use crate::error::{Error, ErrorKind, Result};
use crate::ipc::{Address, AuthKey, authkey, forget_key, remember_key};
use crate::process::{
    Process,
    at_exit::{self, StopAtExit},
};
use crate::sys::pid;
use std::{fs::Permissions, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tempfile::TempDir;

/// Connections at once, unless it is said otherwise; each costs the server a thread.
const DEFAULT_CLIENT_LIMIT: usize = 4096;

/// Bytes of a request, unless it is said otherwise.
const DEFAULT_MESSAGE_LIMIT: usize = 256 << 20;

/// How long a server may take to end when it was told to, before it is killed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of a [`Manager`] that is to be started.
///
/// ```
/// use procpool::Manager;
/// use std::net::SocketAddr;
///
/// let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
/// let manager = Manager::builder().address(any_port).authkey("a long passphrase").start()?;
/// let other = Manager::connect(manager.address().clone(), "a long passphrase".into())?;
/// manager.globals()?.set("answer", 42)?;
/// assert_eq!(other.globals()?.get("answer")?, Some(42));
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is started before `start`"]
pub struct ManagerBuilder {
    address: Option<Address>,
    key: Option<AuthKey>,
    limits: ServerLimits,
}

impl ManagerBuilder {
    pub(super) fn new() -> Self {
        Self {
            address: None,
            key: None,
            limits: ServerLimits {
                clients: DEFAULT_CLIENT_LIMIT,
                message: DEFAULT_MESSAGE_LIMIT,
            },
        }
    }

    /// Where the server listens: by default at a Unix socket in a folder that is made for it, for
    /// this user alone.
    ///
    /// At a TCP address, clients on other machines can connect. The key keeps out those who do not
    /// know it; nothing is encrypted, so that whoever can read or change what is on its way can
    /// read or change it here, too. Across a network that is not your own, let the server listen on
    /// loopback, and put a tunnel in front (`ssh -L`, stunnel, WireGuard).
    pub fn address(mut self, address: impl Into<Address>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The key that clients must know: that of this process by default, which its children have,
    /// too.
    ///
    /// Whoever knows it can have any function of the program called in the server: it is as good as
    /// a login. Processes that this one starts from then on know it, too, so that proxies work in
    /// them; one that was there before, a pool's worker say, calls [`Manager::connect`] first.
    pub fn authkey(mut self, key: impl Into<AuthKey>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// How many connections there may be at once, 4096 by default; one more is refused with
    /// [`ErrorKind::Full`]. A process has one for its references, and one for each of its threads
    /// that is in a call or holds a lock.
    pub fn client_limit(mut self, connections: usize) -> Self {
        self.limits.clients = connections;
        self
    }

    /// Bytes that one request may have, with the argument in it, 256 MiB by default. A larger one
    /// is refused before memory is taken for it.
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.limits.message = bytes;
        self
    }

    /// Starts the server, and waits until it listens.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for an address that others can reach (any but a Unix socket and
    /// loopback) without a key of its own, for an empty key, for an address that is none.
    /// [`ErrorKind::Io`] when the address is taken, [`ErrorKind::StartFailed`] when the system
    /// gives no process.
    pub fn start(self) -> Result<Manager> {
        self.check_key()?;
        let key = self.key.unwrap_or_else(authkey);
        let (address, folder) = match self.address {
            Some(address) => (absolute(address)?, None),
            None => {
                let folder = create_private_dir()?;
                (socket_path(folder.path()).into(), Some(folder))
            }
        };
        let StartedServer {
            process,
            shutdown,
            address,
        } = server::start(address, &key, self.limits)?;
        // Proxies name the server by it, here and in the processes that they are sent to.
        let near = connectable(&address);
        let server = Arc::new(OwnedServer {
            process: Some(process),
            shutdown,
            folder,
            owner: pid::current(),
            address: near.clone(),
        });
        at_exit::register(&server);
        remember_key(&near, &key);
        Ok(Manager {
            client: Client::connect(&near, &key)?,
            address,
            server: Some(server),
        })
    }

    fn check_key(&self) -> Result<()> {
        let is_open = matches!(&self.address, Some(Address::Tcp(at)) if !at.ip().is_loopback());
        if is_open && self.key.is_none() {
            let message = "a manager that other machines can reach needs a key of its own: set one with `authkey`";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(())
    }
}

/// The same from whatever folder it is looked at: proxies carry it to other processes.
fn absolute(address: Address) -> Result<Address> {
    match address {
        Address::Unix(path) if !path.as_os_str().is_empty() => {
            let path = std::path::absolute(path);
            path.map(Address::Unix)
                .map_err(|it| Error::io("failed to find the folder of a manager's socket", it))
        }
        address => Ok(address),
    }
}

/// Where this process itself finds a server that listens everywhere.
fn connectable(address: &Address) -> Address {
    match address {
        Address::Tcp(at) if at.ip().is_unspecified() => {
            let mut at = *at;
            at.set_ip(match at {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
            Address::Tcp(at)
        }
        address => address.clone(),
    }
}

/// A folder for this user alone.
fn create_private_dir() -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix(DIR_PREFIX)
        .permissions(Permissions::from_mode(0o700))
        .tempdir();
    folder.map_err(|it| Error::io("failed to make a folder for a manager's socket", it))
}

/// A server that this process has started, and ends.
#[derive(Debug)]
pub(super) struct OwnedServer {
    /// None once it is dropped.
    process: Option<Process<()>>,
    shutdown: crate::ipc::Sender<()>,
    folder: Option<TempDir>,
    owner: u32,
    /// Where this process finds it.
    address: Address,
}

impl OwnedServer {
    pub(super) fn pid(&self) -> u32 {
        let process = self.process.as_ref();
        process.expect("only `drop` takes it").pid()
    }
}

impl StopAtExit for OwnedServer {
    /// The server removes its socket, and the folder that was made for that.
    fn stop(&self) {
        // A server that is gone needs not be told.
        let _ = self.shutdown.send(&());
        let Some(process) = &self.process else { return };
        let has_ended = || matches!(process.join_timeout(SHUTDOWN_TIMEOUT), Ok(Some(_)));
        if !has_ended() && process.kill().is_ok() {
            has_ended();
        }
    }
}

impl Drop for OwnedServer {
    /// Ends the server; in a copy of the process that has started it nothing happens.
    fn drop(&mut self) {
        if self.owner != pid::current() {
            self.folder.take().map(TempDir::keep);
            return;
        }
        forget_key(&self.address);
        self.stop();
        // One that cannot be killed would be waited for.
        let left = self.process.take().filter(Process::is_alive);
        left.into_iter().for_each(Process::detach);
    }
}
