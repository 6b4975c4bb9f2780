//! What the server knows of one connection: what is referred to and held through it, and whether its client is there.

use super::{Server, object::Object, watcher::Peer};
use crate::process::function::Invocation;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::Thread,
};

/// Something that a client can hold, and that must go on without it.
pub(in crate::manager) trait Holdable: Send + Sync {
    /// The session has ended while it held this.
    fn holder_has_gone(&self, session: u64);
}

/// Whoever waits in a client's name, as the watcher knows it: nothing of the client's ends with this.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    /// Set when the client has gone; who waits looks at it. Nothing else is read on its account.
    has_gone: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Waiter {
    /// The client has gone: a wait in its name ends.
    pub(super) fn hang_up(&self) {
        self.has_gone.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

type Undo = Box<dyn FnOnce() + Send>;

/// A client, as far as one of its connections goes. It ends with the connection.
pub(in crate::manager) struct Session {
    number: u64,
    waiter: Arc<Waiter>,
    peer: OnceLock<Arc<Peer>>,
    references: Mutex<HashMap<u64, Arc<Object>>>,
    held: Mutex<Vec<Arc<dyn Holdable>>>,
    /// What takes the last call back if its reply cannot be delivered.
    undo: Mutex<Option<Undo>>,
    /// The tokens in the last reply.
    replied: Mutex<Vec<u64>>,
}

impl Session {
    pub(in crate::manager) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            waiter: Arc::default(),
            peer: OnceLock::new(),
            references: Mutex::default(),
            held: Mutex::default(),
            undo: Mutex::default(),
            replied: Mutex::default(),
        }
    }

    /// The session in which a handler is called.
    pub(in crate::manager) fn of<'a>(call: &Invocation<'a>) -> &'a Self {
        let session = call.context.and_then(|it| it.downcast_ref());
        session.expect("every handler is called in a session")
    }

    /// Its number, which no other has.
    pub(in crate::manager) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_with(&self, peer: &Arc<Peer>) {
        // Each session has one client, and this is said once.
        let _ = self.peer.set(Arc::clone(peer));
    }

    /// As [`has_gone`](Self::has_gone), also before the watcher has noticed.
    pub(in crate::manager) fn has_just_gone(&self) -> bool {
        self.has_gone() || self.peer.get().is_some_and(|it| it.has_gone())
    }

    /// Whether nobody waits for what is done in its name.
    pub(in crate::manager) fn has_gone(&self) -> bool {
        self.waiter.has_gone.load(Ordering::Acquire)
    }

    pub(super) fn runs_on(&self, thread: Thread) {
        // Each session has one thread, and this is said once.
        let _ = self.waiter.thread.set(thread);
    }

    pub(super) fn waiter(&self) -> Arc<Waiter> {
        Arc::clone(&self.waiter)
    }

    /// Refers to an object in the client's name; the reference that there was before.
    pub(super) fn refer_to(&self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.references.lock().insert(object.id(), object)
    }

    /// Takes a reference back.
    pub(super) fn release(&self, id: u64) -> Option<Arc<Object>> {
        self.references.lock().remove(&id)
    }

    pub(super) fn take_references(&self) -> impl Iterator<Item = Arc<Object>> {
        mem::take(&mut *self.references.lock()).into_values()
    }

    pub(super) fn has_replied(&self, tokens: Vec<u64>) {
        *self.replied.lock() = tokens;
    }

    pub(super) fn take_replied(&self) -> Vec<u64> {
        mem::take(&mut *self.replied.lock())
    }

    /// Notes what is held in its name.
    pub(in crate::manager) fn holds(&self, what: Arc<dyn Holdable>) {
        self.held.lock().push(what);
    }

    /// Forgets it again.
    pub(in crate::manager) fn lets_go(&self, what: &Arc<dyn Holdable>) {
        let mut held = self.held.lock();
        if let Some(index) = held.iter().rposition(|it| Arc::ptr_eq(it, what)) {
            held.swap_remove(index);
        }
    }

    /// Says what to do if the reply of this call cannot be delivered.
    pub(in crate::manager) fn if_undelivered(&self, undo: impl FnOnce() + Send + 'static) {
        *self.undo.lock() = Some(Box::new(undo));
    }

    /// The last reply could not be delivered.
    pub(super) fn take_back(&self) {
        let undo = self.undo.lock().take();
        if let Some(undo) = undo {
            undo();
        }
    }

    /// Drops what the client was sent.
    pub(in crate::manager) fn clean(&self) {
        let undo = self.undo.lock().take();
        drop(undo);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for held in mem::take(self.held.get_mut()) {
            held.holder_has_gone(self.number);
        }
        if let Some(server) = Server::here() {
            server.has_ended(self);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("number", &self.number)
            .field("has_gone", &self.has_gone())
            .finish_non_exhaustive()
    }
}
