//! Runs single items and replies to each.

use crate::pool::{
    protocol::{
        SlabRef,
        fds::{self, FdRange},
        region::ReplyKind,
    },
    worker::{
        Disconnected, current,
        frame::Frame,
        reply_writer::{PanicContext, ReplyWriter},
        result_slabs::ResultSlabs,
    },
};
use crate::process::{
    function::{CallHandles, Invocation},
    panic,
    task_error::TaskError,
};
use crate::shm::{Buffer, SPILL, SlabSource};
use crate::sys::{child, pid, socket};
use crate::wire::{codec, handle::Attached};
use std::{
    io, mem,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How long the worker waits for room for a result's descriptors.
const FD_SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval between two attempts to send them.
const FD_SEND_INTERVAL: Duration = Duration::from_micros(200);

/// Runs single items and replies to each.
pub(crate) struct TaskRunner {
    /// The worker process, to detect a forked copy of it.
    owner: u32,
    pub(crate) replies: Rc<ReplyWriter>,
    socket: Rc<OwnedFd>,
    /// The result of the running item.
    result: Buffer,
    /// The handles in its argument and in its result.
    handles: CallHandles,
    /// This worker's slabs, which hold large results.
    slabs: Arc<ResultSlabs>,
}

impl TaskRunner {
    pub(crate) fn new(replies: Rc<ReplyWriter>, socket: Rc<OwnedFd>) -> Self {
        let slabs = Arc::new(ResultSlabs::default());
        Self {
            owner: pid::current(),
            replies,
            socket,
            result: Buffer::new(Arc::clone(&slabs) as _),
            handles: CallHandles::default(),
            slabs,
        }
    }

    /// Releases the memory of the result buffer.
    pub(crate) fn shrink(&mut self) {
        self.result.clear();
        drop(self.result.take_private());
    }

    /// Claims an item. Returns false if it was revoked.
    #[inline]
    pub(crate) fn start(&self, item: u32) -> bool {
        let started = self.replies.region.try_start(item);
        if started {
            self.replies.panic_context.set(PanicContext::Item(item));
            current::set_item(item);
            self.replies.wake_if_requested();
        }
        started
    }

    /// Sets the handles in the argument of the next item.
    pub(crate) fn set_argument_fds(&mut self, handles: Vec<Attached>) {
        self.handles.received_fds = handles;
    }

    /// Runs a claimed item and replies. Fails if the pool is gone.
    pub(crate) fn run(
        &mut self,
        item: u32,
        frame: &Frame<'_>,
        bytes: &[u8],
    ) -> Result<(), Disconnected> {
        let mut fault = self.call(frame, bytes);
        if pid::current() != self.owner {
            // The task has forked, and this is the copy. The worker replies.
            child::exit_now(0);
        }
        current::count_task();
        if !self.handles.sent_fds.is_empty() {
            fault = self.send_result_fds(item, fault);
        }
        if fault.is_none() && !self.result.is_large() && self.result.private().len() <= SPILL {
            self.replies
                .append(item, ReplyKind::Value, self.result.private());
            return Ok(());
        }
        self.reply_large_or_error(item, fault)
    }

    /// Calls the function, and leaves its result in the buffer. Returns the error if it failed.
    #[inline]
    fn call(&mut self, frame: &Frame<'_>, bytes: &[u8]) -> Option<Box<TaskError>> {
        self.result.clear();
        let mut call = Invocation {
            argument: frame.argument(bytes),
            context: frame.context,
            result: &mut self.result,
            handles: &mut self.handles,
        };
        let mut failure = None;
        // Errors are boxed, so that a success moves only a pointer: a large outcome costs more to
        // move than a tiny item to run.
        let outcome = panic::catch(|| match frame.callable.invoke(&mut call) {
            Ok(()) => {}
            Err(error) => failure = Some(Box::new(TaskError::from(error))),
        });
        outcome.err().or(failure)
    }

    /// Sends the handles of the result that is appended next, unless the item failed.
    #[cold]
    fn send_result_fds(
        &mut self,
        item: u32,
        fault: Option<Box<TaskError>>,
    ) -> Option<Box<TaskError>> {
        let descriptors = mem::take(&mut self.handles.sent_fds);
        if fault.is_some() {
            return fault;
        }
        for (range, part) in FdRange::split(&descriptors) {
            let sent = self.send(|socket| fds::try_send_fds(socket, part));
            if let Err(error) = sent {
                let reason = format!("failed to send its handles: {error}");
                return Some(Box::new(TaskError::Encode(reason)));
            }
            // After each message, so that the pool makes room for the next.
            self.replies.append(item, ReplyKind::Fds, &range.to_bytes());
        }
        None
    }

    /// Sends a message to the pool, and waits at most `FD_SEND_TIMEOUT` for room. A task may have
    /// filled the socket.
    fn send(&self, try_send: impl Fn(&OwnedFd) -> io::Result<()>) -> io::Result<()> {
        let deadline = Instant::now() + FD_SEND_TIMEOUT;
        loop {
            match try_send(&self.socket) {
                Err(error) if socket::is_full(&error) && Instant::now() < deadline => {
                    // The pool must be awake to make room. If other processes filled the socket, no
                    // event reports that they made room.
                    self.replies.wake_pool();
                    thread::sleep(FD_SEND_INTERVAL);
                }
                sent => return sent,
            }
        }
    }

    /// Replies with a large value or an error.
    #[cold]
    fn reply_large_or_error(
        &mut self,
        item: u32,
        fault: Option<Box<TaskError>>,
    ) -> Result<(), Disconnected> {
        if fault.is_none() && self.result.is_large() {
            return self.reply_in_slab(item);
        }
        if let Some((slab, _)) = self.result.take_slab() {
            self.slabs.give_back(slab);
        }
        let no_memory = || TaskError::Encode("shared memory is unavailable for it".to_owned());
        let fault = fault.map_or_else(no_memory, |it| *it);
        self.replies.fault(item, ReplyKind::Fault, &fault);
        Ok(())
    }

    #[cold]
    fn reply_in_slab(&mut self, item: u32) -> Result<(), Disconnected> {
        let (slab, length) = self.result.take_slab().ok_or(Disconnected)?;
        if self.slabs.announce(slab.id) {
            self.send(|socket| fds::try_send_slab(socket, &slab))
                .map_err(|_| Disconnected)?;
        }
        slab.set_busy(true);
        let mut bytes = Vec::new();
        codec::encode(
            &SlabRef {
                slab: slab.id,
                length: length as u64,
            },
            &mut bytes,
        )
        .map_err(|_| Disconnected)?;
        self.slabs.give_back(slab);
        self.replies.append(item, ReplyKind::Slab, &bytes);
        for gone in self.slabs.trim() {
            self.replies
                .append(0, ReplyKind::SlabGone, &gone.to_le_bytes());
        }
        Ok(())
    }
}
