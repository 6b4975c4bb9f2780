//! The objects of a server: each lives as long as a reference to it exists. Calls on one object run
//! one at a time.

use super::Server;
use crate::error::ErrorKind;
use crate::process::function::{CallError, Exclusive};
use parking_lot::ReentrantMutex;
use std::{any::Any, cell::RefCell, fmt};

/// An object that its references share.
pub(in crate::manager) struct ServerObject {
    id: u64,
    value: Box<dyn Any + Send + Sync>,
}

impl ServerObject {
    pub(super) fn new(id: u64, value: impl Any + Send + Sync) -> Self {
        Self {
            id,
            value: Box::new(value),
        }
    }

    pub(in crate::manager) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn value(&self) -> &dyn Any {
        &*self.value
    }
}

impl Drop for ServerObject {
    fn drop(&mut self) {
        if let Some(server) = Server::current() {
            server.remove(self.id);
        }
    }
}

impl fmt::Debug for ServerObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerObject")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A value that one call uses at a time. A call that panics leaves its changes for the next call.
pub(in crate::manager) struct Guarded<T>(ReentrantMutex<RefCell<T>>);

impl<T> Guarded<T> {
    pub(in crate::manager) fn new(value: T) -> Self {
        Self(ReentrantMutex::new(RefCell::new(value)))
    }
}

impl<T> Exclusive<T> for Guarded<T> {
    fn with<X>(&self, turn: impl FnOnce(&mut T) -> X) -> Result<X, CallError> {
        // The lock is reentrant, so that a second use by the same thread is an error instead of a
        // deadlock.
        self.0.lock().with(turn)
    }
}

/// A value inside an object that the current call has locked.
impl<T> Exclusive<T> for RefCell<T> {
    fn with<X>(&self, turn: impl FnOnce(&mut T) -> X) -> Result<X, CallError> {
        let mut value = self.try_borrow_mut().map_err(|_| {
            let message = "a method of an object cannot use that object through a proxy";
            CallError::Refused(ErrorKind::InvalidInput, message.to_owned())
        })?;
        Ok(turn(&mut value))
    }
}
