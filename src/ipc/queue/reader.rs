//! Taking items out of blocks, by whoever has the consumers' lock.

use super::block::{BLOCKS, Block};
use super::corrupted::err_corrupted;
use super::memory::{QueueMemory, Side};
use super::position::Position;
use super::record::{self, HEADER_LEN, Record};
use crate::error::{Error, Result};
use crate::shm::View;
use parking_lot::Mutex;
use std::{borrow::Cow, io, ops::Range, sync::atomic::Ordering};

/// Bytes of a large block that go back to the system at once when they were read.
const RELEASE_STEP: usize = 1 << 20;

/// Copies items from the head on. They are taken once that is committed; if it never is, the next
/// one copies them again.
pub(super) struct Reader<'a> {
    memory: &'a QueueMemory,
    /// Where the consumers stand for everybody else.
    committed: Position,
    head: Position,
    /// Where the producers stood a moment ago.
    tail: Position,
}

/// Where the producers stood when this process last looked: as long as items are left before that,
/// it need not look again, which would take the cache line from a producer that writes it.
pub(super) type CachedTail = Mutex<Option<Position>>;

impl<'a> Reader<'a> {
    /// `min_class` is how many items are wanted.
    #[inline]
    pub(super) fn new(
        memory: &'a QueueMemory,
        cached_tail: &CachedTail,
        min: usize,
    ) -> Result<Self> {
        let head = memory.head().load()?;
        let mut cached_tail = cached_tail.lock();
        let is_enough = |tail: &Position| tail.items.saturating_sub(head.items) >= min as u64;
        let tail = match *cached_tail {
            Some(tail) if is_enough(&tail) => tail,
            _ => *cached_tail.insert(memory.tail().load()?),
        };
        if tail.items < head.items {
            return Err(err_corrupted());
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
    pub(super) fn available(&self) -> u64 {
        self.tail.items - self.head.items
    }

    /// Appends the next item, of which there must be one. What was read before stays if it fails.
    #[inline]
    pub(super) fn read(&mut self, into: &mut Vec<u8>) -> Result<()> {
        let (view, bytes, next) = self.find()?;
        into.try_reserve(bytes.len())
            .map_err(|_| err_out_of_memory())?;
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
        if !self.head.block.is_hot() {
            self.release_read_steps();
        }
        self.committed = self.head;
    }

    /// While the lock is held: later, a producer may have written there again.
    fn release_read_steps(&self) {
        let (before, now) = (self.committed, self.head);
        let start = match before.generation == now.generation {
            true => before.offset / RELEASE_STEP,
            false => 0,
        };
        let part = start * RELEASE_STEP..now.offset / RELEASE_STEP * RELEASE_STEP;
        if !part.is_empty() {
            self.memory.release(now.block, part);
        }
    }

    /// Where the next item lies, and the record behind it.
    #[inline]
    fn find(&mut self) -> Result<(Cow<'a, View>, Range<usize>, usize)> {
        // A jump leads to an item, or to one more jump behind an item that could not be put. In
        // memory that something else has written to, jumps may go in a circle.
        for _ in 0..BLOCKS {
            let Position { block, offset, .. } = self.head;
            let view = self.memory.block(Side::Consumers, block)?;
            // Relaxed: it was written before the tail was committed, whose load was an acquire.
            let word = view.atomic_u64(offset).load(Ordering::Relaxed);
            match Record::from_word(word) {
                Some(Record::Item(bytes)) if self.is_before_tail() => {
                    let layout = record::layout(offset, bytes, block.size());
                    let (bytes, next) = layout.ok_or_else(err_corrupted)?;
                    return Ok((view, bytes, next));
                }
                Some(Record::Jump(next)) if self.head.generation < self.tail.generation => {
                    self.enter_next_block(next)
                }
                _ => return Err(err_corrupted()),
            }
        }
        Err(err_corrupted())
    }

    /// Whether producers have put something behind the head.
    #[inline]
    fn is_before_tail(&self) -> bool {
        let (head, tail) = (&self.head, &self.tail);
        head.generation < tail.generation
            || (head.generation, head.block) == (tail.generation, tail.block)
                && head.offset < tail.offset
    }

    /// Goes on to the next block, and gives back the memory of this one unless the producers work
    /// with it.
    fn enter_next_block(&mut self, next: Block) {
        // What goes back must have been taken.
        self.commit();
        let Position { block, offset, .. } = self.head;
        if block.should_release(self.tail.block) {
            // Before the commit that leaves it, as a producer may write to it then; all but the
            // page of the record that leads on, which is still needed if that commit never comes.
            self.memory.release(block, 0..offset);
            self.memory
                .release(block, offset + HEADER_LEN..block.size());
        }
        if !block.is_hot() && next.is_hot() {
            self.memory.unmap_large(Side::Consumers);
        }
        self.head.generation += 1;
        self.head.block = next;
        self.head.offset = 0;
    }
}

#[cold]
fn err_out_of_memory() -> Error {
    let message = "failed to take an item from a queue";
    Error::io(message, io::ErrorKind::OutOfMemory.into())
}
