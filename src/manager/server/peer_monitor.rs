//! The thread that notices whose end nobody reads about: clients that hang up while a call of
//! theirs waits, and the owner.

use super::{
    peer::{Peer, SessionWaiter},
    session::Session,
};
use crate::sys::{
    child::PidFd,
    poll::{Interest, Poller},
    socket,
};
use parking_lot::Mutex;
use std::{collections::HashMap, io, os::fd::AsFd, sync::Arc};

/// The number of what ends the server when it can be read from: the owner's process, or its word.
const STOP_TOKEN: u64 = 0;

/// Watches clients.
#[derive(Debug)]
pub(super) struct PeerMonitor {
    poller: Poller,
    /// By the numbers of their sessions.
    clients: Mutex<HashMap<u64, MonitoredClient>>,
}

#[derive(Debug)]
struct MonitoredClient {
    waiter: Arc<SessionWaiter>,
    peer: Arc<Peer>,
}

impl PeerMonitor {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            poller: Poller::new()?,
            clients: Mutex::default(),
        })
    }

    /// Watches for what ends the server.
    pub(super) fn stop_on(&self, source: impl AsFd) -> io::Result<()> {
        self.poller.add(source, STOP_TOKEN, Interest::Read)
    }

    /// Watches a client for as long as the result lives.
    pub(super) fn watch<'a>(
        &'a self,
        session: &Session,
        socket: impl AsFd,
    ) -> io::Result<MonitorGuard<'a>> {
        let number = session.number();
        let process = socket::peer(&socket).and_then(|it| PidFd::open(it).ok());
        let socket = socket.as_fd().try_clone_to_owned()?;
        self.poller.add(&socket, number, Interest::HangUp)?;
        if let Some(process) = &process {
            self.poller.add(process, number, Interest::ReadOnce)?;
        }
        let peer = Arc::new(Peer { socket, process });
        session.set_peer(&peer);
        let watched = MonitoredClient {
            waiter: session.waiter(),
            peer,
        };
        self.clients.lock().insert(number, watched);
        Ok(MonitorGuard(self, number))
    }

    /// Watches, until the server is to end.
    pub(super) fn run(&self) {
        let mut ready = Vec::new();
        loop {
            // It fails only for lack of memory, and then for a while.
            let waited = self.poller.wait(None, &mut ready);
            if waited.is_err() {
                ready.clear();
            }
            for number in &ready {
                if *number == STOP_TOKEN {
                    return;
                }
                self.hang_up(*number);
            }
        }
    }

    fn hang_up(&self, number: u64) {
        let waiter = {
            let clients = self.clients.lock();
            let Some(client) = clients.get(&number) else {
                return;
            };
            // Also when a copy of the client holds the socket open: nobody is to talk in its name.
            socket::shut_down(&client.peer.socket);
            Arc::clone(&client.waiter)
        };
        waiter.hang_up();
    }
}

/// A client that is watched.
pub(super) struct MonitorGuard<'a>(&'a PeerMonitor, u64);

impl Drop for MonitorGuard<'_> {
    fn drop(&mut self) {
        let Some(client) = self.0.clients.lock().remove(&self.1) else {
            return;
        };
        self.0.poller.remove(&client.peer.socket);
        if let Some(process) = &client.peer.process {
            self.0.poller.remove(process);
        }
    }
}
