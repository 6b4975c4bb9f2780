//! What nobody refers to any more is dropped by a thread of its own: a destructor of the user's may
//! take its time, or wait for the very client whose reference went. One after the other, so that
//! one which panics keeps no other object.

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

/// How many may wait for that: more are dropped by whoever lets go of them, so that no more piles
/// up than is dropped, and a destructor which never ends keeps no others.
const MAX_QUEUED: usize = 64;

/// Where references go that the server lets go of.
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
            // The thread is there as long as the server.
            if let Err(TrySendError::Full(object)) = self.0.try_send(object) {
                drop_object(object);
            }
        }
    }
}

/// What a destructor panics with has been reported, and is nobody else's business.
fn drop_object(object: Arc<ServerObject>) {
    let _ = panic::catch(|| drop(object));
}
