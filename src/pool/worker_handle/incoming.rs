//! Input from a worker other than its ring: wake-ups, the exit record, slabs and handles.

use crate::error::{Error, Result};
use crate::pool::{
    protocol::fds::{FdMessage, FdRange},
    task::encoded::{Encoded, MAX_SLABS, WorkerSlab},
    worker_handle::{WorkerHandle, io::WorkerIo},
};
use crate::process::start::ExitRecord;
use crate::wire::handle::Attached;
use std::{io, sync::Arc};

/// The maximum number of reads of the wake-up pipe at a time, of 256 bytes each. A worker writes
/// one byte each time that the pool sleeps, and the pool reads them when it wakes: more are a
/// flood.
const MAX_READS: usize = 16;

/// The maximum number of messages in the socket before the announced message. They belong
/// to records that were skipped.
const MAX_MESSAGES: usize = 64;

/// The maximum number of a worker's slabs that the pool maps. A worker has far fewer: it creates a
/// slab only if unread results occupy all others.
const MAX_WORKER_SLABS: usize = 1024;

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Reads the wake-up pipe: wake-ups, which are stale by now, and the exit record.
    ///
    /// Stops after 4096 bytes and gives the worker up, as a task may write forever. The next call
    /// reads the rest of a dead worker's pipe.
    pub(crate) fn drain_wakeups(&mut self) {
        let mut bytes = [0; 256];
        for _ in 0..MAX_READS {
            match self.io.read_wakeups(&mut bytes) {
                // The exit record, if there was one, was read before the end.
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

    /// Marks a worker as broken that violated the protocol outside its shared region. The next tick
    /// kills it.
    fn give_up(&mut self, reason: &'static str) {
        self.stray.get_or_insert(reason);
        self.region.mark_broken();
    }

    /// Returns how the worker violated the protocol, if it did.
    pub(crate) fn nonsense(&self) -> Option<&'static str> {
        let in_region = "the memory that it shares with the pool was written to";
        self.region
            .is_broken()
            .then(|| self.stray.unwrap_or(in_region))
    }

    /// Whether the worker was ready, by its wake-up pipe or its records. Reads the pipe.
    pub(crate) fn was_ready(&mut self) -> bool {
        if !self.is_ready {
            self.drain_wakeups();
        }
        self.is_ready || self.said_ready
    }

    /// Takes the `READY` byte, which comes once. Returns the bytes after it, or all bytes.
    fn take_ready_byte<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes.iter();
        let first = rest.find(|byte| **byte != ExitRecord::WAKEUP);
        if self.said_ready || first != Some(&ExitRecord::READY) {
            return bytes;
        }
        // 1. The worker writes the `Ready` record and this byte.
        // 2. Its first task overwrites the ring.
        // 3. The worker dies.
        // The byte proves that the setup was done: the death is not a failed start.
        self.said_ready = true;
        rest.as_slice()
    }

    fn take_wake_bytes(&mut self, bytes: &[u8]) {
        let bytes = self.take_ready_byte(bytes);
        if self.exit_record_bytes.is_empty() && bytes.iter().all(|byte| *byte == ExitRecord::WAKEUP)
        {
            return;
        }
        // The fork server writes the record last. It may be split over two reads.
        self.exit_record_bytes.extend(bytes);
        let surplus = self
            .exit_record_bytes
            .len()
            .saturating_sub(ExitRecord::SIZE);
        self.exit_record_bytes.drain(..surplus);
        if !self.io.is_dead() {
            // Only the fork server writes a record, and only after the death.
            self.give_up("its pipe to the pool was written to");
        } else if let Some(ExitRecord(status)) =
            ExitRecord::find(self.exit_record_bytes.make_contiguous())
        {
            self.exit = Some(status);
        }
    }

    /// Returns a result that is in one of the worker's slabs. Fails if the slab is unavailable: the
    /// kernel drops its descriptor if this process has too many.
    pub(crate) fn take_from_slab(&mut self, id: u32, length: u64) -> Result<Encoded> {
        let taken = self.try_take_from_slab(id, length);
        taken.ok_or_else(|| {
            let reason = io::Error::other("its shared memory could not be mapped here");
            Error::io("failed to receive a large result", reason)
        })
    }

    fn try_take_from_slab(&mut self, id: u32, length: u64) -> Option<Encoded> {
        let length = usize::try_from(length).ok()?;
        let mut remaining = MAX_MESSAGES;
        while !self.worker_slabs.contains_key(&id) {
            remaining = remaining.checked_sub(1)?;
            self.receive()?;
        }
        let slab = self.worker_slabs.get_mut(&id)?;
        if length > slab.capacity() {
            // 1. A caller holds a result in the slab as mapped before.
            // 2. The worker extended the slab.
            // 3. The caller still uses that mapping: a new one is made next to it.
            *slab = Arc::new(slab.mapped_again().ok()?);
            if length > slab.capacity() {
                return None;
            }
        }
        let result = WorkerSlab::new(Arc::clone(slab), length);
        if self.worker_slabs.len() <= MAX_SLABS {
            return Some(Encoded::WorkerSlab(Box::new(result)));
        }
        // Results that no caller takes would hold a descriptor each.
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).ok()?;
        result.copy_out(&mut bytes);
        Some(Encoded::Private(bytes.into()))
    }

    /// Receives the next message from the socket. Stores a slab in `worker_slabs`.
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

    /// Receives the handles of the next reply.
    pub(crate) fn receive_fds(&mut self, range: FdRange) {
        for _ in 0..MAX_MESSAGES {
            match self.receive() {
                Some(FdMessage::Fds(fds)) => return self.reply_fds.add(range, fds),
                Some(FdMessage::Slab(..)) => {}
                None => return,
            }
        }
    }

    /// Takes the handles that belong to the current reply.
    pub(crate) fn take_reply_fds(&mut self) -> Vec<Attached> {
        self.reply_fds.take()
    }

    pub(crate) fn forget_slab(&mut self, id: u32) {
        self.worker_slabs.remove(&id);
    }
}
