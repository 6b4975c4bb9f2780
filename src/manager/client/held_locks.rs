//! Locks of a server that threads of this process hold.
//!
//! A held lock keeps the connection through which it was acquired: if the connection ends, the
//! server knows that the holder has died. Each process records which locks its threads hold. So it
//! detects or counts a second acquisition without a message.

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

/// The locks that threads of this process hold.
static HELD_LOCKS: Mutex<Vec<HeldLock>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct HeldLock {
    key: LockKey,
    connection: Arc<ObjectConnection>,
    /// The number of guards.
    depth: usize,
}

/// A server, one of its objects, and a thread.
type LockKey = (u64, u64, ThreadId);

/// The result of acquiring a lock that the thread already holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manager) enum Reentrancy {
    ErrorCheck,
    Recursive,
}

/// The part that the guards of all locks share.
#[derive(Debug)]
pub(in crate::manager) struct HeldLockGuard {
    key: LockKey,
    connection: Arc<ObjectConnection>,
    release: fn(&ObjectConnection) -> Result<()>,
    bound_to_thread: PhantomData<*const ()>,
}

impl HeldLockGuard {
    /// Acquires a lock. Also returns whether its last holder has died.
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

    /// Returns the connection through which the lock was acquired.
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
    // A copy of a process also finds the locks of the original here.
    let entry = locks
        .iter_mut()
        .find(|entry| entry.key == key && entry.connection.is_of_this_process())?;
    (reentry == Reentrancy::Recursive).then(|| {
        entry.depth += 1;
        Arc::clone(&entry.connection)
    })
}

fn is_held(key: LockKey) -> bool {
    let locks = HELD_LOCKS.lock();
    locks
        .iter()
        .any(|entry| entry.key == key && entry.connection.is_of_this_process())
}

/// Fails like a lock in shared memory that its holder acquires again.
fn fail_already_held(wait: WaitLimit) -> Error {
    // A limit that overflows the clock means forever, and has no deadline.
    if let (WaitLimit::AtMost(limit), Some(deadline)) = (wait, wait.deadline()) {
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        let message = format!("this thread holds the lock and still held it after {limit:?}");
        return Error::new(ErrorKind::TimedOut, message);
    }
    if matches!(wait, WaitLimit::Never) {
        return Error::new(ErrorKind::WouldBlock, "this thread already holds the lock");
    }
    let message = "this thread already holds the lock and would deadlock: use an RLock";
    Error::new(ErrorKind::InvalidInput, message)
}

impl Drop for HeldLockGuard {
    /// Releases the lock if this is the last guard. Does nothing in a copy of the process that
    /// holds it.
    fn drop(&mut self) {
        if !self.connection.is_of_this_process() {
            return;
        }
        let mut locks = HELD_LOCKS.lock();
        let entry = locks
            .iter()
            .position(|entry| entry.key == self.key && entry.connection.is_of_this_process());
        let index = entry.expect("the entry was added when the lock was acquired");
        locks[index].depth -= 1;
        if locks[index].depth == 0 {
            let entry = locks.swap_remove(index);
            drop(locks);
            // Fails if the server has exited, and with it the lock.
            let _ = (self.release)(&entry.connection);
        }
    }
}
