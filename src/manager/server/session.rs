//! What the server knows of one connection: what is referred to and held through it, and whether its client is there.

use super::{Server, object::Object};
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

/// A client, as far as one of its connections goes. It ends with the connection.
pub(in crate::manager) struct Session {
    number: u64,
    /// Set when the client has gone; whoever waits in its name looks at it. Nothing else is read on its account.
    has_gone: AtomicBool,
    /// Who waits in its name.
    thread: OnceLock<Thread>,
    references: Mutex<HashMap<u64, Arc<Object>>>,
    /// Let go of, and dropped when the reply was sent.
    garbage: Mutex<Vec<Arc<Object>>>,
}

impl Session {
    pub(in crate::manager) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            has_gone: AtomicBool::new(false),
            thread: OnceLock::new(),
            references: Mutex::default(),
            garbage: Mutex::default(),
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

    /// Whether nobody waits for what is done in its name.
    pub(in crate::manager) fn has_gone(&self) -> bool {
        self.has_gone.load(Ordering::Acquire)
    }

    pub(super) fn runs_on(&self, thread: Thread) {
        // Each session has one thread, and this is said once.
        let _ = self.thread.set(thread);
    }

    /// The client has gone: a wait in its name ends.
    pub(super) fn hang_up(&self) {
        self.has_gone.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(super) fn refer_to(&self, object: Arc<Object>) {
        let before = self.references.lock().insert(object.id(), object);
        self.garbage.lock().extend(before);
    }

    pub(super) fn release(&self, id: u64) {
        let object = self.references.lock().remove(&id);
        self.garbage.lock().extend(object);
    }

    /// Drops what the client has let go of.
    pub(in crate::manager) fn clean(&self) {
        let garbage = mem::take(&mut *self.garbage.lock());
        drop(garbage);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(server) = Server::here() {
            server.maker_has_gone(self.number);
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
