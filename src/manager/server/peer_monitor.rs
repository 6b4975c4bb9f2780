//! The thread that notices the end of clients while their calls wait, and the end of the owner.

use super::{
    peer::{Peer, SessionWaiter},
    session::Session,
};
use crate::sys::{
    pidfd::PidFd,
    poll::{Interest, Poller},
    socket,
};
use parking_lot::Mutex;
use std::{collections::HashMap, io, os::fd::AsFd, sync::Arc};

/// The epoll token of the sources that stop the server: the owner's process and its shutdown
/// message.
const STOP_TOKEN: u64 = 0;

/// Watches clients and the owner.
#[derive(Debug)]
pub(super) struct PeerMonitor {
    poller: Poller,
    /// The clients, by the numbers of their sessions.
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

    /// Stops the server when `source` becomes readable.
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
        let process = socket::peer(&socket).and_then(|peer| PidFd::open(peer).ok());
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

    /// Watches until the server stops.
    pub(super) fn run(&self) {
        let mut ready = Vec::new();
        loop {
            // Waiting fails only if memory is short, which is temporary.
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
            // A forked copy of the client may keep the socket open: it must not act as the client.
            socket::shut_down(&client.peer.socket);
            Arc::clone(&client.waiter)
        };
        waiter.hang_up();
    }
}

/// Stops watching a client when it is dropped.
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
