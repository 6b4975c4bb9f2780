//! The thread that drops objects without references. A user's destructor may take long, or wait for
//! the client whose reference was dropped. The thread drops one object at a time, and catches a
//! panic so that it affects no other object.

use super::object::ServerObject;
use crate::process::panic;
use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, SyncSender, TrySendError},
    },
    thread,
};

/// Maximum number of queued objects. Above it, the thread that released the object drops it. So the
/// queue cannot grow faster than it drains, and a destructor that never returns keeps no other
/// objects.
const MAX_QUEUED: usize = 64;

/// The queue of released references.
#[derive(Debug)]
pub(super) struct DropThread(SyncSender<Arc<ServerObject>>);

impl DropThread {
    /// Starts the thread.
    pub(super) fn spawn() -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(MAX_QUEUED);
        thread::Builder::new().spawn(move || receiver.into_iter().for_each(drop_object))?;
        Ok(Self(sender))
    }

    pub(super) fn drop_all(&self, objects: impl IntoIterator<Item = Arc<ServerObject>>) {
        for object in objects {
            // The thread lives as long as the server.
            if let Err(TrySendError::Full(object)) = self.0.try_send(object) {
                drop_object(object);
            }
        }
    }
}

/// The panic hook has already reported a panic of the destructor, which affects no other object.
fn drop_object(object: Arc<ServerObject>) {
    let _ = panic::catch(|| drop(object));
}
