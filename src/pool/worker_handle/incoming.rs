//! What comes from a worker beside the records of its ring: bells, the record of its end, slabs and
//! handles.

use crate::error::{Error, Result};
use crate::pool::{
    protocol::fds::{FdMessage, FdRange},
    task::encoded::{Encoded, MAX_SLABS, WorkerSlab},
    worker_handle::{WorkerHandle, io::WorkerIo},
};
use crate::process::start::ExitRecord;
use crate::wire::handle::Attached;
use std::{io, sync::Arc};

/// Reads of the bell's pipe at a time, of 256 bytes each. A worker writes a byte each time that the
/// pool falls asleep, and the pool reads them when it wakes: so many are a flood.
const MAX_READS: usize = 16;

/// Messages in the socket that may lie before the one that a record tells of: those of records that
/// are void.
const MAX_MESSAGES: usize = 64;

/// Slabs of a worker's that the pool has mapped at most. A worker has far fewer: it makes another
/// only while results lie in all that it has.
const MAX_WORKER_SLABS: usize = 1024;

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Reads the bell's pipe: bells, which mean nothing by now, and the record of the worker's end.
    ///
    /// Reads only so much, as a task may write to it all the time; such a worker is given up. What
    /// is left in the pipe of a dead one is read the next time.
    pub(crate) fn drain_wakeups(&mut self) {
        let mut bytes = [0; 256];
        for _ in 0..MAX_READS {
            match self.io.read_wakeups(&mut bytes) {
                Ok(0) => {
                    self.is_wake_pipe_closed = true;
                    return;
                }
                Ok(count) => {
                    self.take_wake_bytes(&bytes[..count]);
                    if count < bytes.len() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        self.give_up("its pipe to the pool was flooded");
    }

    /// Gives up a worker that has written nonsense, other than to its page: it is killed at the
    /// next look.
    fn give_up(&mut self, reason: &'static str) {
        self.stray.get_or_insert(reason);
        self.page.mark_broken();
    }

    /// What the worker has written that no worker writes, if it has.
    pub(crate) fn nonsense(&self) -> Option<&'static str> {
        let in_page = "the memory that it shares with the pool was written to";
        self.page.is_broken().then(|| self.stray.unwrap_or(in_page))
    }

    /// Whether its setup was done, as far as its pipe or its records say so.
    pub(crate) fn was_ready(&mut self) -> bool {
        if !self.is_ready {
            self.drain_wakeups();
        }
        self.is_ready || self.said_ready
    }

    /// Takes the byte that says that its setup is done, which comes once; what is left are the
    /// bytes behind it.
    fn hear_ready<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes.iter();
        let first = rest.find(|it| **it != ExitRecord::WAKEUP);
        if self.said_ready || first != Some(&ExitRecord::READY) {
            return bytes;
        }
        self.said_ready = true;
        rest.as_slice()
    }

    fn take_wake_bytes(&mut self, bytes: &[u8]) {
        let bytes = self.hear_ready(bytes);
        if self.exit_record_bytes.is_empty() && bytes.iter().all(|it| *it == ExitRecord::WAKEUP) {
            return;
        }
        // The record is the last that is written, and may come in two reads.
        self.exit_record_bytes.extend(bytes);
        let surplus = self
            .exit_record_bytes
            .len()
            .saturating_sub(ExitRecord::SIZE);
        self.exit_record_bytes.drain(..surplus);
        if !self.io.is_dead() {
            // Only the fork server writes a record, and only of the dead.
            self.give_up("its pipe to the pool was written to");
        } else if let Some(ExitRecord(status)) =
            ExitRecord::find(self.exit_record_bytes.make_contiguous())
        {
            self.exit = Some(status);
        }
    }

    /// Takes a result that lies in a slab of the worker's. An error if the slab is not to be had:
    /// its descriptor is lost when this process has too many.
    pub(crate) fn take_from_slab(&mut self, id: u32, length: u64) -> Result<Encoded> {
        let taken = self.try_take_from_slab(id, length);
        taken.ok_or_else(|| {
            let reason = io::Error::other("its shared memory could not be mapped here");
            Error::io("failed to receive a large result", reason)
        })
    }

    fn try_take_from_slab(&mut self, id: u32, length: u64) -> Option<Encoded> {
        let length = usize::try_from(length).ok()?;
        let mut left = MAX_MESSAGES;
        while !self.worker_slabs.contains_key(&id) {
            left = left.checked_sub(1)?;
            self.receive()?;
        }
        let slab = self.worker_slabs.get_mut(&id)?;
        if length > slab.capacity() {
            // Another mapping: whoever dropped the last payload may still hold the one that has
            // become too short.
            *slab = Arc::new(slab.mapped_again().ok()?);
            if length > slab.capacity() {
                return None;
            }
        }
        let payload = WorkerSlab::new(Arc::clone(slab), length);
        if self.worker_slabs.len() <= MAX_SLABS {
            return Some(Encoded::WorkerSlab(Box::new(payload)));
        }
        // Results that nobody takes would hold a descriptor each.
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).ok()?;
        payload.copy_out(&mut bytes);
        Some(Encoded::Private(bytes.into()))
    }

    /// The next message in the socket; a slab has been put in its place.
    fn receive(&mut self) -> Option<FdMessage> {
        let mut message = self.io.receive_fds()?;
        if let FdMessage::Slab(number, slab) = &mut message
            && let Some(slab) = slab.take()
        {
            self.worker_slabs.insert(*number, Arc::new(slab));
            if self.worker_slabs.len() > MAX_WORKER_SLABS {
                self.give_up("it sent more shared memory than a worker has");
                return None;
            }
        }
        Some(message)
    }

    /// Takes in handles of the reply that comes next.
    pub(crate) fn receive_fds(&mut self, range: FdRange) {
        for _ in 0..MAX_MESSAGES {
            match self.receive() {
                Some(FdMessage::Fds(fds)) => return self.reply_fds.add(range, fds),
                Some(FdMessage::Slab(..)) => {}
                None => return,
            }
        }
    }

    /// The handles that came with the reply.
    pub(crate) fn take_reply_fds(&mut self) -> Vec<Attached> {
        self.reply_fds.take()
    }

    pub(crate) fn forget_slab(&mut self, id: u32) {
        self.worker_slabs.remove(&id);
    }
}
