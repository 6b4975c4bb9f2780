//! A lock of the server's that a thread of this process holds.
//!
//! It keeps the connection that it was taken through: when that ends, the server knows that the holder has died. Each process
//! knows what its threads hold, so that taking a lock twice is an error, or counted, without a message.

use super::{
    reference::{Held, Reference},
    waiting::Wait,
};
use crate::error::{Error, ErrorKind, Result};
use crate::process::function::Handler;
use parking_lot::Mutex;
use std::{
    marker::PhantomData,
    sync::Arc,
    thread::{self, ThreadId},
    time::Instant,
};

/// What the threads of this process hold.
static HOLDS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Entry {
    key: Key,
    held: Arc<Held>,
    /// How many guards there are.
    depth: usize,
}

/// A server, an object of its, and a thread.
type Key = (u64, u64, ThreadId);

/// What becomes of a thread that takes a lock which it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reentry {
    Refused,
    Counted,
}

/// A part of a guard.
#[derive(Debug)]
pub(super) struct Hold {
    key: Key,
    held: Arc<Held>,
    release: fn(&Held) -> Result<()>,
    bound_to_thread: PhantomData<*const ()>,
}

impl Hold {
    /// Takes a lock; also whether its last holder has died.
    pub(super) fn take<O: 'static>(
        reference: &Reference,
        acquire: Handler<O>,
        release: fn(&Held) -> Result<()>,
        wait: Wait,
        reentry: Reentry,
    ) -> Result<(Self, bool)> {
        let (server, id) = reference.identity();
        let key = (server, id, thread::current().id());
        if let Some(held) = enter_again(key, reentry) {
            return Ok((Self::new(key, held, release), false));
        }
        if is_held(key) {
            return Err(refused(wait));
        }
        let held = Arc::new(reference.hold()?);
        let owner_died = held.ask(acquire, &wait)?;
        HOLDS.lock().push(Entry {
            key,
            held: Arc::clone(&held),
            depth: 1,
        });
        Ok((Self::new(key, held, release), owner_died))
    }

    fn new(key: Key, held: Arc<Held>, release: fn(&Held) -> Result<()>) -> Self {
        Self {
            key,
            held,
            release,
            bound_to_thread: PhantomData,
        }
    }

    /// The connection that the lock was taken through.
    pub(super) fn held(&self) -> Result<&Held> {
        if self.held.is_own() {
            return Ok(&self.held);
        }
        let message = "the lock is held by the process that this one was forked from";
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

fn enter_again(key: Key, reentry: Reentry) -> Option<Arc<Held>> {
    let mut holds = HOLDS.lock();
    // What a copy of another process finds here is not its own.
    let entry = holds
        .iter_mut()
        .find(|it| it.key == key && it.held.is_own())?;
    (reentry == Reentry::Counted).then(|| {
        entry.depth += 1;
        Arc::clone(&entry.held)
    })
}

fn is_held(key: Key) -> bool {
    let holds = HOLDS.lock();
    holds.iter().any(|it| it.key == key && it.held.is_own())
}

/// As a lock in shared memory says no to the thread that holds it.
fn refused(wait: Wait) -> Error {
    // A limit that no clock reaches is none.
    if let (Wait::AtMost(limit), Some(deadline)) = (wait, wait.deadline()) {
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        let message = format!("this thread holds the lock, also after {limit:?}");
        return Error::new(ErrorKind::TimedOut, message);
    }
    if matches!(wait, Wait::Never) {
        return Error::new(ErrorKind::WouldBlock, "this thread holds the lock already");
    }
    let message = "this thread holds the lock already, and would wait for itself: use an RLock";
    Error::new(ErrorKind::InvalidInput, message)
}

impl Drop for Hold {
    /// Lets the lock go with the last guard. In a copy of the process that holds it nothing happens.
    fn drop(&mut self) {
        if !self.held.is_own() {
            return;
        }
        let mut holds = HOLDS.lock();
        let entry = holds
            .iter()
            .position(|it| it.key == self.key && it.held.is_own());
        let index = entry.expect("it was put there when the lock was taken");
        holds[index].depth -= 1;
        if holds[index].depth == 0 {
            let entry = holds.swap_remove(index);
            drop(holds);
            // A server that is gone has no locks.
            let _ = (self.release)(&entry.held);
        }
    }
}
