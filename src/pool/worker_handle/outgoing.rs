//! What goes to a worker: units, contexts and slabs become frames, gathered and written as far as
//! the pipe has room.

use crate::error::{Error, Result};
use crate::pool::{
    protocol::{RequestHeader, RequestKind, fds::FdRange},
    task::{
        TaskKind, TaskLocation,
        encoded::Encoded,
        map::MapContext,
        work_item::{ChunkSlice, WorkItem},
    },
    worker_handle::{InFlight, MAX_POLL_INTERVAL, WorkerHandle, io::WorkerIo},
};
use crate::process::function::WireFunction;
use crate::shm::LivenessToken;
use crate::sys::socket;
use crate::wire::handle::Attached;
use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

/// Bytes of small frames that are gathered before they are written, while the worker has something
/// to do.
const FLUSH_BYTES: usize = 4096;

/// Between two attempts to send descriptors for which the kernel has no room.
const FD_RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// How long a worker with nothing to do may have no room for a value's descriptors before the value
/// fails: it takes them out as they come, so that others must be in the way.
const FD_RETRY_TIMEOUT: Duration = Duration::from_secs(1);

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Sends a unit, soon: it lies behind what is already staged. Gives it back with its own error,
    /// or without one if the worker is gone, or has no room for descriptors.
    pub(crate) fn stage(
        &mut self,
        slot: usize,
        work_item: WorkItem,
    ) -> Result<(), (WorkItem, Option<Error>)> {
        if let Err(error) = self.stage_item(&work_item) {
            let is_its_own = !self.is_socket_closed && self.stalled_until.is_none();
            return Err((work_item, Some(error).filter(|_| is_its_own)));
        }
        self.stalled_since = None;
        if let WorkItem::Call(task) = &work_item {
            task.set_location(TaskLocation::InFlight(slot, self.next_item));
        }
        if let Some(limit) = work_item.config().timeout {
            self.schedule_timeout_check(limit);
        }
        self.idle_until = None;
        let count = work_item.count();
        self.quota = self.quota.map(|it| it.saturating_sub(count.into()));
        self.page.allow(self.next_item, count);
        self.in_flight.push_back(InFlight {
            item: self.next_item,
            work_item,
        });
        self.next_item = self.next_item.wrapping_add(count);
        self.items += count;
        self.counters.sent += u64::from(count);
        Ok(())
    }

    /// Has the clock looked at when this limit may have passed.
    fn schedule_timeout_check(&mut self, limit: Duration) {
        let before = self.in_flight.back();
        let before = before.and_then(|it| it.work_item.config().timeout);
        // It is looked at sooner for the one before, and then for what is left.
        if self.check_timeout_at.is_none() || before.is_none_or(|it| it > limit) {
            let due = Io::now() + limit.min(MAX_POLL_INTERVAL);
            self.check_timeout_at = self.check_timeout_at.into_iter().chain([due]).min();
        }
    }

    fn stage_item(&mut self, work_item: &WorkItem) -> Result<()> {
        match work_item {
            WorkItem::Call(task) => {
                let TaskKind::Call(function) = task.kind else {
                    unreachable!("only calls are queued as one");
                };
                let header = self.items_header(function, 0, 1, work_item);
                task.with_argument(|argument| self.stage_value(header, argument))
            }
            WorkItem::Slice(items) => self.stage_slice(items, work_item),
        }
    }

    fn stage_slice(&mut self, items: &ChunkSlice, work_item: &WorkItem) -> Result<()> {
        let map = &items.chunk.map;
        let context = map
            .context
            .as_ref()
            .map_or(Ok(0), |it| self.stage_context(it))?;
        let mut payload = items.chunk.items.lock();
        if items.chunk.count == 1 {
            let header = self.items_header(map.function, context, 1, work_item);
            return self.stage_value(header, &mut payload);
        }
        let bytes = payload
            .bytes()
            .expect("a chunk of several items is private");
        let bytes = items.bytes_of(bytes);
        let mut header = self.items_header(map.function, context, items.count, work_item);
        let single = &bytes[if items.count == 1 {
            size_of::<u32>()
        } else {
            0
        }..];
        header.length = single.len() as u32;
        self.stage_frame(header, single);
        Ok(())
    }

    fn items_header(
        &self,
        function: WireFunction,
        context: u32,
        count: u32,
        work_item: &WorkItem,
    ) -> RequestHeader {
        let config = work_item.config();
        let mut header = RequestHeader::new(RequestKind::Items);
        header.submitted = work_item.submitted();
        // What is tried again travels alone.
        if config.retries > 0 && count == 1 {
            let attempt = work_item.with_attempts(|it| it.next());
            header.attempt = attempt.min(RequestHeader::MAX_ATTEMPTS.into()) as u16;
        }
        (header.item, header.count) = (self.next_item, count);
        (header.context, header.function) = (context, Some(function));
        header
    }

    /// Stages one item whose argument may lie in a slab.
    fn stage_value(&mut self, mut header: RequestHeader, argument: &mut Encoded) -> Result<()> {
        let value = match argument {
            Encoded::WithFds(handled) => {
                self.send_fds(&handled.descriptors)?;
                header.has_handles = true;
                &mut handled.value
            }
            value => value,
        };
        let Encoded::PoolSlab(ours) = value else {
            let bytes = value
                .bytes()
                .expect("an argument is private or in our slab");
            self.stage_frame(header, bytes);
            return Ok(());
        };
        let fail = |it| Error::io("failed to hand a large argument to a worker", it);
        if !ours.bind(&self.liveness) {
            return Err(fail(io::ErrorKind::OutOfMemory.into()));
        }
        let slab = ours.slab();
        if !self.pool_slabs.contains(&slab.id) {
            let sent = self.io.send_slab(slab);
            sent.map_err(|it| fail(self.fd_send_failed(it)))?;
            self.pool_slabs.push(slab.id);
        }
        (header.slab, header.slab_length) = (slab.id, ours.length as u64);
        self.stage_frame(header, &[]);
        Ok(())
    }

    /// Sends the handles of the value whose frame is staged next.
    pub(crate) fn send_fds(&mut self, descriptors: &[Attached]) -> Result<()> {
        for (range, part) in FdRange::split(descriptors) {
            let sent = self.io.send_fds(part);
            sent.map_err(|it| {
                Error::io(
                    "failed to hand descriptors to a worker",
                    self.fd_send_failed(it),
                )
            })?;
            let mut header = RequestHeader::new(RequestKind::Fds);
            (header.item, header.count) = (range.start, range.count);
            self.stage_frame(header, &[]);
        }
        if !descriptors.is_empty() {
            self.items_with_fds.push_back(self.next_item);
        }
        Ok(())
    }

    /// Notes what follows from descriptors that the kernel did not take: the worker is gone, or
    /// there is no room for a while.
    fn fd_send_failed(&mut self, error: io::Error) -> io::Error {
        if socket::is_closed(&error) {
            self.is_socket_closed = true;
            // A task may have closed it, and the worker live on.
            self.kill();
        }
        // What was sent of a list is of no use, and closed.
        self.stage_frame(RequestHeader::new(RequestKind::Fds), &[]);
        let now = Io::now();
        let since = *self.stalled_since.get_or_insert(now);
        let may_pass = !self.in_flight.is_empty() || now.duration_since(since) < FD_RETRY_TIMEOUT;
        if socket::is_full(&error) && may_pass {
            self.stalled_until = Some(now + FD_RETRY_INTERVAL);
        }
        error
    }

    /// Sends a context where this worker does not have it.
    fn stage_context(&mut self, context: &MapContext) -> Result<u32> {
        if !self.contexts.contains(&context.id) {
            let mut header = RequestHeader::new(RequestKind::Context);
            self.send_fds(&context.descriptors)?;
            self.contexts.push(context.id);
            header.context = context.id;
            let loader = context.loader.to_bytes();
            header.length = (loader.len() + context.bytes.len()) as u32;
            self.staged.extend_from_slice(&header.to_bytes());
            self.staged.extend_from_slice(&loader);
            self.staged.extend_from_slice(&context.bytes);
        }
        Ok(context.id)
    }

    /// Has the worker drop a context.
    pub(crate) fn drop_context(&mut self, id: u32) {
        if let Some(at) = self.contexts.iter().position(|it| *it == id) {
            self.contexts.swap_remove(at);
            let mut header = RequestHeader::new(RequestKind::DropContext);
            header.context = id;
            self.stage_frame(header, &[]);
            self.note_drop();
        }
    }

    /// Has the worker unmap a slab that is no more, if it is this worker's.
    pub(crate) fn drop_slab(&mut self, bound_to: &Weak<LivenessToken>, id: u32) {
        if bound_to.as_ptr() == Arc::as_ptr(&self.liveness) {
            self.stage_drop_slab(id);
        }
    }

    /// Has the slab sent again, when it is used again, that holds the argument of the first item in
    /// flight: the worker may have had no room for its descriptor. Nothing else that was sent lies
    /// in it.
    pub(crate) fn resend_front_slab(&mut self) {
        let first = self.in_flight.front();
        if let Some(id) = first.and_then(|it| it.work_item.pool_slab()) {
            self.stage_drop_slab(id);
        }
    }

    fn stage_drop_slab(&mut self, id: u32) {
        self.pool_slabs.retain(|it| *it != id);
        let mut header = RequestHeader::new(RequestKind::DropSlab);
        header.slab = id;
        self.stage_frame(header, &[]);
    }

    pub(crate) fn stage_frame(&mut self, mut header: RequestHeader, bytes: &[u8]) {
        header.length = bytes.len() as u32;
        self.staged.extend_from_slice(&header.to_bytes());
        self.staged.extend_from_slice(bytes);
    }

    /// Tells the worker to end.
    pub(crate) fn send_shutdown(&mut self) {
        self.stage_frame(RequestHeader::new(RequestKind::Shutdown), &[]);
        self.flush();
        self.io.close_requests();
    }

    /// Whether enough is staged to be worth a write.
    pub(crate) fn should_flush(&self) -> bool {
        self.staged.len() - self.written >= FLUSH_BYTES
    }

    pub(crate) fn has_unwritten(&self) -> bool {
        self.staged.len() > self.written
    }

    /// Writes what is staged, as far as the pipe has room. A worker that is gone is noticed
    /// elsewhere.
    pub(crate) fn flush(&mut self) {
        if !self.io.is_open() {
            return;
        }
        while self.written < self.staged.len() {
            match self.io.write_requests(&self.staged[self.written..]) {
                Ok(count) => self.written += count,
                Err(_) => break,
            }
        }
        if self.written == self.staged.len() {
            self.staged.clear();
            self.written = 0;
            // A burst's memory is not kept for ever.
            self.staged.shrink_to(4 * FLUSH_BYTES.max(1 << 14));
        }
    }
}
