//! Takes items out of blocks, under the consumers' lock.

use super::block::{BLOCKS, Block};
use super::corrupted::err_corrupted;
use super::memory::{QueueMemory, Side};
use super::position::Position;
use super::record::{self, HEADER_LEN, Record};
use crate::error::{Error, Result};
use crate::shm::View;
use parking_lot::Mutex;
use std::{borrow::Cow, io, ops::Range, sync::atomic::Ordering};

/// Bytes of a large block that are returned to the system at once after they are read.
const RELEASE_STEP: usize = 1 << 20;

/// Copies items from the head on. They are taken once the reader commits; without a commit, the
/// next reader copies them again.
pub(super) struct Reader<'a> {
    memory: &'a QueueMemory,
    /// The committed position, which other processes see.
    committed: Position,
    head: Position,
    /// The producers' position, which may be outdated.
    tail: Position,
}

/// The producers' position at this process's last look. While it leaves enough items, no new look
/// is needed, which would take the cache line from a producer that writes it.
pub(super) type CachedTail = Mutex<Option<Position>>;

impl<'a> Reader<'a> {
    /// `wanted` is the number of items to read. The cached tail is used if it has that many.
    #[inline]
    pub(super) fn new(
        memory: &'a QueueMemory,
        cached_tail: &CachedTail,
        wanted: usize,
    ) -> Result<Self> {
        let head = memory.head().load()?;
        let mut cached_tail = cached_tail.lock();
        let is_enough = |tail: &Position| tail.items.saturating_sub(head.items) >= wanted as u64;
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

    /// Whether no more items will follow the available ones.
    pub(super) fn is_closed(&self) -> bool {
        self.tail.is_closed
    }

    /// Returns the number of available items.
    #[inline]
    pub(super) fn available(&self) -> u64 {
        self.tail.items - self.head.items
    }

    /// Appends the next item, which must be available. After a failure, earlier items can still be
    /// committed.
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

    /// Takes the items read so far.
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

    /// Must run under the lock: later, a producer may have written to these pages again.
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

    /// Finds the next item: its view, its bytes, and the offset of the record after it.
    #[inline]
    fn find(&mut self) -> Result<(Cow<'a, View>, Range<usize>, usize)> {
        // A jump leads to an item, or to another jump if an item could not be put in between. In
        // overwritten memory, jumps may form a circle.
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

    /// Whether there is a record between head and tail.
    #[inline]
    fn is_before_tail(&self) -> bool {
        let (head, tail) = (&self.head, &self.tail);
        head.generation < tail.generation
            || (head.generation, head.block) == (tail.generation, tail.block)
                && head.offset < tail.offset
    }

    /// Moves to the next block. Releases the memory of this one, unless the producers still use its
    /// size.
    fn enter_next_block(&mut self, next: Block) {
        // Commit first: after the release, items of this block cannot be read again.
        self.commit();
        let Position { block, offset, .. } = self.head;
        if block.should_release(self.tail.block) {
            // Release before the commit that leaves this block: after it, a producer may write to
            // the block. Keep the page of the jump record, which is still needed if this process
            // dies before that commit.
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
