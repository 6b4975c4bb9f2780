//! One connection of a client, from its greeting to its end.

use super::{ReplyBuffer, Server, Session, peer_monitor::PeerMonitor};
use crate::error::{Error, ErrorKind, Result};
use crate::ipc::Connection;
use crate::manager::protocol::{Hello, ServerLimits, Welcome};
use crate::process::{panic, task_error::TaskError};
use crate::wire::codec::{self, ByteSink};
use std::{
    thread,
    time::{Duration, Instant},
};

/// The time limit for a client's greeting; a client has nothing to wait for.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a client until it disconnects or violates the protocol.
pub(super) fn serve(
    server: &Server,
    monitor: &PeerMonitor,
    connection: &Connection<(), ()>,
    limits: ServerLimits,
) {
    let session = Session::new();
    session.set_thread(thread::current());
    let Ok(_guard) = monitor.watch(&session, connection) else {
        return refuse(
            connection,
            ErrorKind::Full,
            "the manager's server cannot serve another client",
        );
    };
    let served = greet(server, connection, limits)
        .and_then(|()| request_loop(server, connection, &session, limits));
    if let Err(error) = served
        && error.kind() == ErrorKind::InvalidInput
    {
        refuse(connection, ErrorKind::InvalidInput, &error.to_string());
    }
    // Dropping the session may drop the last reply's values, and a user's destructor may panic.
    let _ = panic::catch(|| drop(session));
}

/// Tells a client why it is refused.
pub(super) fn refuse(connection: &Connection<(), ()>, kind: ErrorKind, why: &str) {
    let mut reply = ReplyBuffer::new();
    reply.set_error(&TaskError::Refused(kind, why.to_owned()));
    // Fails if the client has disconnected.
    let _ = send(connection, &mut reply);
}

fn greet(server: &Server, connection: &Connection<(), ()>, limits: ServerLimits) -> Result<()> {
    let deadline = Instant::now() + GREETING_TIMEOUT;
    let hello = connection.recv_message(Hello::SIZE, Some(deadline))?;
    let hello = hello.ok_or_else(|| Error::new(ErrorKind::TimedOut, "no greeting arrived"))?;
    let mut reply = ReplyBuffer::new();
    let checked = Hello::check(hello.payload());
    match &checked {
        Ok(()) => reply.set_welcome(server, limits),
        Err(error) => reply.set_error(error),
    }
    send(connection, &mut reply)?;
    checked.map_err(TaskError::into_error)
}

fn request_loop(
    server: &Server,
    connection: &Connection<(), ()>,
    session: &Session,
    limits: ServerLimits,
) -> Result<()> {
    let mut reply = ReplyBuffer::new();
    while let Some(mut request) = connection.recv_message(limits.message, None)? {
        let fds = request.take_descriptors();
        server.handle_request(session, request.payload(), fds, &mut reply);
        if let Err(error) = send(connection, &mut reply) {
            session.undo_last_call();
            return Err(error);
        }
        let _ = panic::catch(|| session.discard_undo());
    }
    Ok(())
}

fn send(connection: &Connection<(), ()>, reply: &mut ReplyBuffer) -> Result<()> {
    if reply.handles().sent_fds.is_empty() {
        return connection.send_bytes(reply.bytes());
    }
    let fds = std::mem::take(&mut reply.handles().sent_fds);
    let sent = connection.send_with(reply.bytes(), &fds);
    if let Err(error) = &sent
        && error.kind() == ErrorKind::Unsupported
    {
        reply.set_error(&TaskError::Refused(
            ErrorKind::Unsupported,
            error.to_string(),
        ));
        return connection.send_bytes(reply.bytes());
    }
    sent
}

impl ReplyBuffer {
    fn set_welcome(&mut self, server: &Server, limits: ServerLimits) {
        self.clear();
        self.buffer.put(&[crate::manager::protocol::VALUE]);
        let welcome = Welcome {
            server: server.name(),
            message_limit: limits.message as u64,
        };
        // Encoding two numbers cannot fail.
        let _ = codec::encode(&welcome, &mut self.buffer);
    }
}
