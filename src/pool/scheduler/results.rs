//! Results: reads replies from a worker's ring and completes their tasks.

use crate::error::{Error, ErrorKind};
use crate::pool::{
    protocol::{SlabRef, fds::FdRange, region::ReplyKind},
    scheduler::{
        PoolPhase, Scheduler, into_output,
        records::{Record, Records},
    },
    task::{
        Wakeups,
        encoded::Encoded,
        map_part::{EncodedResults, MapPart},
        work_item::WorkItem,
    },
    worker_handle::{WorkerHandle, checked_region::ProtocolViolation, io::WorkerIo, is_before},
};
use crate::process::task_error::TaskError;
use crate::shm::Cursor;
use crate::wire::codec;
use std::{mem, sync::Arc};

impl<Io: WorkerIo> Scheduler<Io> {
    /// Reads the replies of a worker and completes their items. Reaps the worker if it is dead.
    pub(crate) fn read_replies(&mut self, slot: usize, wakeups: &mut Wakeups) {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return;
        };
        worker.sample_started();
        // Asked before the ring is read. In the other order:
        // 1. The ring is read.
        // 2. The worker appends a reply and dies.
        // 3. It is found dead, and the item of that reply would fail.
        let is_dead = worker.is_dead();
        if worker.region.has_records() {
            let mut bytes = mem::take(&mut self.records);
            bytes.clear();
            let drained = worker.region.drain(&mut bytes);
            let taken = drained.and_then(|()| self.take_records(slot, Records(&bytes), wakeups));
            self.records = bytes;
            if let Err(ProtocolViolation) = taken
                && let Some(worker) = self.slots[slot].worker_mut()
            {
                worker.region.mark_broken();
            }
        }
        let Some(worker) = self.slots[slot].worker_mut() else {
            return;
        };
        // 1. A task writes to the start word that the next item has started.
        // 2. That item is never run.
        // 3. It would hang: its number is below `started`, but no reply comes.
        if worker.has_skipped() {
            worker.region.mark_broken();
        }
        if worker.region.is_broken() && !is_dead {
            // It is reaped once its death is reported.
            worker.kill();
            self.has_new_chores |= worker.is_refused();
        }
        if is_dead {
            self.reap_worker(slot, wakeups);
        }
    }

    /// Handles all records. Fails at the first record that this worker must not write.
    fn take_records(
        &mut self,
        slot: usize,
        mut records: Records<'_>,
        wakeups: &mut Wakeups,
    ) -> Result<(), ProtocolViolation> {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return Ok(());
        };
        // Read after the ring. In the other order:
        // 1. `started` is read.
        // 2. The worker starts an item and appends its reply.
        // 3. The ring is read: the reply of an item that has not started.
        let started = worker.region.started();
        let nanos = worker.take_mean_item_nanos();
        self.update_mean_item_nanos(nanos);
        let sample = Sample { started, nanos };
        while let Some(record) = records.next() {
            let record = record?;
            match record.header.kind {
                ReplyKind::Value | ReplyKind::Fault | ReplyKind::Slab => {
                    self.take_reply(slot, record, &mut records, sample, wakeups)?;
                }
                _ => self.take_notice(slot, record, wakeups)?,
            }
        }
        Ok(())
    }

    /// Adds the mean run time of one worker's items to the average of the pool.
    fn update_mean_item_nanos(&mut self, nanos: Option<u64>) {
        if let Some(nanos) = nanos {
            // A moving average over about eight updates.
            let average = self.item_nanos.map_or(nanos, |mean| (mean * 7 + nanos) / 8);
            self.item_nanos = Some(average);
        }
    }

    /// Handles a record that is not a reply. Fails if this worker must not write it.
    fn take_notice(
        &mut self,
        slot: usize,
        record: Record<'_>,
        wakeups: &mut Wakeups,
    ) -> Result<(), ProtocolViolation> {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return Ok(());
        };
        match record.header.kind {
            ReplyKind::Value | ReplyKind::Fault | ReplyKind::Slab => return Err(ProtocolViolation),
            ReplyKind::Ready => {
                self.note_ready(slot)?;
                self.slots[slot].start_failures = 0;
            }
            // A task can forge this record. Only a worker that was never ready may break the pool.
            ReplyKind::SetupFault if worker.was_ready() => return Err(ProtocolViolation),
            ReplyKind::SetupFault => self.fail_startup(&decode_fault(record.value)?, wakeups),
            ReplyKind::Fds => worker.receive_fds(FdRange::from_bytes(record.fixed_value()?)),
            ReplyKind::MemoryExceeded if self.recycle.memory.is_none() => {
                return Err(ProtocolViolation);
            }
            ReplyKind::MemoryExceeded => self.replace_oversized(slot),
            ReplyKind::SlabGone => worker.forget_slab(u32::from_le_bytes(record.fixed_value()?)),
        }
        Ok(())
    }

    /// Completes the item that `record` answers, and the items after it that the next records
    /// answer, if they are of the same work item. Fails if the worker must not answer that item
    /// now.
    fn take_reply<'a>(
        &mut self,
        slot: usize,
        record: Record<'a>,
        records: &mut Records<'a>,
        sample: Sample,
        wakeups: &mut Wakeups,
    ) -> Result<(), ProtocolViolation> {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return Ok(());
        };
        let handles = worker.take_reply_fds();
        if worker.in_flight.is_empty() && !matches!(self.phase, PoolPhase::Open | PoolPhase::Closed)
        {
            // 1. The worker runs an item.
            // 2. `stop` fails that item and all others in flight.
            // 3. The worker appends its reply, which belongs to no item any more.
            return Ok(());
        }
        let max = worker.answerable(record.header.item, sample.started)?;
        match record.header.kind {
            ReplyKind::Fault => self.take_fault(slot, record, sample.nanos, wakeups)?,
            ReplyKind::Slab => {
                let decoded = codec::decode(&mut Cursor::new(record.value));
                let SlabRef { slab, length } = decoded.map_err(|_| ProtocolViolation)?;
                let encoded = worker.take_from_slab(slab, length);
                let outcome = encoded.map(|value| EncodedResults::One(value.with_fds(handles)));
                self.complete_front(slot, 1, outcome, sample.nanos, wakeups);
            }
            _ => {
                // Handles belong to one value: they end a run.
                let max = if handles.is_empty() { max } else { 1 };
                let (count, run) = records.take_run(record, max);
                let results = match count {
                    1 => EncodedResults::One(Encoded::copy_of(record.value).with_fds(handles)),
                    _ => EncodedResults::Records(run.into()),
                };
                self.complete_front(slot, count, Ok(results), sample.nanos, wakeups);
            }
        }
        Ok(())
    }

    /// Fails the first item in flight at a worker, or schedules its retry.
    fn take_fault(
        &mut self,
        slot: usize,
        record: Record<'_>,
        nanos: Option<u64>,
        wakeups: &mut Wakeups,
    ) -> Result<(), ProtocolViolation> {
        let fault = decode_fault(record.value)?;
        let Some(worker) = self.slots[slot].worker_mut() else {
            return Ok(());
        };
        worker.note_failure();
        if let TaskError::Decode(_) = fault {
            worker.resend_front_slab();
        }
        let error = fault.into_error();
        let killed = worker.pending_kill(record.header.item);
        match worker.take_front_if(|work_item| work_item.config().retries_after(&error)) {
            Some(work_item) => self.fail_or_retry(work_item, killed.unwrap_or(error), wakeups),
            None => self.complete_front(slot, 1, Err(error), nanos, wakeups),
        }
        Ok(())
    }

    /// Completes the first `count` items in flight at a worker.
    fn complete_front(
        &mut self,
        slot: usize,
        count: u32,
        outcome: Result<EncodedResults, Error>,
        nanos: Option<u64>,
        wakeups: &mut Wakeups,
    ) {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return;
        };
        if worker.in_flight.is_empty() {
            return;
        }
        // Before the delivery, which may sweep this worker's other items.
        worker.count_answers(count);
        let Some(front) = worker.in_flight.front_mut() else {
            return;
        };
        self.outstanding -= u64::from(count);
        self.counts.add(&outcome, count);
        front.item = front.item.wrapping_add(count);
        match &mut front.work_item {
            WorkItem::Call(task) => {
                task.complete(outcome.map(into_output), wakeups);
                worker.in_flight.pop_front();
            }
            WorkItem::Slice(items) => {
                let part = MapPart {
                    index: items.index(),
                    count,
                    outcome,
                };
                items.first += count;
                items.count -= count;
                let chunk = Arc::clone(&items.chunk);
                if items.count == 0 {
                    worker.in_flight.pop_front();
                }
                if chunk.map.deliver(part, nanos, wakeups) {
                    self.sweep_cancelled(wakeups);
                }
            }
        }
    }

    /// Fails a work item that is neither queued nor in flight. Returns whether that cancels other
    /// items of its map.
    pub(crate) fn finish(
        &mut self,
        work_item: &WorkItem,
        error: Error,
        wakeups: &mut Wakeups,
    ) -> bool {
        self.outstanding -= u64::from(work_item.count());
        self.counts
            .add_failures(error.kind(), work_item.count().into());
        match work_item {
            WorkItem::Call(task) => {
                task.complete(Err(error), wakeups);
                false
            }
            WorkItem::Slice(items) => {
                let part = MapPart {
                    index: items.index(),
                    count: items.count,
                    outcome: Err(error),
                };
                items.chunk.map.deliver(part, None, wakeups)
            }
        }
    }
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Returns how many items the worker may answer from `item` on: the started items of the first
    /// work item. Fails if `item` is not the first in flight, or has not started.
    fn answerable(&self, item: u32, started: u32) -> Result<u32, ProtocolViolation> {
        let front = self.in_flight.front().ok_or(ProtocolViolation)?;
        if front.item != item || !is_before(item, started) {
            return Err(ProtocolViolation);
        }
        Ok(front.work_item.count().min(started.wrapping_sub(item)))
    }

    /// Returns the error of an item that was killed as it failed. The item would be tried again, so
    /// the failure is not its result.
    ///
    /// 1. The worker runs the item.
    /// 2. `kill` finds no reply and sends SIGTERM.
    /// 3. The item panics before SIGTERM arrives, and the worker writes the reply.
    fn pending_kill(&self, item: u32) -> Option<Error> {
        let stop_request = self
            .stop_request
            .as_ref()
            .filter(|stop| stop.item == item)?;
        (stop_request.error.kind() == ErrorKind::Cancelled).then(|| stop_request.error.clone())
    }
}

/// Values that were read from a worker's region before its records.
#[derive(Clone, Copy)]
struct Sample {
    /// The item that the worker would start next.
    started: u32,
    /// The mean run time of its last items, in nanoseconds.
    nanos: Option<u64>,
}

fn decode_fault(bytes: &[u8]) -> Result<TaskError, ProtocolViolation> {
    codec::decode(&mut Cursor::new(bytes)).map_err(|_| ProtocolViolation)
}
