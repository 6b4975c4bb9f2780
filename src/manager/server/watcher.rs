//! The thread that notices whose end nobody reads about: clients that hang up while a call of theirs waits, and the owner.

use super::session::{Session, Waiter};
use crate::sys::{
    child::PidFd,
    poll::{self, Interest, Set},
    socket,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

/// The number of what ends the server when it can be read from: the owner's process, or its word.
const END: u64 = 0;

/// Watches clients.
#[derive(Debug)]
pub(super) struct Watcher {
    set: Set,
    /// By the numbers of their sessions.
    clients: Mutex<HashMap<u64, Watched>>,
}

#[derive(Debug)]
struct Watched {
    waiter: Arc<Waiter>,
    peer: Arc<Peer>,
}

/// What tells whether a client is there.
#[derive(Debug)]
pub(super) struct Peer {
    socket: OwnedFd,
    /// The process that connected, on this machine. A copy of it that it has forked may hold the socket open.
    process: Option<PidFd>,
}

impl Peer {
    pub(super) fn has_gone(&self) -> bool {
        poll::has_hung_up(&self.socket) || self.process.as_ref().is_some_and(PidFd::is_dead)
    }
}

impl Watcher {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            set: Set::new()?,
            clients: Mutex::default(),
        })
    }

    /// Watches for what ends the server.
    pub(super) fn ends_with(&self, source: impl AsFd) -> io::Result<()> {
        self.set.add(source, END, Interest::Read)
    }

    /// Watches a client for as long as the result lives.
    pub(super) fn watch<'a>(
        &'a self,
        session: &Session,
        socket: impl AsFd,
    ) -> io::Result<Watch<'a>> {
        let number = session.number();
        let process = socket::peer(&socket).and_then(|it| PidFd::open(it).ok());
        let socket = socket.as_fd().try_clone_to_owned()?;
        self.set.add(&socket, number, Interest::HangUp)?;
        if let Some(process) = &process {
            self.set.add(process, number, Interest::ReadOnce)?;
        }
        let peer = Arc::new(Peer { socket, process });
        session.is_with(&peer);
        let watched = Watched {
            waiter: session.waiter(),
            peer,
        };
        self.clients.lock().insert(number, watched);
        Ok(Watch(self, number))
    }

    /// Watches, until the server is to end.
    pub(super) fn run(&self) {
        let mut ready = Vec::new();
        loop {
            // It fails only for lack of memory, and then for a while.
            let waited = self.set.wait(None, &mut ready);
            if waited.is_err() {
                ready.clear();
            }
            for number in &ready {
                if *number == END {
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
pub(super) struct Watch<'a>(&'a Watcher, u64);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let Some(client) = self.0.clients.lock().remove(&self.1) else {
            return;
        };
        self.0.set.remove(&client.peer.socket);
        if let Some(process) = &client.peer.process {
            self.0.set.remove(process);
        }
    }
}
