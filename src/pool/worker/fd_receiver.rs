//! The worker's end of the descriptor socket: receives the pool's slabs and the handles in
//! arguments.
//!
//! Never blocks: descriptors are sent before the frame that announces them. If they are missing, a
//! task has read them from the socket.

use crate::pool::{
    protocol::fds::{self, FdMessage, FdRange, PendingFds},
    worker::Disconnected,
};
use crate::shm::Slab;
use crate::sys::socket;
use crate::wire::handle::Attached;
use std::{collections::HashMap, os::fd::OwnedFd, rc::Rc};

/// Descriptors that were received but not used yet.
pub(crate) struct FdReceiver {
    socket: Rc<OwnedFd>,
    /// The pool's slabs, which hold arguments. `None` if the descriptor was lost or could not be
    /// mapped.
    slabs: HashMap<u32, Option<Slab>>,
    handles: PendingFds,
}

impl FdReceiver {
    pub(crate) fn new(socket: Rc<OwnedFd>) -> Self {
        Self {
            socket,
            slabs: HashMap::new(),
            handles: PendingFds::default(),
        }
    }

    /// Receives descriptors for the next frame. Fails if they are missing.
    pub(crate) fn receive_fds(&mut self, range: FdRange) -> Result<(), Disconnected> {
        if range.count == 0 {
            // The pool announces that the descriptors received so far are void.
            self.handles.take();
            return Ok(());
        }
        loop {
            if let FdMessage::Fds(fds) = self.receive().ok_or(Disconnected)? {
                self.handles.add(range, fds);
                return Ok(());
            }
        }
    }

    /// Takes the descriptors that were received before the frame.
    pub(crate) fn take_fds(&mut self) -> Vec<Attached> {
        self.handles.take()
    }

    /// Returns the pool's slab, mapped up to `bytes`.
    pub(crate) fn slab(&mut self, id: u32, bytes: u64) -> Option<&Slab> {
        self.receive_slab(id).ok()?;
        let slab = self.slabs.get_mut(&id)?.as_mut()?;
        slab.map_growth(usize::try_from(bytes).ok()?)
            .then_some(slab)
    }

    /// Drops a slab. It may never have been used, because a revoked frame is skipped.
    pub(crate) fn drop_slab(&mut self, id: u32) {
        // A lost slab needs no drop.
        let _ = self.receive_slab(id);
        self.slabs.remove(&id);
    }

    fn receive_slab(&mut self, id: u32) -> Result<(), Disconnected> {
        while !self.slabs.contains_key(&id) {
            self.receive().ok_or(Disconnected)?;
        }
        Ok(())
    }

    /// Receives the next message, and stores it if it is a slab.
    fn receive(&mut self) -> Option<FdMessage> {
        let receive = |buf: &mut [u8]| socket::try_receive(&*self.socket, buf);
        let mut message = fds::next_message(receive, Slab::to_read)?;
        if let FdMessage::Slab(number, slab) = &mut message {
            self.slabs.insert(*number, slab.take());
        }
        Some(message)
    }
}
