//! Replies on their way from a worker's ring to their tasks.

use super::{Phase, State, into_body};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    batch::{Part, Values},
    descriptors::Batch,
    link::{Link, Sent, is_before},
    page::{RecordHead, Tag},
    payload::Payload,
    protocol::InSlab,
    task::Told,
    unit::Unit,
};
use crate::process::fault::Fault;
use crate::shm::Cursor;
use crate::wire::codec;
use std::{mem, sync::Arc};

impl State {
    pub(super) fn read_replies(&mut self, slot: usize, told: &mut Told) {
        let Some(link) = self.slots[slot].link_mut() else {
            return;
        };
        link.look();
        // Before the replies are read: what it wrote before its end is there then.
        let is_dead = link.is_dead();
        if link.page.has_records() {
            let mut records = mem::take(&mut self.records);
            records.clear();
            let sound = link.page.drain(&mut records).is_ok()
                && self.take_records(slot, &records, told).is_some();
            self.records = records;
            if !sound && let Some(link) = self.slots[slot].link_mut() {
                link.page.give_up();
            }
        }
        let Some(link) = self.slots[slot].link_mut() else {
            return;
        };
        if link.has_skipped() {
            link.page.give_up();
        }
        if link.page.is_broken() && !is_dead {
            // A worker that writes nonsense is as good as dead, and soon is.
            link.kill();
            self.wants_start |= link.is_refused();
        }
        if is_dead {
            self.bury(slot, told);
        }
    }

    /// Hands out records; none if they are not what this worker may write.
    fn take_records(&mut self, slot: usize, mut records: &[u8], told: &mut Told) -> Option<()> {
        let link = self.slots[slot].link_mut()?;
        // Read after the records: what they answer has started.
        let started = link.page.started();
        let nanos = link.item_nanos();
        self.average(nanos);
        while !records.is_empty() {
            let head = RecordHead::parse(records)?;
            let bytes = records.get(RecordHead::SIZE..)?.get(..head.length)?;
            match head.tag {
                Tag::Value | Tag::Fault | Tag::Slab => {
                    let reply = Reply {
                        head,
                        records,
                        started,
                    };
                    let used = self.take_reply(slot, reply, nanos, told)?;
                    records = &records[used..];
                    continue;
                }
                _ => self.take_note(slot, head.tag, bytes, told)?,
            }
            records = &records[RecordHead::SIZE + head.length..];
        }
        Some(())
    }

    /// Takes what items of one worker took into the average of all.
    fn average(&mut self, nanos: Option<u64>) {
        if let Some(nanos) = nanos {
            // A moving average over about eight looks.
            let average = self.item_nanos.map_or(nanos, |it| (it * 7 + nanos) / 8);
            self.item_nanos = Some(average);
        }
    }

    /// Does what a record says that is no reply; none if this worker may not write it.
    fn take_note(&mut self, slot: usize, tag: Tag, bytes: &[u8], told: &mut Told) -> Option<()> {
        let link = self.slots[slot].link_mut()?;
        match tag {
            Tag::Value | Tag::Fault | Tag::Slab => return None,
            Tag::Ready => {
                self.note_ready(slot)?;
                self.failures[slot] = 0;
            }
            // Afterwards it is not the initializer's, and must not break the pool.
            Tag::SetupFault if link.was_ready() => return None,
            Tag::SetupFault => self.break_down(&decode_fault(bytes)?, told),
            Tag::Handles => {
                let batch = Batch::from_bytes(bytes.try_into().ok()?);
                link.gather(batch);
            }
            Tag::Full if self.stay.memory.is_none() => return None,
            Tag::Full => self.replace_full(slot),
            Tag::SlabGone => {
                let id = u32::from_le_bytes(bytes.try_into().ok()?);
                link.forget_slab(id);
            }
        }
        Some(())
    }

    /// Hands out the reply at the start of `records`, and those behind it that belong to the same unit; says how many
    /// bytes that were.
    fn take_reply(
        &mut self,
        slot: usize,
        reply: Reply<'_>,
        nanos: Option<u64>,
        told: &mut Told,
    ) -> Option<usize> {
        let Reply {
            head,
            records,
            started,
        } = reply;
        let link = self.slots[slot].link_mut()?;
        let handles = link.take_handles();
        if link.in_flight.is_empty() && !matches!(self.phase, Phase::Open | Phase::Closed) {
            // The pool was stopped, and nobody waits for this any more.
            return Some(RecordHead::SIZE + head.length);
        }
        let is_front = |it: &&Sent| it.item == head.item && is_before(head.item, started);
        let front = link.in_flight.front().filter(is_front)?;
        let single = RecordHead::SIZE + head.length;
        let value = &records[RecordHead::SIZE..single];
        let (count, used) = match (front.unit.count(), head.tag) {
            (2.., Tag::Value) if handles.is_empty() => {
                let most = front.unit.count().min(started.wrapping_sub(head.item));
                run_length(head.item, most, records)
            }
            _ => (1, single),
        };
        let demands = front.unit.demands();
        let outcome = match head.tag {
            Tag::Fault => {
                let fault = decode_fault(value)?;
                if let Fault::Decode(_) = fault {
                    link.send_slab_again();
                }
                let error = fault.into_error();
                if demands.retries_after(&error) {
                    let killed = link.kill_of(head.item);
                    let unit = link.take_front()?;
                    self.fail_or_retry(unit, killed.unwrap_or(error), told);
                    return Some(used);
                }
                Err(error)
            }
            Tag::Slab => {
                let InSlab { slab, length } = codec::decode(&mut Cursor::new(value)).ok()?;
                let payload = link.take_from_slab(slab, length);
                payload.map(|it| Values::One(it.with_handles(handles)))
            }
            _ if count > 1 => Ok(Values::Records(records[..used].into())),
            _ => Ok(Values::One(Payload::copy_of(value).with_handles(handles))),
        };
        self.complete_front(slot, count, outcome, nanos, told)?;
        Some(used)
    }

    /// Ends the first `count` items in flight at a worker.
    fn complete_front(
        &mut self,
        slot: usize,
        count: u32,
        outcome: Result<Values>,
        nanos: Option<u64>,
        told: &mut Told,
    ) -> Option<()> {
        let link = self.slots[slot].link_mut()?;
        link.in_flight.front()?;
        link.count_answers(count);
        let front = link.in_flight.front_mut()?;
        self.outstanding -= u64::from(count);
        self.counts.add(&outcome, count);
        front.item = front.item.wrapping_add(count);
        match &mut front.unit {
            Unit::Call(task) => {
                task.complete(outcome.map(into_body), told);
                link.in_flight.pop_front();
            }
            Unit::Items(items) => {
                let part = Part {
                    index: items.index(),
                    count,
                    outcome,
                };
                items.first += count;
                items.count -= count;
                let chunk = Arc::clone(&items.chunk);
                if items.count == 0 {
                    link.in_flight.pop_front();
                }
                if chunk.batch.deliver(part, nanos, told) {
                    self.sweep_cancelled(told);
                }
            }
        }
        Some(())
    }

    /// Ends a unit that is neither queued nor in flight any more; true if others are not wanted because of it.
    pub(super) fn finish(&mut self, unit: &Unit, outcome: Result<Values>, told: &mut Told) -> bool {
        self.outstanding -= u64::from(unit.count());
        self.counts.add(&outcome, unit.count());
        match unit {
            Unit::Call(task) => {
                task.complete(outcome.map(into_body), told);
                false
            }
            Unit::Items(items) => {
                let part = Part {
                    index: items.index(),
                    count: items.count,
                    outcome,
                };
                items.chunk.batch.deliver(part, None, told)
            }
        }
    }
}

impl Link {
    /// Returns the error of an item that was killed as it failed. The item would be tried again, so
    /// the failure is not its result.
    ///
    /// 1. The worker runs the item.
    /// 2. `kill` finds no reply and tells the worker to end.
    /// 3. The item panics before SIGTERM arrives, and the worker writes the reply.
    fn kill_of(&self, item: u32) -> Option<Error> {
        let verdict = self.verdict.as_ref().filter(|it| it.item == item)?;
        (verdict.error.kind() == ErrorKind::Cancelled).then(|| verdict.error.clone())
    }
}

/// A reply at the start of a worker's records.
struct Reply<'a> {
    head: RecordHead,
    records: &'a [u8],
    /// The item that the worker would start next.
    started: u32,
}

/// How many values of consecutive items lie at the start of `records`, at most `most`, and in how many bytes.
fn run_length(first: u32, most: u32, records: &[u8]) -> (u32, usize) {
    let (mut count, mut used) = (0, 0);
    while count < most {
        let Some(head) = RecordHead::parse(&records[used..]) else {
            break;
        };
        let size = RecordHead::SIZE + head.length;
        if head.tag != Tag::Value
            || head.item != first.wrapping_add(count)
            || records.len() < used + size
        {
            break;
        }
        count += 1;
        used += size;
    }
    (count, used)
}

fn decode_fault(bytes: &[u8]) -> Option<Fault> {
    codec::decode(&mut Cursor::new(bytes)).ok()
}
