//! Running single items, and answering each.

use super::{
    RUNNING, TASKS_DONE,
    frame::Frame,
    replies::{Doing, Replies},
    slabs::ResultSlabs,
};
use crate::pool::{
    descriptors::{self, Batch},
    page::Tag,
    protocol::InSlab,
};
use crate::process::{
    fault::Fault,
    function::{Handles, Invocation},
    panic,
};
use crate::shm::{Buffer, SPILL, Slabs};
use crate::sys::{child, pid, socket};
use crate::wire::{codec, handle::Attached};
use std::{
    io, mem,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long room for a result's descriptors is waited for.
const ROOM_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks for room.
const ROOM_PAUSE: Duration = Duration::from_micros(200);

/// Runs single items and answers them.
pub(super) struct Answers {
    /// This process.
    owner: u32,
    pub(super) replies: Rc<Replies>,
    socket: Rc<OwnedFd>,
    /// The result of the item that runs.
    result: Buffer,
    /// The handles in its argument and its result.
    handles: Handles,
    /// This worker's slabs, with results.
    slabs: Arc<ResultSlabs>,
}

impl Answers {
    pub(super) fn new(replies: Rc<Replies>, socket: Rc<OwnedFd>) -> Self {
        let slabs = Arc::new(ResultSlabs::default());
        Self {
            owner: pid::current(),
            replies,
            socket,
            result: Buffer::new(Arc::clone(&slabs) as _),
            handles: Handles::default(),
            slabs,
        }
    }

    /// Gives back the memory of results.
    pub(super) fn shrink(&mut self) {
        self.result.clear();
        drop(self.result.take_private());
    }

    /// Claims an item; false if it was taken back.
    #[inline]
    pub(super) fn start(&self, item: u32) -> bool {
        let started = self.replies.page.try_start(item);
        if started {
            self.replies.doing.set(Doing::Item(item));
            RUNNING.store(item, Ordering::Relaxed);
            self.replies.ring_if_wanted();
        }
        started
    }

    /// Takes the handles in the argument of the item that runs next.
    pub(super) fn give(&mut self, handles: Vec<Attached>) {
        self.handles.given = handles;
    }

    /// Runs an item that was claimed. None if it cannot be answered: the pool is gone.
    pub(super) fn run(&mut self, item: u32, frame: &Frame<'_>, bytes: &[u8]) -> Option<()> {
        let mut fault = self.call(frame, bytes);
        if pid::current() != self.owner {
            // The task has forked, and this is the copy: the worker answers.
            child::exit_now(0);
        }
        // One thread stores.
        TASKS_DONE.store(TASKS_DONE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if !self.handles.left.is_empty() {
            fault = self.send_handles(item, fault);
        }
        if fault.is_none() && !self.result.is_large() && self.result.private().len() <= SPILL {
            self.replies.append(item, Tag::Value, self.result.private());
            return Some(());
        }
        self.reply_otherwise(item, fault)
    }

    /// Leaves an item's result in the buffer, or says why there is none.
    #[inline]
    fn call(&mut self, frame: &Frame<'_>, bytes: &[u8]) -> Option<Box<Fault>> {
        self.result.clear();
        let mut call = Invocation {
            argument: frame.argument(bytes),
            context: frame.context,
            result: &mut self.result,
            handles: &mut self.handles,
        };
        let mut failure = None;
        // A pointer is what comes back of an item that went well: large outcomes cost more to move than tiny items.
        let outcome = panic::run(|| match frame.callable.invoke(&mut call) {
            Ok(()) => {}
            Err(error) => failure = Some(Box::new(Fault::from(error))),
        });
        outcome.err().or(failure)
    }

    /// Sends the handles of the result that is appended next, if there is one.
    #[cold]
    fn send_handles(&mut self, item: u32, fault: Option<Box<Fault>>) -> Option<Box<Fault>> {
        let descriptors = mem::take(&mut self.handles.left);
        if fault.is_some() {
            return fault;
        }
        for (batch, part) in Batch::cut(&descriptors) {
            let sent = self.send(|socket| descriptors::try_send_handles(socket, part));
            if let Err(error) = sent {
                let reason = format!("its handles could not be sent: {error}");
                return Some(Box::new(Fault::Encode(reason)));
            }
            // One by one, so that the pool makes room for the next.
            self.replies.append(item, Tag::Handles, &batch.to_bytes());
        }
        None
    }

    /// Sends a message to the pool, and waits for room for it, but not for ever: a task may have filled the socket.
    fn send(&self, try_send: impl Fn(&OwnedFd) -> io::Result<()>) -> io::Result<()> {
        let limit = Instant::now() + ROOM_LIMIT;
        loop {
            match try_send(&self.socket) {
                Err(error) if socket::is_full(&error) && Instant::now() < limit => {
                    // The pool must be awake to make room, and nothing tells when other processes have made theirs.
                    self.replies.ring();
                    thread::sleep(ROOM_PAUSE);
                }
                sent => return sent,
            }
        }
    }

    /// Replies with what is not a small value.
    #[cold]
    fn reply_otherwise(&mut self, item: u32, fault: Option<Box<Fault>>) -> Option<()> {
        if fault.is_none() && self.result.is_large() {
            return self.reply_in_slab(item);
        }
        let unused = self.result.take_slab();
        unused
            .into_iter()
            .for_each(|(slab, _)| self.slabs.give_back(slab));
        let no_memory = || Fault::Encode("no shared memory is to be had for it".to_owned());
        let fault = fault.map_or_else(no_memory, |it| *it);
        self.replies.fault(item, Tag::Fault, &fault);
        Some(())
    }

    #[cold]
    fn reply_in_slab(&mut self, item: u32) -> Option<()> {
        let (slab, length) = self.result.take_slab()?;
        if self.slabs.announce(slab.id) {
            self.send(|socket| descriptors::try_send_slab(socket, &slab))
                .ok()?;
        }
        slab.set_busy(true);
        let mut bytes = Vec::new();
        codec::encode(
            &InSlab {
                slab: slab.id,
                length: length as u64,
            },
            &mut bytes,
        )
        .ok()?;
        self.slabs.give_back(slab);
        self.replies.append(item, Tag::Slab, &bytes);
        for gone in self.slabs.trim() {
            self.replies.append(0, Tag::SlabGone, &gone.to_le_bytes());
        }
        Some(())
    }
}
