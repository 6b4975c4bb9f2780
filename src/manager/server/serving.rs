//! One connection of a client, from its greeting to its end.

use super::{Reply, Server, Session, start::Limits, watcher::Watcher};
use crate::error::{Error, ErrorKind, Result};
use crate::ipc::Connection;
use crate::manager::protocol::{Hello, Welcome};
use crate::process::{fault::Fault, panic};
use crate::wire::codec::{self, Output};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a client may take for its greeting, for which it has nothing to wait.
const GREETED_WITHIN: Duration = Duration::from_secs(5);

/// Serves a client, until it is gone or talks nonsense.
pub(super) fn serve(
    server: &Server,
    watcher: &Watcher,
    connection: &Connection<(), ()>,
    limits: Limits,
) {
    let session = Session::new();
    session.runs_on(thread::current());
    let Ok(_watch) = watcher.watch(&session, connection) else {
        return refuse(
            connection,
            ErrorKind::Full,
            "the manager's server has no room for another client",
        );
    };
    let served = greet(server, connection, limits)
        .and_then(|()| answer_all(server, connection, &session, limits));
    if let Err(error) = served
        && error.kind() == ErrorKind::InvalidInput
    {
        refuse(connection, ErrorKind::InvalidInput, &error.to_string());
    }
    // What it was sent last may end with it, and a destructor of the user's may panic.
    let _ = panic::run(|| drop(session));
}

/// Tells a client why it is not served.
pub(super) fn refuse(connection: &Connection<(), ()>, kind: ErrorKind, why: &str) {
    let mut reply = Reply::new();
    reply.fail(&Fault::Refused(kind, why.to_owned()));
    // A client that is gone needs not know.
    let _ = send(connection, &mut reply);
}

fn greet(server: &Server, connection: &Connection<(), ()>, limits: Limits) -> Result<()> {
    let deadline = Instant::now() + GREETED_WITHIN;
    let hello = connection.recv_message(Hello::SIZE, Some(deadline))?;
    let hello = hello.ok_or_else(|| Error::new(ErrorKind::TimedOut, "no greeting has come"))?;
    let mut reply = Reply::new();
    let checked = Hello::check(hello.payload());
    match &checked {
        Ok(()) => reply.welcome(server, limits),
        Err(fault) => reply.fail(fault),
    }
    send(connection, &mut reply)?;
    checked.map_err(Fault::into_error)
}

fn answer_all(
    server: &Server,
    connection: &Connection<(), ()>,
    session: &Session,
    limits: Limits,
) -> Result<()> {
    let mut reply = Reply::new();
    while let Some(mut request) = connection.recv_message(limits.message, None)? {
        let given = request.take_descriptors();
        server.answer(session, request.payload(), given, &mut reply);
        if let Err(error) = send(connection, &mut reply) {
            session.take_back();
            return Err(error);
        }
        let _ = panic::run(|| session.clean());
    }
    Ok(())
}

fn send(connection: &Connection<(), ()>, reply: &mut Reply) -> Result<()> {
    if reply.handles().left.is_empty() {
        return connection.send_bytes(reply.bytes());
    }
    let left = std::mem::take(&mut reply.handles().left);
    let sent = connection.send_with(reply.bytes(), &left);
    if let Err(error) = &sent
        && error.kind() == ErrorKind::Unsupported
    {
        reply.fail(&Fault::Refused(ErrorKind::Unsupported, error.to_string()));
        return connection.send_bytes(reply.bytes());
    }
    sent
}

impl Reply {
    fn welcome(&mut self, server: &Server, limits: Limits) {
        self.clear();
        self.buffer.put(&[crate::manager::protocol::VALUE]);
        let welcome = Welcome {
            server: server.name(),
            message_limit: limits.message as u64,
        };
        // Two numbers cannot fail to encode.
        let _ = codec::encode(&welcome, &mut self.buffer);
    }
}
