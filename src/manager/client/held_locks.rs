//! A lock of the server's that a thread of this process holds.
//!
//! It keeps the connection that it was taken through: when that ends, the server knows that the
//! holder has died. Each process knows what its threads hold, so that taking a lock twice is an
//! error, or counted, without a message.

use crate::error::{Error, ErrorKind, Result};
use crate::manager::{
    client::reference::{ObjectConnection, Reference},
    server::wait_queue::WaitLimit,
};
use crate::process::function::MethodHandler;
use parking_lot::Mutex;
use std::{
    marker::PhantomData,
    sync::Arc,
    thread::{self, ThreadId},
    time::Instant,
};

/// What the threads of this process hold.
static HELD_LOCKS: Mutex<Vec<HeldLock>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct HeldLock {
    key: LockKey,
    connection: Arc<ObjectConnection>,
    /// How many guards there are.
    depth: usize,
}

/// A server, an object of its, and a thread.
type LockKey = (u64, u64, ThreadId);

/// What becomes of a thread that takes a lock which it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manager) enum Reentrancy {
    ErrorCheck,
    Recursive,
}

/// A part of a guard.
#[derive(Debug)]
pub(in crate::manager) struct HeldLockGuard {
    key: LockKey,
    connection: Arc<ObjectConnection>,
    release: fn(&ObjectConnection) -> Result<()>,
    bound_to_thread: PhantomData<*const ()>,
}

impl HeldLockGuard {
    /// Takes a lock; also whether its last holder has died.
    pub(in crate::manager) fn acquire<O: 'static>(
        reference: &Reference,
        acquire: MethodHandler<O>,
        release: fn(&ObjectConnection) -> Result<()>,
        wait: WaitLimit,
        reentry: Reentrancy,
    ) -> Result<(Self, bool)> {
        let (server, id) = reference.identity();
        let key = (server, id, thread::current().id());
        if let Some(connection) = reenter(key, reentry) {
            return Ok((Self::new(key, connection, release), false));
        }
        if is_held(key) {
            return Err(fail_already_held(wait));
        }
        let connection = Arc::new(reference.connect()?);
        let owner_died = connection.ask(acquire, &wait)?;
        HELD_LOCKS.lock().push(HeldLock {
            key,
            connection: Arc::clone(&connection),
            depth: 1,
        });
        Ok((Self::new(key, connection, release), owner_died))
    }

    fn new(
        key: LockKey,
        connection: Arc<ObjectConnection>,
        release: fn(&ObjectConnection) -> Result<()>,
    ) -> Self {
        Self {
            key,
            connection,
            release,
            bound_to_thread: PhantomData,
        }
    }

    /// The connection that the lock was taken through.
    pub(in crate::manager) fn connection(&self) -> Result<&ObjectConnection> {
        if self.connection.is_of_this_process() {
            return Ok(&self.connection);
        }
        let message = "the lock is held by the process that this one was forked from";
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

fn reenter(key: LockKey, reentry: Reentrancy) -> Option<Arc<ObjectConnection>> {
    let mut locks = HELD_LOCKS.lock();
    // What a copy of another process finds here is not its own.
    let entry = locks
        .iter_mut()
        .find(|it| it.key == key && it.connection.is_of_this_process())?;
    (reentry == Reentrancy::Recursive).then(|| {
        entry.depth += 1;
        Arc::clone(&entry.connection)
    })
}

fn is_held(key: LockKey) -> bool {
    let locks = HELD_LOCKS.lock();
    locks
        .iter()
        .any(|it| it.key == key && it.connection.is_of_this_process())
}

/// As a lock in shared memory says no to the thread that holds it.
fn fail_already_held(wait: WaitLimit) -> Error {
    // A limit that no clock reaches is none.
    if let (WaitLimit::AtMost(limit), Some(deadline)) = (wait, wait.deadline()) {
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        let message = format!("this thread holds the lock, also after {limit:?}");
        return Error::new(ErrorKind::TimedOut, message);
    }
    if matches!(wait, WaitLimit::Never) {
        return Error::new(ErrorKind::WouldBlock, "this thread holds the lock already");
    }
    let message = "this thread holds the lock already, and would wait for itself: use an RLock";
    Error::new(ErrorKind::InvalidInput, message)
}

impl Drop for HeldLockGuard {
    /// Lets the lock go with the last guard. In a copy of the process that holds it nothing
    /// happens.
    fn drop(&mut self) {
        if !self.connection.is_of_this_process() {
            return;
        }
        let mut locks = HELD_LOCKS.lock();
        let entry = locks
            .iter()
            .position(|it| it.key == self.key && it.connection.is_of_this_process());
        let index = entry.expect("it was put there when the lock was taken");
        locks[index].depth -= 1;
        if locks[index].depth == 0 {
            let entry = locks.swap_remove(index);
            drop(locks);
            // A server that is gone has no locks.
            let _ = (self.release)(&entry.connection);
        }
    }
}
