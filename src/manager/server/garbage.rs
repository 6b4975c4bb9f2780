//! What nobody refers to any more is dropped by a thread of its own: a destructor of the user's may take its time, or wait for the
//! very client whose reference went. One after the other, so that one which panics keeps no other object.

use super::object::Object;
use crate::process::panic;
use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread,
};

/// Where references go that the server lets go of. One that never ends keeps those behind it, and nothing else.
#[derive(Debug)]
pub(super) struct Garbage(Sender<Arc<Object>>);

impl Garbage {
    /// Starts the thread.
    pub(super) fn collector() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().spawn(move || {
            for object in receiver {
                let _ = panic::run(|| drop(object));
            }
        })?;
        Ok(Self(sender))
    }

    pub(super) fn take(&self, objects: impl IntoIterator<Item = Arc<Object>>) {
        for object in objects {
            // The thread is there as long as the server.
            let _ = self.0.send(object);
        }
    }
}
