//! Connections between unrelated processes: a listener at an address, and clients that connect to
//! it.

use super::address::Address;
use super::auth::AuthKey;
use super::connection::{Connection, WireConnection};
use super::handshake::{self, Handshake};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{fd, poll, socket};
use crate::wire::{Wire, handle::Descriptor};
use parking_lot::Mutex;
use std::{
    fmt, fs, io,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt, net::SocketAddr},
    },
    path::{self, Path, PathBuf},
    process,
    time::{Duration, Instant},
};

/// Handshakes that may be in progress at once, unless more clients are expected. Another client
/// ends the oldest.
const MAX_HANDSHAKES: usize = 64;

/// Maximum time for a listener to be reached, to accept and to answer: it may be busy.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts connections at an address.
///
/// With a key, both ends of each connection prove to each other that they know it, before anything
/// else is read. A client fails if it does not know the key, does not answer within 5 s, or breaks
/// the protocol. Its failure is the error of one `accept` call, and does not delay other clients.
/// Nothing is encrypted: the key keeps strangers out, but does not protect against changes to data
/// in transit.
///
/// Threads share a listener by reference. Dropping it closes the address. In the process that bound
/// it, dropping it also removes the socket's file, unless another file has replaced it.
pub struct Listener {
    address: Address,
    key: Option<AuthKey>,
    socket: OwnedFd,
    /// Readable when there is work: it watches the listening socket and those of the handshakes.
    poller: poll::Poller,
    handshakes: Mutex<Vec<Handshake>>,
    max_handshakes: usize,
    _file: Option<SocketFile>,
}

impl Listener {
    /// Creates a listener at an address. With a key, it accepts only clients that know the key.
    ///
    /// The file of a Unix socket is accessible to its owner alone (mode 0600). An existing file is
    /// left alone, even if no process listens there: remove the file of a dead process first.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the address is in use or unavailable,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is not a valid path or the key is
    /// empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Listener, connect};
    /// use std::net::SocketAddr;
    ///
    /// let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    /// let listener = Listener::bind(any_port, Some("a long passphrase".into()))?;
    /// let address = listener.address().clone();
    /// let client = std::thread::spawn(move || {
    ///     let server = connect::<u32, String>(address, Some("a long passphrase".into()))?;
    ///     server.send(&7)?;
    ///     server.recv()
    /// });
    /// let connection = listener.accept::<String, u32>()?;
    /// connection.send(&connection.recv()?.to_string())?;
    /// assert_eq!(client.join().unwrap()?, "7");
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn bind(address: impl Into<Address>, authkey: Option<AuthKey>) -> Result<Self> {
        let address = address.into();
        check_key(authkey.as_ref())?;
        let (address, socket, file) = match address {
            Address::Unix(path) => bind_unix(path)?,
            Address::Tcp(at) => {
                let (at, socket) = bind_tcp(at).map_err(|error| bind_error(&address, error))?;
                (Address::Tcp(at), socket, None)
            }
        };
        let poller = poll::Poller::new().and_then(|poller| {
            poller.add(&socket, 0, poll::Interest::Read)?;
            Ok(poller)
        });
        Ok(Self {
            poller: poller.map_err(|error| bind_error(&address, error))?,
            handshakes: Mutex::default(),
            max_handshakes: MAX_HANDSHAKES,
            key: authkey,
            _file: file,
            address,
            socket,
        })
    }

    /// Sets how many clients may connect at the same time. This process must have descriptors for
    /// all of them.
    pub(crate) fn expect_clients(mut self, clients: usize) -> Self {
        self.max_handshakes = clients.max(MAX_HANDSHAKES);
        self
    }

    /// Returns the address, with the port that the system chose for port 0.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Accepts a connection. Blocks until a client is accepted or fails.
    ///
    /// # Errors
    ///
    /// [`AuthenticationFailed`](crate::ErrorKind::AuthenticationFailed) or
    /// [`Disconnected`](crate::ErrorKind::Disconnected) if a client was refused or has hung up:
    /// call again for the next one. [`Io`](crate::ErrorKind::Io) if this process is out of
    /// descriptors.
    pub fn accept<S: Wire, R: Wire>(&self) -> Result<Connection<S, R>> {
        let accepted = self.accept_until(None)?;
        Ok(accepted.expect("a wait without a limit ends with a connection"))
    }

    /// Accepts a connection. Blocks for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if no client was accepted in time; a handshake in
    /// progress continues in the next call. Otherwise like [`accept`](Self::accept).
    pub fn accept_timeout<S: Wire, R: Wire>(&self, limit: Duration) -> Result<Connection<S, R>> {
        let accepted = self.accept_until(Instant::now().checked_add(limit))?;
        accepted.ok_or_else(|| {
            let message = format!("no client connected to {} within {limit:?}", self.address);
            Error::new(ErrorKind::TimedOut, message)
        })
    }

    fn accept_until<S, R>(&self, deadline: Option<Instant>) -> Result<Option<Connection<S, R>>> {
        let handshakes = match deadline {
            None => Some(self.handshakes.lock()),
            Some(deadline) => self.handshakes.try_lock_until(deadline),
        };
        let Some(mut handshakes) = handshakes else {
            return Ok(None);
        };
        loop {
            if let Some(socket) = self.advance(&mut handshakes)? {
                return into_connection(socket, &self.address).map(Some);
            }
            let wakes = handshakes.iter().map(Handshake::deadline).chain(deadline);
            let now = Instant::now();
            let limit = wakes.min().map(|it| it.saturating_duration_since(now));
            poll::is_readable(&self.poller, limit).map_err(|it| self.accept_error(it))?;
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(None);
            }
        }
    }

    /// Makes all progress that is possible without waiting, until a connection is ready or a client
    /// fails.
    fn advance(&self, handshakes: &mut Vec<Handshake>) -> Result<Option<OwnedFd>> {
        loop {
            if let Some(socket) = self.advance_handshakes(handshakes)? {
                return Ok(Some(socket));
            }
            let socket = match socket::try_accept(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                accepted => accepted.map_err(|it| self.accept_error(it))?,
            };
            if self.key.is_none() {
                return Ok(Some(socket));
            }
            self.begin_handshake(handshakes, socket)?;
        }
    }

    /// Continues the handshakes in progress, until one succeeds or fails.
    fn advance_handshakes(&self, handshakes: &mut Vec<Handshake>) -> Result<Option<OwnedFd>> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        // The first success or failure is returned at once. The others keep their data in their
        // sockets, which stay readable, so the next call continues with them.
        for index in 0..handshakes.len() {
            let outcome = handshakes[index].advance(key);
            if !matches!(outcome, Ok(false)) {
                let handshake = self.remove_handshake(handshakes, index);
                return outcome.map(|_| Some(handshake.into_socket()));
            }
        }
        Ok(None)
    }

    fn begin_handshake(&self, handshakes: &mut Vec<Handshake>, socket: OwnedFd) -> Result<()> {
        let handshake = Handshake::begin(socket)?;
        let added = self.poller.add(&handshake, 0, poll::Interest::Read);
        added.map_err(|it| self.accept_error(it))?;
        handshakes.push(handshake);
        // Strangers that connect and send nothing must not use up the descriptors: the oldest
        // handshake ends. A client that answers is faster than that many newcomers.
        if handshakes.len() > self.max_handshakes {
            self.remove_handshake(handshakes, 0);
            return Err(Error::new(
                ErrorKind::AuthenticationFailed,
                "failed to authenticate: too many clients do not answer",
            ));
        }
        Ok(())
    }

    fn remove_handshake(&self, handshakes: &mut Vec<Handshake>, index: usize) -> Handshake {
        let handshake = handshakes.remove(index);
        self.poller.remove(&handshake);
        handshake
    }

    fn accept_error(&self, error: io::Error) -> Error {
        let what = format_args!("failed to accept a connection at {}", self.address);
        Error::io(what, error)
    }
}

/// Connects to a listener, with the key that it requires.
///
/// Without a key, blocks until the listener's queue has room, and does not wait for `accept`. With
/// a key, blocks until both ends have proved that they know it. Takes at most 10 s.
///
/// # Errors
///
/// - [`Io`](crate::ErrorKind::Io) if no process listens at the address.
/// - [`AuthenticationFailed`](crate::ErrorKind::AuthenticationFailed) if the listener has another
///   key or none.
/// - [`TimedOut`](crate::ErrorKind::TimedOut) if the listener is not reached or does not accept in
///   time.
/// - [`Disconnected`](crate::ErrorKind::Disconnected) if the listener is closed during the
///   handshake.
///
/// A client without a key does not see here that the listener requires one. Using its connection
/// fails with [`Disconnected`](crate::ErrorKind::Disconnected).
///
/// # Examples
///
/// See [`Listener::bind`].
pub fn connect<S: Wire, R: Wire>(
    address: impl Into<Address>,
    authkey: Option<AuthKey>,
) -> Result<Connection<S, R>> {
    connect_within(&address.into(), authkey.as_ref(), CONNECT_TIMEOUT)
}

/// Like [`connect`], but blocks for at most `limit`.
pub(crate) fn connect_within<S: Wire, R: Wire>(
    address: &Address,
    authkey: Option<&AuthKey>,
    limit: Duration,
) -> Result<Connection<S, R>> {
    check_key(authkey)?;
    let deadline = Instant::now() + limit;
    let socket =
        connect_socket(address, deadline).map_err(|error| connect_error(address, limit, error))?;
    if let Some(key) = authkey {
        handshake::prove(&socket, key, deadline)?;
    }
    into_connection(socket, address)
}

/// Connects; tries again after an interruption by a signal.
fn connect_socket(address: &Address, deadline: Instant) -> io::Result<OwnedFd> {
    loop {
        let limit = deadline.saturating_duration_since(Instant::now());
        if limit.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let socket: io::Result<OwnedFd> = match address {
            Address::Unix(path) => socket::connect_unix(path, limit),
            Address::Tcp(address) => TcpStream::connect_timeout(address, limit).map(OwnedFd::from),
        };
        match socket {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            socket => return fd::above_stdio(socket?),
        }
    }
}

fn connect_error(address: &Address, limit: Duration, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            let message = format!("{address} was not reached within {limit:?}");
            Error::new(ErrorKind::TimedOut, message)
        }
        _ => Error::io(format_args!("failed to connect to {address}"), error),
    }
}

fn into_connection<S, R>(socket: OwnedFd, address: &Address) -> Result<Connection<S, R>> {
    let carries_descriptors = matches!(address, Address::Unix(_));
    if !carries_descriptors {
        let set = socket::set_up_tcp(&socket);
        set.map_err(|error| Error::io("failed to set up a connection", error))?;
    }
    let ends = WireConnection::Socket {
        socket: Descriptor::from(socket).into(),
        carries_descriptors,
    };
    Ok(ends.into())
}

fn bind_unix(path: PathBuf) -> Result<(Address, OwnedFd, Option<SocketFile>)> {
    let address = Address::Unix(path.clone());
    if !is_valid_path(&path) {
        let message = format!(
            "failed to listen at {address}: \
             a socket path must not contain a zero byte, \
             and its last component must have 1 to {} bytes",
            socket::MAX_NAME_LEN
        );
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let bind = || {
        let socket = socket::listen_unix(&path)?;
        Ok((socket, SocketFile::new(&path)?))
    };
    let (socket, file) = bind().map_err(|error| bind_error(&address, error))?;
    Ok((address, socket, Some(file)))
}

/// Whether a socket can have this path: the path fits into an address, or its last component does.
fn is_valid_path(path: &Path) -> bool {
    let name = path
        .file_name()
        .is_some_and(|name| name.len() <= socket::MAX_NAME_LEN);
    let is_text = !path.as_os_str().is_empty() && !path.as_os_str().as_bytes().contains(&0);
    is_text && (name || SocketAddr::from_pathname(path).is_ok())
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<(std::net::SocketAddr, OwnedFd)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok((listener.local_addr()?, fd::above_stdio(listener.into())?))
}

fn bind_error(address: &Address, error: io::Error) -> Error {
    Error::io(format_args!("failed to listen at {address}"), error)
}

/// HMAC accepts an empty key, which is not a secret.
fn check_key(key: Option<&AuthKey>) -> Result<()> {
    match key {
        Some(key) if key.bytes().is_empty() => {
            Err(Error::new(ErrorKind::InvalidInput, "the key is empty"))
        }
        _ => Ok(()),
    }
}

/// The file of a Unix socket. It is removed together with its listener.
struct SocketFile {
    /// Absolute, because the working directory may change.
    path: PathBuf,
    /// Device and inode, to recognise a file that has replaced it.
    identity: (u64, u64),
    /// The process that owns the file; a forked copy does not.
    owner: u32,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let path = path::absolute(path)?;
        Ok(Self {
            identity: file_identity(&path)?,
            owner: process::id(),
            path,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = file_identity(&self.path).is_ok_and(|found| found == self.identity);
        if is_ours && self.owner == process::id() {
            // If another process has removed it, nothing is left to do.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Readable when a client can be accepted or a handshake can go on.
/// [`accept_timeout`](Listener::accept_timeout) may still find that no connection is ready.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
