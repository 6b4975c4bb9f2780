//! What goes to a worker: units, contexts and slabs become frames, gathered and written as far as the pipe has room.

use super::{LONGEST_LOOK, Link, Sent};
use crate::error::{Error, Result};
use crate::pool::{
    batch::Context,
    descriptors::{self, Batch},
    payload::Payload,
    protocol::{Kind, RequestHead},
    task::{Place, Work},
    unit::{Items, Unit},
};
use crate::process::function::Function;
use crate::shm::Life;
use crate::sys::{pipe, socket};
use crate::wire::handle::Attached;
use std::{
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// Bytes of small frames that are gathered before they are written, while the worker has something to do.
const FLUSH_AT: usize = 4096;

/// Between two attempts to send descriptors for which the kernel has no room.
const STALL: Duration = Duration::from_millis(1);

/// How long a worker with nothing to do may have no room for a value's descriptors before the value fails: it takes them out as
/// they come, so that others must be in the way.
const STALL_LIMIT: Duration = Duration::from_secs(1);

impl Link {
    /// Sends a unit, soon: it lies behind what is already staged. Gives it back with its own error, or without one if the
    /// worker is gone, or has no room for descriptors.
    pub(in crate::pool) fn stage(
        &mut self,
        slot: usize,
        unit: Unit,
    ) -> Result<(), (Unit, Option<Error>)> {
        if let Err(error) = self.stage_unit(&unit) {
            let is_its_own = !self.is_gone && self.stalled.is_none();
            return Err((unit, Some(error).filter(|_| is_its_own)));
        }
        self.stalled_since = None;
        if let Unit::Call(task) = &unit {
            task.set_place(Place::Worker(slot, self.next_item));
        }
        if let Some(limit) = unit.demands().timeout {
            self.watch_for(limit);
        }
        self.idle_until = None;
        let count = unit.count();
        self.quota = self.quota.map(|it| it.saturating_sub(count.into()));
        self.page.allow(self.next_item, count);
        self.in_flight.push_back(Sent {
            item: self.next_item,
            unit,
        });
        self.next_item = self.next_item.wrapping_add(count);
        self.items += count;
        self.figures.sent += u64::from(count);
        Ok(())
    }

    /// Has the clock looked at when this limit may have passed.
    fn watch_for(&mut self, limit: Duration) {
        let before = self.in_flight.back();
        let before = before.and_then(|it| it.unit.demands().timeout);
        // It is looked at sooner for the one before, and then for what is left.
        if self.due.is_none() || before.is_none_or(|it| it > limit) {
            let due = Instant::now() + limit.min(LONGEST_LOOK);
            self.due = self.due.into_iter().chain([due]).min();
        }
    }

    fn stage_unit(&mut self, unit: &Unit) -> Result<()> {
        match unit {
            Unit::Call(task) => {
                let Work::Call(function) = task.work else {
                    unreachable!("only calls are queued as one");
                };
                let head = self.items_head(function, 0, 1, unit);
                task.with_argument(|argument| self.stage_value(head, argument))
            }
            Unit::Items(items) => self.stage_items(items, unit),
        }
    }

    fn stage_items(&mut self, items: &Items, unit: &Unit) -> Result<()> {
        let batch = &items.chunk.batch;
        let context = batch
            .context
            .as_ref()
            .map_or(Ok(0), |it| self.stage_context(it))?;
        let mut payload = items.chunk.items.lock();
        if items.chunk.count == 1 {
            let head = self.items_head(batch.function, context, 1, unit);
            return self.stage_value(head, &mut payload);
        }
        let bytes = payload
            .bytes()
            .expect("a chunk of several items is private");
        let bytes = items.part_of(bytes);
        let mut head = self.items_head(batch.function, context, items.count, unit);
        let single = &bytes[if items.count == 1 {
            size_of::<u32>()
        } else {
            0
        }..];
        head.length = single.len() as u32;
        self.stage_frame(head, single);
        Ok(())
    }

    fn items_head(&self, function: Function, context: u32, count: u32, unit: &Unit) -> RequestHead {
        let demands = unit.demands();
        let mut head = RequestHead::new(Kind::Items);
        head.submitted = unit.submitted();
        // What is tried again travels alone.
        if demands.retries > 0 && count == 1 {
            let attempt = unit.with_tries(|it| it.next());
            head.attempt = attempt.min(RequestHead::MOST_ATTEMPTS.into()) as u16;
        }
        (head.item, head.count) = (self.next_item, count);
        (head.context, head.function) = (context, Some(function));
        head
    }

    /// Stages one item whose argument may lie in a slab.
    fn stage_value(&mut self, mut head: RequestHead, argument: &mut Payload) -> Result<()> {
        let value = match argument {
            Payload::Handled(handled) => {
                self.send_handles(&handled.descriptors)?;
                head.has_handles = true;
                &mut handled.value
            }
            value => value,
        };
        let Payload::Ours(ours) = value else {
            let bytes = value
                .bytes()
                .expect("an argument is private or in our slab");
            self.stage_frame(head, bytes);
            return Ok(());
        };
        let fail = |it| Error::io("failed to hand a large argument to a worker", it);
        if !ours.bind(&self.life) {
            return Err(fail(io::ErrorKind::OutOfMemory.into()));
        }
        let slab = ours.slab();
        if !self.our_slabs.contains(&slab.id) {
            let sent = descriptors::try_send_slab(&self.socket, slab);
            sent.map_err(|it| fail(self.not_sent(it)))?;
            self.our_slabs.push(slab.id);
        }
        (head.slab, head.slab_length) = (slab.id, ours.length as u64);
        self.stage_frame(head, &[]);
        Ok(())
    }

    /// Sends the handles of the value whose frame is staged next.
    pub(super) fn send_handles(&mut self, descriptors: &[Attached]) -> Result<()> {
        for (batch, part) in Batch::cut(descriptors) {
            let sent = descriptors::try_send_handles(&self.socket, part);
            sent.map_err(|it| {
                Error::io("failed to hand descriptors to a worker", self.not_sent(it))
            })?;
            let mut head = RequestHead::new(Kind::Handles);
            (head.item, head.count) = (batch.start, batch.count);
            self.stage_frame(head, &[]);
        }
        if !descriptors.is_empty() {
            self.handled.push_back(self.next_item);
        }
        Ok(())
    }

    /// Notes what follows from descriptors that the kernel did not take: the worker is gone, or there is no room for a while.
    fn not_sent(&mut self, error: io::Error) -> io::Error {
        if socket::is_closed(&error) {
            self.is_gone = true;
            // A task may have closed it, and the worker live on.
            self.kill();
        }
        // What was sent of a list is of no use, and closed.
        self.stage_frame(RequestHead::new(Kind::Handles), &[]);
        let now = Instant::now();
        let since = *self.stalled_since.get_or_insert(now);
        let may_pass = !self.in_flight.is_empty() || now.duration_since(since) < STALL_LIMIT;
        if socket::is_full(&error) && may_pass {
            self.stalled = Some(now + STALL);
        }
        error
    }

    /// Sends a context where this worker does not have it.
    fn stage_context(&mut self, context: &Context) -> Result<u32> {
        if !self.contexts.contains(&context.id) {
            let mut head = RequestHead::new(Kind::Context);
            self.send_handles(&context.descriptors)?;
            self.contexts.push(context.id);
            head.context = context.id;
            let loader = context.loader.to_bytes();
            head.length = (loader.len() + context.bytes.len()) as u32;
            self.staged.extend_from_slice(&head.to_bytes());
            self.staged.extend_from_slice(&loader);
            self.staged.extend_from_slice(&context.bytes);
        }
        Ok(context.id)
    }

    /// Has the worker drop a context.
    pub(in crate::pool) fn drop_context(&mut self, id: u32) {
        if let Some(at) = self.contexts.iter().position(|it| *it == id) {
            self.contexts.swap_remove(at);
            let mut head = RequestHead::new(Kind::DropContext);
            head.context = id;
            self.stage_frame(head, &[]);
            self.note_drop();
        }
    }

    /// Has the worker unmap a slab that is no more, if it is this worker's.
    pub(in crate::pool) fn drop_slab(&mut self, bound_to: &Weak<Life>, id: u32) {
        if bound_to.as_ptr() == Arc::as_ptr(&self.life) {
            self.have_slab_dropped(id);
        }
    }

    /// Has the slab sent again, when it is used again, that holds the argument of the first item in flight: the worker may have
    /// had no room for its descriptor. Nothing else that was sent lies in it.
    pub(in crate::pool) fn send_slab_again(&mut self) {
        let first = self.in_flight.front();
        if let Some(id) = first.and_then(|it| it.unit.our_slab()) {
            self.have_slab_dropped(id);
        }
    }

    fn have_slab_dropped(&mut self, id: u32) {
        self.our_slabs.retain(|it| *it != id);
        let mut head = RequestHead::new(Kind::DropSlab);
        head.slab = id;
        self.stage_frame(head, &[]);
    }

    pub(super) fn stage_frame(&mut self, mut head: RequestHead, bytes: &[u8]) {
        head.length = bytes.len() as u32;
        self.staged.extend_from_slice(&head.to_bytes());
        self.staged.extend_from_slice(bytes);
    }

    /// Tells the worker to end.
    pub(in crate::pool) fn say_goodbye(&mut self) {
        self.stage_frame(RequestHead::new(Kind::End), &[]);
        self.flush();
        self.requests = None;
    }

    /// Whether enough is staged to be worth a write.
    pub(in crate::pool) fn has_a_batch(&self) -> bool {
        self.staged.len() - self.written >= FLUSH_AT
    }

    pub(in crate::pool) fn has_unwritten(&self) -> bool {
        self.staged.len() > self.written
    }

    /// Writes what is staged, as far as the pipe has room. A worker that is gone is noticed elsewhere.
    pub(in crate::pool) fn flush(&mut self) {
        let Some(requests) = &self.requests else {
            return;
        };
        while self.written < self.staged.len() {
            match pipe::write(requests, &self.staged[self.written..]) {
                Ok(count) => self.written += count,
                Err(_) => break,
            }
        }
        if self.written == self.staged.len() {
            self.staged.clear();
            self.written = 0;
            // A burst's memory is not kept for ever.
            self.staged.shrink_to(4 * FLUSH_AT.max(1 << 14));
        }
    }
}
