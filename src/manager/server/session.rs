//! The server's state of one connection: its references and held locks, and whether its client is
//! alive.

use super::{
    Server,
    object::ServerObject,
    peer::{Peer, SessionWaiter},
};
use crate::process::function::Invocation;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::Thread,
};

/// A lock that a session can hold and that outlives the session.
pub(in crate::manager) trait Holdable: Send + Sync {
    /// Releases the lock after the session that held it has ended.
    fn release_gone_holder(&self, session: u64);
}

type Undo = Box<dyn FnOnce() + Send>;

/// A client on one of its connections. It ends with the connection.
pub(in crate::manager) struct Session {
    number: u64,
    waiter: Arc<SessionWaiter>,
    peer: OnceLock<Arc<Peer>>,
    references: Mutex<HashMap<u64, Arc<ServerObject>>>,
    held_locks: Mutex<Vec<Arc<dyn Holdable>>>,
    /// Undoes the last call if its reply cannot be delivered.
    undo: Mutex<Option<Undo>>,
    /// The tokens in the last reply.
    reply_tokens: Mutex<Vec<u64>>,
}

impl Session {
    pub(in crate::manager) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            waiter: Arc::default(),
            peer: OnceLock::new(),
            references: Mutex::default(),
            held_locks: Mutex::default(),
            undo: Mutex::default(),
            reply_tokens: Mutex::default(),
        }
    }

    /// Returns the session in which a handler is called.
    pub(in crate::manager) fn of<'a>(call: &Invocation<'a>) -> &'a Self {
        let session = call.context.and_then(|it| it.downcast_ref());
        session.expect("every handler is called in a session")
    }

    /// Returns the unique number of the session.
    pub(in crate::manager) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn set_peer(&self, peer: &Arc<Peer>) {
        // Set once: each session has one client.
        let _ = self.peer.set(Arc::clone(peer));
    }

    /// Like [`is_gone`](Self::is_gone), but also checks the client itself, in case the monitor has
    /// not noticed its end yet.
    pub(in crate::manager) fn probe_gone(&self) -> bool {
        self.is_gone() || self.peer.get().is_some_and(|it| it.is_gone())
    }

    /// Whether the client is gone, so that no call needs to wait for it.
    pub(in crate::manager) fn is_gone(&self) -> bool {
        self.waiter.is_gone.load(Ordering::Acquire)
    }

    pub(super) fn set_thread(&self, thread: Thread) {
        // Set once: each session has one thread.
        let _ = self.waiter.thread.set(thread);
    }

    pub(super) fn waiter(&self) -> Arc<SessionWaiter> {
        Arc::clone(&self.waiter)
    }

    /// Adds a reference of the client. Returns the previous reference to the same object.
    pub(super) fn add_reference(&self, object: Arc<ServerObject>) -> Option<Arc<ServerObject>> {
        self.references.lock().insert(object.id(), object)
    }

    /// Removes a reference of the client.
    pub(super) fn remove_reference(&self, id: u64) -> Option<Arc<ServerObject>> {
        self.references.lock().remove(&id)
    }

    pub(super) fn take_references(&self) -> impl Iterator<Item = Arc<ServerObject>> {
        mem::take(&mut *self.references.lock()).into_values()
    }

    pub(super) fn set_reply_tokens(&self, tokens: Vec<u64>) {
        *self.reply_tokens.lock() = tokens;
    }

    pub(super) fn take_reply_tokens(&self) -> Vec<u64> {
        mem::take(&mut *self.reply_tokens.lock())
    }

    /// Records a lock that the session holds.
    pub(in crate::manager) fn add_held(&self, what: Arc<dyn Holdable>) {
        self.held_locks.lock().push(what);
    }

    /// Removes a recorded lock.
    pub(in crate::manager) fn remove_held(&self, what: &Arc<dyn Holdable>) {
        let mut held = self.held_locks.lock();
        if let Some(index) = held.iter().rposition(|held| Arc::ptr_eq(held, what)) {
            held.swap_remove(index);
        }
    }

    /// Sets the action that undoes this call if its reply cannot be delivered.
    pub(in crate::manager) fn on_undelivered(&self, undo: impl FnOnce() + Send + 'static) {
        *self.undo.lock() = Some(Box::new(undo));
    }

    /// Undoes the last call, after its reply could not be delivered.
    pub(super) fn undo_last_call(&self) {
        let undo = self.undo.lock().take();
        if let Some(undo) = undo {
            undo();
        }
    }

    /// Drops the undo action, after the client has received the reply.
    pub(in crate::manager) fn discard_undo(&self) {
        let undo = self.undo.lock().take();
        drop(undo);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for held in mem::take(self.held_locks.get_mut()) {
            held.release_gone_holder(self.number);
        }
        if let Some(server) = Server::current() {
            server.end_session(self);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("number", &self.number)
            .field("is_gone", &self.is_gone())
            .finish_non_exhaustive()
    }
}
