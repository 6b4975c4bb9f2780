//! Results: reads replies from a worker's ring and completes their tasks.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    protocol::{
        SlabRef,
        fds::FdRange,
        region::{ReplyHeader, ReplyKind},
    },
    scheduler::{PoolPhase, Scheduler, into_output},
    task::{
        Wakeups,
        encoded::Encoded,
        map_part::{EncodedResults, MapPart},
        work_item::WorkItem,
    },
    worker_handle::{InFlight, WorkerHandle, io::WorkerIo, is_before},
};
use crate::process::task_error::TaskError;
use crate::shm::Cursor;
use crate::wire::codec;
use std::{mem, sync::Arc};

impl<Io: WorkerIo> Scheduler<Io> {
    pub(crate) fn read_replies(&mut self, slot: usize, wakeups: &mut Wakeups) {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return;
        };
        worker.sample_started();
        // Asked before the ring is read. In the other order: 1. The ring is read. 2. The worker
        // appends a reply and dies. 3. It is found dead, and the item of that reply would fail.
        let is_dead = worker.is_dead();
        if worker.region.has_records() {
            let mut records = mem::take(&mut self.records);
            records.clear();
            let sound = worker.region.drain(&mut records).is_ok()
                && self.take_records(slot, &records, wakeups).is_some();
            self.records = records;
            if !sound && let Some(worker) = self.slots[slot].worker_mut() {
                worker.region.mark_broken();
            }
        }
        let Some(worker) = self.slots[slot].worker_mut() else {
            return;
        };
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

    /// Hands out records; none if they are not what this worker may write.
    fn take_records(
        &mut self,
        slot: usize,
        mut records: &[u8],
        wakeups: &mut Wakeups,
    ) -> Option<()> {
        let worker = self.slots[slot].worker_mut()?;
        // Read after the records: what they answer has started.
        let started = worker.region.started();
        let nanos = worker.take_mean_item_nanos();
        self.update_mean_item_nanos(nanos);
        while !records.is_empty() {
            let header = ReplyHeader::parse(records)?;
            let bytes = records.get(ReplyHeader::SIZE..)?.get(..header.len)?;
            match header.kind {
                ReplyKind::Value | ReplyKind::Fault | ReplyKind::Slab => {
                    let reply = ReplyRun {
                        header,
                        records,
                        started,
                    };
                    let used = self.take_reply(slot, reply, nanos, wakeups)?;
                    records = &records[used..];
                    continue;
                }
                _ => self.take_notice(slot, header.kind, bytes, wakeups)?,
            }
            records = &records[ReplyHeader::SIZE + header.len..];
        }
        Some(())
    }

    /// Adds the mean run time of one worker's items to the average of the pool.
    fn update_mean_item_nanos(&mut self, nanos: Option<u64>) {
        if let Some(nanos) = nanos {
            // A moving average over about eight updates.
            let average = self.item_nanos.map_or(nanos, |mean| (mean * 7 + nanos) / 8);
            self.item_nanos = Some(average);
        }
    }

    /// Does what a record says that is no reply; none if this worker may not write it.
    fn take_notice(
        &mut self,
        slot: usize,
        tag: ReplyKind,
        bytes: &[u8],
        wakeups: &mut Wakeups,
    ) -> Option<()> {
        let worker = self.slots[slot].worker_mut()?;
        match tag {
            ReplyKind::Value | ReplyKind::Fault | ReplyKind::Slab => return None,
            ReplyKind::Ready => {
                self.note_ready(slot)?;
                self.slots[slot].start_failures = 0;
            }
            // A task can forge this record. Only a worker without `READY` may break the pool with
            // it.
            ReplyKind::SetupFault if worker.was_ready() => return None,
            ReplyKind::SetupFault => self.fail_startup(&decode_fault(bytes)?, wakeups),
            ReplyKind::Fds => {
                let range = FdRange::from_bytes(bytes.try_into().ok()?);
                worker.receive_fds(range);
            }
            ReplyKind::MemoryExceeded if self.recycle.memory.is_none() => return None,
            ReplyKind::MemoryExceeded => self.replace_oversized(slot),
            ReplyKind::SlabGone => {
                let id = u32::from_le_bytes(bytes.try_into().ok()?);
                worker.forget_slab(id);
            }
        }
        Some(())
    }

    /// Hands out the reply at the start of `records`, and those behind it that belong to the same
    /// unit; says how many bytes that were.
    fn take_reply(
        &mut self,
        slot: usize,
        reply: ReplyRun<'_>,
        nanos: Option<u64>,
        wakeups: &mut Wakeups,
    ) -> Option<usize> {
        let ReplyRun {
            header,
            records,
            started,
        } = reply;
        let worker = self.slots[slot].worker_mut()?;
        let handles = worker.take_reply_fds();
        if worker.in_flight.is_empty() && !matches!(self.phase, PoolPhase::Open | PoolPhase::Closed)
        {
            // 1. The worker runs an item. 2. `stop` fails that item and all others in flight. 3.
            //    The worker appends its reply, which belongs to no item any more.
            return Some(ReplyHeader::SIZE + header.len);
        }
        let is_front = |it: &&InFlight| it.item == header.item && is_before(header.item, started);
        let front = worker.in_flight.front().filter(is_front)?;
        let single = ReplyHeader::SIZE + header.len;
        let value = &records[ReplyHeader::SIZE..single];
        let (count, used) = match (front.work_item.count(), header.kind) {
            (2.., ReplyKind::Value) if handles.is_empty() => {
                let most = front
                    .work_item
                    .count()
                    .min(started.wrapping_sub(header.item));
                run_length(header.item, most, records)
            }
            _ => (1, single),
        };
        let config = front.work_item.config();
        let outcome = match header.kind {
            ReplyKind::Fault => {
                let fault = decode_fault(value)?;
                worker.note_failure();
                if let TaskError::Decode(_) = fault {
                    worker.resend_front_slab();
                }
                let error = fault.into_error();
                if config.retries_after(&error) {
                    let killed = worker.pending_kill(header.item);
                    let work_item = worker.take_front()?;
                    self.fail_or_retry(work_item, killed.unwrap_or(error), wakeups);
                    return Some(used);
                }
                Err(error)
            }
            ReplyKind::Slab => {
                let SlabRef { slab, length } = codec::decode(&mut Cursor::new(value)).ok()?;
                let encoded = worker.take_from_slab(slab, length);
                encoded.map(|encoded| EncodedResults::One(encoded.with_fds(handles)))
            }
            _ if count > 1 => Ok(EncodedResults::Records(records[..used].into())),
            _ => Ok(EncodedResults::One(
                Encoded::copy_of(value).with_fds(handles),
            )),
        };
        self.complete_front(slot, count, outcome, nanos, wakeups)?;
        Some(used)
    }

    /// Completes the first `count` items in flight at a worker.
    fn complete_front(
        &mut self,
        slot: usize,
        count: u32,
        outcome: Result<EncodedResults>,
        nanos: Option<u64>,
        wakeups: &mut Wakeups,
    ) -> Option<()> {
        let worker = self.slots[slot].worker_mut()?;
        worker.in_flight.front()?;
        worker.count_answers(count);
        let front = worker.in_flight.front_mut()?;
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
        Some(())
    }

    /// Fails a work item that is neither queued nor in flight. Returns whether that cancels other
    /// items of its map.
    pub(crate) fn finish(
        &mut self,
        work_item: &WorkItem,
        outcome: Result<EncodedResults>,
        wakeups: &mut Wakeups,
    ) -> bool {
        self.outstanding -= u64::from(work_item.count());
        self.counts.add(&outcome, work_item.count());
        match work_item {
            WorkItem::Call(task) => {
                task.complete(outcome.map(into_output), wakeups);
                false
            }
            WorkItem::Slice(items) => {
                let part = MapPart {
                    index: items.index(),
                    count: items.count,
                    outcome,
                };
                items.chunk.map.deliver(part, None, wakeups)
            }
        }
    }
}

impl<Io: WorkerIo> WorkerHandle<Io> {
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

/// A reply at the start of a worker's records.
struct ReplyRun<'a> {
    header: ReplyHeader,
    records: &'a [u8],
    /// The item that the worker would start next.
    started: u32,
}

/// How many values of consecutive items lie at the start of `records`, at most `max`, and in how
/// many bytes.
fn run_length(first: u32, max: u32, records: &[u8]) -> (u32, usize) {
    let (mut count, mut used) = (0, 0);
    while count < max {
        let Some(header) = ReplyHeader::parse(&records[used..]) else {
            break;
        };
        let size = ReplyHeader::SIZE + header.len;
        if header.kind != ReplyKind::Value
            || header.item != first.wrapping_add(count)
            || records.len() < used + size
        {
            break;
        }
        count += 1;
        used += size;
    }
    (count, used)
}

fn decode_fault(bytes: &[u8]) -> Option<TaskError> {
    codec::decode(&mut Cursor::new(bytes)).ok()
}
