//! The settings of a manager, and its start.

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

/// Maximum number of connections by default. Each costs the server a thread.
const DEFAULT_CLIENT_LIMIT: usize = 4096;

/// Maximum size of a request by default, in bytes.
const DEFAULT_MESSAGE_LIMIT: usize = 256 << 20;

/// How long a server may take to exit after it was told to, before it is killed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings for starting a [`Manager`].
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

    /// Sets the address of the server. The default is a Unix socket in a new directory that only
    /// this user can access.
    ///
    /// At a TCP address, clients on other machines can connect. The key keeps out clients that do
    /// not know it. Nothing is encrypted: an attacker that can read or change network traffic can
    /// read or change these messages. Across a network that you do not control, let the server
    /// listen on loopback and use a tunnel (`ssh -L`, stunnel, WireGuard).
    pub fn address(mut self, address: impl Into<Address>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets the key that clients must know. The default is the key of this process, which its
    /// children inherit.
    ///
    /// A client with the key can call any function of the program in the server: treat the key like
    /// a login. Processes that this process starts afterwards also know the key, so proxies work in
    /// them. Processes that started earlier, such as a pool's workers, must call
    /// [`Manager::connect`] first.
    pub fn authkey(mut self, key: impl Into<AuthKey>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the maximum number of connections; the default is 4096. Further clients fail with
    /// [`ErrorKind::Full`]. A process has one connection for its references, and one for each of
    /// its threads that is in a call or holds a lock.
    pub fn client_limit(mut self, connections: usize) -> Self {
        self.limits.clients = connections;
        self
    }

    /// Sets the maximum size of a request with its argument, in bytes; the default is 256 MiB.
    /// Larger requests are refused before memory is allocated for them.
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.limits.message = bytes;
        self
    }

    /// Starts the server. Blocks until it listens.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if other machines can reach the address (anything except a Unix
    /// socket and loopback) and no key was set, if the key is empty, or if the address is invalid.
    /// [`ErrorKind::Io`] if the address is in use. [`ErrorKind::StartFailed`] if the system cannot
    /// start a process.
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
        // Proxies identify the server by this address, here and in the processes that receive them.
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
            let message =
                "other machines can reach the manager's address: set a key with `authkey`";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(())
    }
}

/// Returns an address that does not depend on the current directory: proxies carry it to other
/// processes.
fn absolute(address: Address) -> Result<Address> {
    match address {
        Address::Unix(path) if !path.as_os_str().is_empty() => {
            let path = std::path::absolute(path).map_err(|error| {
                Error::io("failed to resolve the path of a manager's socket", error)
            })?;
            Ok(Address::Unix(path))
        }
        address => Ok(address),
    }
}

/// Returns the address at which this process itself reaches a server that listens on all
/// interfaces.
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

/// Creates a directory that only this user can access.
fn create_private_dir() -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix(DIR_PREFIX)
        .permissions(Permissions::from_mode(0o700))
        .tempdir();
    folder.map_err(|error| Error::io("failed to create a directory for a manager's socket", error))
}

/// A server that this process has started and stops.
#[derive(Debug)]
pub(super) struct OwnedServer {
    /// `None` only after the drop.
    process: Option<Process<()>>,
    shutdown: crate::ipc::Sender<()>,
    folder: Option<TempDir>,
    owner: u32,
    /// The address that this process connects to.
    address: Address,
}

impl OwnedServer {
    pub(super) fn pid(&self) -> u32 {
        let process = self.process.as_ref();
        process.expect("only `drop` takes it").pid()
    }
}

impl StopAtExit for OwnedServer {
    /// Stops the server. The server removes its socket and the directory that was created for it.
    fn stop(&self) {
        // Sending fails if the server has already exited.
        let _ = self.shutdown.send(&());
        let Some(process) = &self.process else { return };
        let has_ended = || matches!(process.join_timeout(SHUTDOWN_TIMEOUT), Ok(Some(_)));
        if !has_ended() && process.kill().is_ok() {
            has_ended();
        }
    }
}

impl Drop for OwnedServer {
    /// Stops the server. Does nothing in a copy of the process that started it.
    fn drop(&mut self) {
        if self.owner != pid::current() {
            self.folder.take().map(TempDir::keep);
            return;
        }
        forget_key(&self.address);
        self.stop();
        // Dropping a process waits for it, forever if it cannot be killed.
        let left = self.process.take().filter(Process::is_alive);
        left.into_iter().for_each(Process::detach);
    }
}
