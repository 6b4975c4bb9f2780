//! A way to the server, for one call after the other.

use super::{
    protocol::{self, Hello, Request, VALUE, Welcome},
    server::{Reply, Server, Session},
};
use crate::error::{Error, ErrorKind, Result};
use crate::ipc::{ACCEPTED_WITHIN, Address, AuthKey, Connection, connect_within};
use crate::process::{fault::Fault, function::Method};
use crate::shm::Cursor;
use crate::wire::{
    codec::{self, Reason},
    handle::{self, Attached},
};
use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// How long a server may take to answer a greeting: it has only a thread to start.
const WELCOMED_WITHIN: Duration = Duration::from_secs(10);

/// What calls go through.
pub(super) struct Link {
    way: Way,
    /// Whether nothing more can go through it.
    is_broken: AtomicBool,
}

enum Way {
    Socket {
        connection: Connection<(), ()>,
        /// The server's name.
        server: u64,
        /// Bytes of the largest request.
        most: usize,
    },
    /// In the server itself: as a client without a connection.
    Here(&'static Server, Session),
}

impl Link {
    /// Connects, and finds out who is there.
    pub(super) fn open(address: &Address, key: &AuthKey) -> Result<(Self, Welcome)> {
        Self::open_within(address, key, ACCEPTED_WITHIN)
    }

    /// As [`open`](Self::open), where connecting takes `limit` at most.
    pub(super) fn open_within(
        address: &Address,
        key: &AuthKey,
        limit: Duration,
    ) -> Result<(Self, Welcome)> {
        let connection = connect_within::<(), ()>(address, Some(key), limit)?;
        // A server that refuses this client may have hung up already; why, it has said.
        let greeted = connection.send_bytes(&Hello::bytes());
        let deadline = Instant::now() + WELCOMED_WITHIN;
        let mut welcome = connection
            .recv_message(usize::MAX, Some(deadline))
            .map_err(|it| greeted.err().unwrap_or(it))?
            .ok_or_else(|| {
                let message = format!("no manager's server has answered at {address}");
                Error::new(ErrorKind::TimedOut, message)
            })?;
        let given = welcome.take_descriptors();
        let welcome: Welcome = decode_reply(welcome.payload(), given, |it| codec::decode(it))?;
        let way = Way::Socket {
            connection,
            server: welcome.server,
            most: usize::try_from(welcome.message_limit).unwrap_or(usize::MAX),
        };
        Ok((Self::new(way), welcome))
    }

    /// In the server itself.
    pub(super) fn here(server: &'static Server) -> Self {
        Self::new(Way::Here(server, Session::new()))
    }

    fn new(way: Way) -> Self {
        Self {
            way,
            is_broken: AtomicBool::new(false),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        // Relaxed: a link has one user at a time.
        self.is_broken.load(Ordering::Relaxed)
    }

    /// How many items of so many bytes a request has room for, at least one.
    pub(super) fn room_for(&self, bytes: usize) -> usize {
        /// More than what stands before them.
        const HEAD: usize = 64;
        match &self.way {
            Way::Socket { most, .. } => (most.saturating_sub(HEAD) / bytes).max(1),
            Way::Here(..) => usize::MAX,
        }
    }

    /// Calls a method of an object, and waits for what it gives. What is decoded of the reply is all of it.
    #[inline]
    pub(super) fn call<R>(
        &self,
        target: u64,
        method: Method,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Reason>,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, Reason>,
    ) -> Result<R> {
        let request = |message: &mut Vec<u8>| {
            Request::put_head(target, method, message);
            encode(message)
        };
        let (connection, server, most) = match &self.way {
            Way::Socket {
                connection,
                server,
                most,
            } => (connection, *server, *most),
            Way::Here(server, session) => return call_here(server, session, request, decode),
        };
        let request = |message: &mut Vec<u8>| handle::address_to(server, || request(message));
        let sent = connection.send_encoded(most, request);
        sent.map_err(|it| self.not_sent(it))?;
        let reply = connection.recv_message(usize::MAX, None);
        let reply = reply.map_err(|it| self.failed(it))?;
        let mut reply = reply.expect("a wait without a limit ends with a reply");
        let given = reply.take_descriptors();
        decode_reply(reply.payload(), given, decode)
    }

    /// The caller's error when a request was not sent: one that cannot be says nothing about the connection.
    #[cold]
    fn not_sent(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Codec | ErrorKind::InvalidInput | ErrorKind::Unsupported => error,
            _ => self.failed(error),
        }
    }

    /// The caller's error when the server could not be talked to.
    #[cold]
    fn failed(&self, error: Error) -> Error {
        self.is_broken.store(true, Ordering::Relaxed);
        if error.kind() == ErrorKind::Disconnected {
            return gone("it has ended, or has closed the connection");
        }
        error
    }
}

/// The caller's error when there is no server any more.
pub(super) fn gone(why: impl fmt::Display) -> Error {
    let message = format!("the manager's server is gone: {why}");
    Error::new(ErrorKind::Disconnected, message)
}

fn call_here<R>(
    server: &Server,
    session: &Session,
    request: impl FnOnce(&mut Vec<u8>) -> Result<(), Reason>,
    decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, Reason>,
) -> Result<R> {
    let not_encoded = |reason| Error::new(ErrorKind::Codec, reason);
    let (mut message, mut descriptors) = (Vec::new(), Vec::new());
    handle::collect(&mut descriptors, || request(&mut message)).map_err(not_encoded)?;
    let mut reply = Reply::new();
    server.answer(session, &message, descriptors, &mut reply);
    let left = std::mem::take(&mut reply.handles().left);
    let outcome = decode_reply(reply.bytes(), left, decode);
    session.clean();
    outcome
}

#[inline]
pub(super) fn decode_reply<R>(
    reply: &[u8],
    given: Vec<Attached>,
    decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, Reason>,
) -> Result<R> {
    let fail = |reason| {
        let message = format!("failed to decode what the manager's server has answered: {reason}");
        Error::new(ErrorKind::Codec, message)
    };
    let mut rest = Cursor::new(reply.get(1..).unwrap_or_default());
    if reply.first() != Some(&VALUE) {
        let fault: Fault = codec::decode(&mut rest).map_err(fail)?;
        return Err(protocol::into_error(fault));
    }
    if given.is_empty() {
        return decode(&mut rest).map_err(fail);
    }
    handle::provide(given, || decode(&mut rest)).map_err(fail)
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.way {
            Way::Socket { .. } => "Socket",
            Way::Here(..) => "Here",
        };
        f.debug_struct("Link").field("way", &kind).finish()
    }
}
