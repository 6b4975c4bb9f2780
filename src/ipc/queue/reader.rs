//! Taking items out of chunks, by whoever has the consumers' lock.

use super::chunk::{CHUNKS, Chunk};
use super::damaged::damaged;
use super::memory::{Memory, Side};
use super::position::Position;
use super::record::{self, HEADER, Record};
use crate::error::{Error, Result};
use crate::shm::View;
use parking_lot::Mutex;
use std::{borrow::Cow, io, ops::Range, sync::atomic::Ordering};

/// Bytes of a large chunk that go back to the system at once when they were read.
const STEP: usize = 1 << 20;

/// Copies items from the head on. They are taken once that is committed; if it never is, the next one copies them again.
pub(super) struct Reader<'a> {
    memory: &'a Memory,
    /// Where the consumers stand for everybody else.
    committed: Position,
    head: Position,
    /// Where the producers stood a moment ago.
    tail: Position,
}

/// Where the producers stood when this process last looked: as long as items are left before that, it need not look again,
/// which would take the cache line from a producer that writes it.
pub(super) type Seen = Mutex<Option<Position>>;

impl<'a> Reader<'a> {
    /// `least` is how many items are wanted.
    #[inline]
    pub(super) fn new(memory: &'a Memory, seen: &Seen, least: usize) -> Result<Self> {
        let head = memory.head().load()?;
        let mut seen = seen.lock();
        let is_enough = |tail: &Position| tail.items.saturating_sub(head.items) >= least as u64;
        let tail = match *seen {
            Some(tail) if is_enough(&tail) => tail,
            _ => *seen.insert(memory.tail().load()?),
        };
        if tail.items < head.items {
            return Err(damaged());
        }
        Ok(Self {
            memory,
            committed: head,
            head,
            tail,
        })
    }

    /// Whether no item will come any more behind those that are there.
    pub(super) fn is_closed(&self) -> bool {
        self.tail.is_closed
    }

    /// How many items are there.
    #[inline]
    pub(super) fn waiting(&self) -> u64 {
        self.tail.items - self.head.items
    }

    /// Appends the next item, of which there must be one. What was read before stays if it fails.
    #[inline]
    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> Result<()> {
        let (view, bytes, next) = self.find()?;
        into.try_reserve(bytes.len()).map_err(|_| too_large())?;
        view.copy_out(bytes.start, bytes.len(), into);
        self.head.items += 1;
        self.head.offset = next;
        Ok(())
    }

    /// Takes everything that was read.
    #[inline]
    pub(super) fn commit(&mut self) {
        if self.head == self.committed {
            return;
        }
        self.memory.head().commit(self.head);
        if !self.head.chunk.is_hot() {
            self.give_back_steps();
        }
        self.committed = self.head;
    }

    /// While the lock is held: later, a producer may have written there again.
    fn give_back_steps(&self) {
        let (before, now) = (self.committed, self.head);
        let start = match before.visit == now.visit {
            true => before.offset / STEP,
            false => 0,
        };
        let part = start * STEP..now.offset / STEP * STEP;
        if !part.is_empty() {
            self.memory.give_back(now.chunk, part);
        }
    }

    /// Where the next item lies, and the record behind it.
    #[inline]
    fn find(&mut self) -> Result<(Cow<'a, View>, Range<usize>, usize)> {
        // A jump leads to an item, or to one more jump behind an item that could not be put. In memory that something else has
        // written to, jumps may go in a circle.
        for _ in 0..CHUNKS {
            let Position { chunk, offset, .. } = self.head;
            let view = self.memory.chunk(Side::Consumers, chunk)?;
            // Relaxed: it was written before the tail was committed, whose load was an acquire.
            let word = view.atomic_u64(offset).load(Ordering::Relaxed);
            match Record::from_word(word) {
                Some(Record::Item(bytes)) if self.is_before_tail() => {
                    let place = record::place(offset, bytes, chunk.size());
                    let (bytes, next) = place.ok_or_else(damaged)?;
                    return Ok((view, bytes, next));
                }
                Some(Record::Jump(next)) if self.head.visit < self.tail.visit => self.leave(next),
                _ => return Err(damaged()),
            }
        }
        Err(damaged())
    }

    /// Whether producers have put something behind the head.
    #[inline]
    fn is_before_tail(&self) -> bool {
        let (head, tail) = (&self.head, &self.tail);
        head.visit < tail.visit
            || (head.visit, head.chunk) == (tail.visit, tail.chunk) && head.offset < tail.offset
    }

    /// Goes on to the next chunk, and gives back the memory of this one unless the producers work with it.
    fn leave(&mut self, next: Chunk) {
        // What goes back must have been taken.
        self.commit();
        let Position { chunk, offset, .. } = self.head;
        if chunk.is_given_up_for(self.tail.chunk) {
            // Before the commit that leaves it, as a producer may write to it then; all but the page of the record that
            // leads on, which is still needed if that commit never comes.
            self.memory.give_back(chunk, 0..offset);
            self.memory.give_back(chunk, offset + HEADER..chunk.size());
        }
        if !chunk.is_hot() && next.is_hot() {
            self.memory.unmap_large(Side::Consumers);
        }
        self.head.visit += 1;
        self.head.chunk = next;
        self.head.offset = 0;
    }
}

#[cold]
fn too_large() -> Error {
    let message = "failed to take an item from a queue";
    Error::io(message, io::ErrorKind::OutOfMemory.into())
}
