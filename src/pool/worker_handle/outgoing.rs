//! Requests to a worker: stages work items, contexts and slabs as frames, and writes them to the
//! request pipe until it is full.

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

/// The number of staged bytes that are worth a write while the worker is busy.
const FLUSH_BYTES: usize = 4096;

/// The interval between attempts to send descriptors for which the kernel has no room.
const FD_RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// How long the kernel may have no room for a value's descriptors at an idle worker before the
/// value fails. The worker receives descriptors at once, so that other sockets must hold the room.
const FD_RETRY_TIMEOUT: Duration = Duration::from_secs(1);

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Stages a work item after the frames that are already staged. On failure returns it, with an
    /// error if the item itself failed, or without if the worker is gone or the kernel has no room.
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
        self.quota = self.quota.map(|quota| quota.saturating_sub(count.into()));
        // Allowed before the frame is written:
        // 1. The worker reads the frame.
        // 2. It tries to start the item.
        // An item that is not allowed counts as revoked, and would be skipped.
        self.region.allow(self.next_item, count);
        self.in_flight.push_back(InFlight {
            item: self.next_item,
            work_item,
        });
        self.next_item = self.next_item.wrapping_add(count);
        self.items += count;
        self.counters.sent += u64::from(count);
        Ok(())
    }

    /// Schedules a check for the time when this limit may have passed.
    fn schedule_timeout_check(&mut self, limit: Duration) {
        let before = self.in_flight.back();
        let before = before.and_then(|entry| entry.work_item.config().timeout);
        // A check for the item before comes earlier, and schedules the next.
        if self.check_timeout_at.is_none() || before.is_none_or(|before| before > limit) {
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
        let mut argument = items.chunk.items.lock();
        if items.chunk.count == 1 {
            let header = self.items_header(map.function, context, 1, work_item);
            return self.stage_value(header, &mut argument);
        }
        let bytes = argument
            .bytes()
            .expect("a chunk of several items is private");
        let bytes = items.bytes_of(bytes);
        let header = self.items_header(map.function, context, items.count, work_item);
        // A single item is sent without its length.
        let skipped = if items.count == 1 {
            size_of::<u32>()
        } else {
            0
        };
        self.stage_frame(header, &bytes[skipped..]);
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
        // An item that may be retried is sent alone.
        if config.retries > 0 && count == 1 {
            let attempt = work_item.with_attempts(|it| it.next());
            header.attempt = attempt.min(RequestHeader::MAX_ATTEMPTS.into()) as u16;
        }
        header.item = self.next_item;
        header.count = count;
        header.context = context;
        header.function = Some(function);
        header
    }

    /// Stages one item whose argument may be in a slab.
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
        let fail = |error| Error::io("failed to hand a large argument to a worker", error);
        if !ours.bind(&self.liveness) {
            return Err(fail(io::ErrorKind::OutOfMemory.into()));
        }
        let slab = ours.slab();
        if !self.pool_slabs.contains(&slab.id) {
            let result = self.io.send_slab(slab);
            result.map_err(|error| fail(self.fd_send_failed(error)))?;
            // Sent once: the worker keeps the mapping until `DropSlab`.
            self.pool_slabs.push(slab.id);
        }
        header.slab = slab.id;
        header.slab_length = ours.length as u64;
        self.stage_frame(header, &[]);
        Ok(())
    }

    /// Sends the handles of the value whose frame is staged next. Never blocks.
    pub(crate) fn send_fds(&mut self, descriptors: &[Attached]) -> Result<()> {
        for (range, part) in FdRange::split(descriptors) {
            let result = self.io.send_fds(part);
            result.map_err(|error| {
                let error = self.fd_send_failed(error);
                Error::io("failed to hand descriptors to a worker", error)
            })?;
            let mut header = RequestHeader::new(RequestKind::Fds);
            header.item = range.start;
            header.count = range.count;
            self.stage_frame(header, &[]);
        }
        if !descriptors.is_empty() {
            self.items_with_fds.push_back(self.next_item);
        }
        Ok(())
    }

    /// Handles descriptors that the kernel refused: the worker is gone, or the kernel lacks room
    /// for a while.
    fn fd_send_failed(&mut self, error: io::Error) -> io::Error {
        if socket::is_closed(&error) {
            self.is_socket_closed = true;
            // A task may have closed the socket of a worker that lives on.
            self.kill();
        }
        // 1. Some messages of the list were sent.
        // 2. This one was refused.
        // 3. The frame makes the worker receive and close the first ones: the next list would be
        //    mixed with them.
        self.stage_frame(RequestHeader::new(RequestKind::Fds), &[]);
        let now = Io::now();
        let since = *self.stalled_since.get_or_insert(now);
        let may_pass = !self.in_flight.is_empty() || now.duration_since(since) < FD_RETRY_TIMEOUT;
        if socket::is_full(&error) && may_pass {
            self.stalled_until = Some(now + FD_RETRY_INTERVAL);
        }
        error
    }

    /// Stages a context unless the worker has it. Returns its number.
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

    /// Tells the worker to drop a context, if it has it.
    pub(crate) fn drop_context(&mut self, id: u32) {
        if let Some(at) = self.contexts.iter().position(|known| *known == id) {
            self.contexts.swap_remove(at);
            let mut header = RequestHeader::new(RequestKind::DropContext);
            header.context = id;
            self.stage_frame(header, &[]);
            self.note_drop();
        }
    }

    /// Tells the worker to unmap a dropped slab, if the slab was bound to this worker.
    pub(crate) fn drop_slab(&mut self, bound_to: &Weak<LivenessToken>, id: u32) {
        if bound_to.as_ptr() == Arc::as_ptr(&self.liveness) {
            self.stage_drop_slab(id);
        }
    }

    /// Makes the next use of the front item's slab send its descriptor again. The worker may have
    /// had no room for the descriptor. No other item in flight uses the slab.
    pub(crate) fn resend_front_slab(&mut self) {
        let first = self.in_flight.front();
        if let Some(id) = first.and_then(|entry| entry.work_item.pool_slab()) {
            self.stage_drop_slab(id);
        }
    }

    fn stage_drop_slab(&mut self, id: u32) {
        self.pool_slabs.retain(|known| *known != id);
        let mut header = RequestHeader::new(RequestKind::DropSlab);
        header.slab = id;
        self.stage_frame(header, &[]);
    }

    pub(crate) fn stage_frame(&mut self, mut header: RequestHeader, bytes: &[u8]) {
        header.length = bytes.len() as u32;
        self.staged.extend_from_slice(&header.to_bytes());
        self.staged.extend_from_slice(bytes);
    }

    /// Tells the worker to exit after its items, and closes the request pipe.
    pub(crate) fn send_shutdown(&mut self) {
        self.stage_frame(RequestHeader::new(RequestKind::Shutdown), &[]);
        self.flush();
        self.io.close_requests();
    }

    /// Whether enough bytes are staged to be worth a write.
    pub(crate) fn should_flush(&self) -> bool {
        self.staged.len() - self.written >= FLUSH_BYTES
    }

    pub(crate) fn has_unwritten(&self) -> bool {
        self.staged.len() > self.written
    }

    /// Writes staged bytes until the pipe is full. Ignores the death of the worker, which the pidfd
    /// reports.
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
            // Releases the memory of a burst.
            self.staged.shrink_to(4 * FLUSH_BYTES.max(1 << 14));
        }
    }
}
