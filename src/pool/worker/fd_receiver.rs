//! The worker's end of the socket: the pool's slabs, and the handles in arguments.
//!
//! Nothing is waited for: what a frame tells of was sent before the frame. If it is not there, a
//! task has taken it.

use crate::pool::{
    protocol::fds::{self, FdMessage, FdRange, PendingFds},
    worker::Disconnected,
};
use crate::shm::Slab;
use crate::sys::socket;
use crate::wire::handle::Attached;
use std::{collections::HashMap, os::fd::OwnedFd, rc::Rc};

/// What came through the socket, and was sent before the frame that tells of it.
pub(crate) struct FdReceiver {
    socket: Rc<OwnedFd>,
    /// The pool's slabs, with arguments; none for one whose descriptor was lost, or that could not
    /// be mapped.
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

    /// Takes in handles of what comes next. None if they are not there.
    pub(crate) fn receive_fds(&mut self, range: FdRange) -> Result<(), Disconnected> {
        if range.count == 0 {
            // What came is void.
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

    /// The handles that came before a frame.
    pub(crate) fn take_fds(&mut self) -> Vec<Attached> {
        self.handles.take()
    }

    /// The pool's slab, mapped as far as it has to be.
    pub(crate) fn slab(&mut self, id: u32, bytes: u64) -> Option<&Slab> {
        self.receive_slab(id).ok()?;
        let slab = self.slabs.get_mut(&id)?.as_mut()?;
        slab.map_growth(usize::try_from(bytes).ok()?)
            .then_some(slab)
    }

    /// Drops a slab, which may never have been looked at: a frame that was taken back is skipped.
    pub(crate) fn drop_slab(&mut self, id: u32) {
        // One that is not there need not be dropped.
        let _ = self.receive_slab(id);
        self.slabs.remove(&id);
    }

    fn receive_slab(&mut self, id: u32) -> Result<(), Disconnected> {
        while !self.slabs.contains_key(&id) {
            self.receive().ok_or(Disconnected)?;
        }
        Ok(())
    }

    /// The next message; a slab has been put in its place.
    fn receive(&mut self) -> Option<FdMessage> {
        let receive = |it: &mut [u8]| socket::try_receive(&*self.socket, it);
        let mut message = fds::next_message(receive, Slab::to_read)?;
        if let FdMessage::Slab(number, slab) = &mut message {
            self.slabs.insert(*number, slab.take());
        }
        Some(message)
    }
}
