//! One connection to the server, for one call at a time.

use crate::error::{Error, ErrorKind, Result};
use crate::ipc::{Address, AuthKey, CONNECT_TIMEOUT, Connection, connect_within};
use crate::manager::{
    protocol::{self, CallRequest, Hello, VALUE, Welcome},
    server::{ReplyBuffer, Server, Session},
};
use crate::process::{function::WireMethod, task_error::TaskError};
use crate::shm::Cursor;
use crate::wire::{
    codec::{self, CodecErrorText},
    handle::{self, Attached},
};
use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// The time limit for a server's reply to a greeting: the server only has to start a thread.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection for calls, or the server in this process.
pub(in crate::manager) struct Transport {
    kind: TransportKind,
    /// Whether the connection can no longer be used.
    is_broken: AtomicBool,
}

enum TransportKind {
    Socket {
        connection: Connection<(), ()>,
        /// The unique name of the server.
        server: u64,
        /// Maximum size of a request, in bytes.
        max_len: usize,
    },
    /// In the server process: a client without a connection.
    Local(&'static Server, Session),
}

impl Transport {
    /// Connects, and returns the server's identity.
    pub(in crate::manager) fn open(address: &Address, key: &AuthKey) -> Result<(Self, Welcome)> {
        Self::open_within(address, key, CONNECT_TIMEOUT)
    }

    /// Like [`open`](Self::open), but connecting takes at most `limit`.
    pub(in crate::manager) fn open_within(
        address: &Address,
        key: &AuthKey,
        limit: Duration,
    ) -> Result<(Self, Welcome)> {
        let connection = connect_within::<(), ()>(address, Some(key), limit)?;
        // A server that refuses this client may have closed the connection already. Its reply still
        // has the reason.
        let greeted = connection.send_bytes(&Hello::bytes());
        let deadline = Instant::now() + WELCOME_TIMEOUT;
        let mut welcome = connection
            .recv_message(usize::MAX, Some(deadline))
            .map_err(|error| greeted.err().unwrap_or(error))?
            .ok_or_else(|| {
                let message = format!("no manager's server replied at {address}");
                Error::new(ErrorKind::TimedOut, message)
            })?;
        let fds = welcome.take_descriptors();
        let welcome: Welcome = decode_reply(welcome.payload(), fds, |it| codec::decode(it))?;
        let kind = TransportKind::Socket {
            connection,
            server: welcome.server,
            max_len: usize::try_from(welcome.message_limit).unwrap_or(usize::MAX),
        };
        Ok((Self::new(kind), welcome))
    }

    /// Returns the transport to the server in this process.
    pub(in crate::manager) fn local(server: &'static Server) -> Self {
        Self::new(TransportKind::Local(server, Session::new()))
    }

    fn new(kind: TransportKind) -> Self {
        Self {
            kind,
            is_broken: AtomicBool::new(false),
        }
    }

    pub(in crate::manager) fn is_broken(&self) -> bool {
        // Relaxed: a transport has one user at a time.
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Returns how many items of `bytes` bytes fit into a request, at least one.
    pub(in crate::manager) fn batch_capacity(&self, bytes: usize) -> usize {
        /// An upper bound on the bytes before the items.
        const HEAD: usize = 64;
        match &self.kind {
            TransportKind::Socket { max_len, .. } => (max_len.saturating_sub(HEAD) / bytes).max(1),
            TransportKind::Local(..) => usize::MAX,
        }
    }

    /// Calls a method of an object and waits for its reply. `decode` must consume the whole reply.
    #[inline]
    pub(in crate::manager) fn call<R>(
        &self,
        target: u64,
        method: WireMethod,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecErrorText>,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, CodecErrorText>,
    ) -> Result<R> {
        let request = |message: &mut Vec<u8>| {
            CallRequest::write_header(target, method, message);
            encode(message)
        };
        let (connection, server, max_len) = match &self.kind {
            TransportKind::Socket {
                connection,
                server,
                max_len,
            } => (connection, *server, *max_len),
            TransportKind::Local(server, session) => {
                return call_local(server, session, request, decode);
            }
        };
        let request = |message: &mut Vec<u8>| handle::with_audience(server, || request(message));
        let sent = connection.send_encoded(max_len, request);
        sent.map_err(|it| self.send_error(it))?;
        let reply = connection.recv_message(usize::MAX, None);
        let reply = reply.map_err(|it| self.transport_error(it))?;
        let mut reply = reply.expect("a wait without a limit ends with a reply");
        let fds = reply.take_descriptors();
        decode_reply(reply.payload(), fds, decode)
    }

    /// Returns the caller's error if a request was not sent. A request that cannot be encoded or is
    /// too long leaves the connection usable.
    #[cold]
    fn send_error(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Codec | ErrorKind::InvalidInput | ErrorKind::Unsupported => error,
            _ => self.transport_error(error),
        }
    }

    /// Returns the caller's error if the connection has failed.
    #[cold]
    fn transport_error(&self, error: Error) -> Error {
        self.is_broken.store(true, Ordering::Relaxed);
        if error.kind() == ErrorKind::Disconnected {
            return err_server_gone("it has exited or closed the connection");
        }
        error
    }
}

/// Returns the caller's error if the server has exited.
pub(in crate::manager) fn err_server_gone(why: impl fmt::Display) -> Error {
    let message = format!("the manager's server is gone: {why}");
    Error::new(ErrorKind::Disconnected, message)
}

fn call_local<R>(
    server: &Server,
    session: &Session,
    request: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecErrorText>,
    decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, CodecErrorText>,
) -> Result<R> {
    let not_encoded = |reason| Error::new(ErrorKind::Codec, reason);
    let (mut message, mut descriptors) = (Vec::new(), Vec::new());
    handle::collect(&mut descriptors, || request(&mut message)).map_err(not_encoded)?;
    let mut reply = ReplyBuffer::new();
    server.handle_request(session, &message, descriptors, &mut reply);
    let fds = std::mem::take(&mut reply.handles().sent_fds);
    let outcome = decode_reply(reply.bytes(), fds, decode);
    session.discard_undo();
    outcome
}

#[inline]
pub(in crate::manager) fn decode_reply<R>(
    reply: &[u8],
    fds: Vec<Attached>,
    decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, CodecErrorText>,
) -> Result<R> {
    let fail = |reason| {
        let message = format!("failed to decode the reply of the manager's server: {reason}");
        Error::new(ErrorKind::Codec, message)
    };
    let mut rest = Cursor::new(reply.get(1..).unwrap_or_default());
    if reply.first() != Some(&VALUE) {
        let error: TaskError = codec::decode(&mut rest).map_err(fail)?;
        return Err(protocol::into_error(error));
    }
    if fds.is_empty() {
        return decode(&mut rest).map_err(fail);
    }
    handle::provide(fds, || decode(&mut rest)).map_err(fail)
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            TransportKind::Socket { .. } => "Socket",
            TransportKind::Local(..) => "Local",
        };
        f.debug_struct("Transport").field("kind", &kind).finish()
    }
}
