//! Puts items into blocks, under the producers' lock.

use super::block::Block;
use super::corrupted::err_corrupted;
use super::memory::{QueueMemory, Side};
use super::placement::BlockAllocator;
use super::position::Position;
use super::record::{self, Record};
use crate::error::{Error, Result};
use crate::shm::View;
use std::{io, ops::Range, sync::atomic::Ordering};

/// Writes items after the tail. They are in the queue once the writer commits; without a commit,
/// the next writer overwrites them.
///
/// A block is free if the consumers have left it: its generation is lower than that of the block
/// that they are in. A generation higher than the producers' own comes from a producer that died
/// before its commit; such a block is free, too.
pub(super) struct Writer<'a> {
    memory: &'a QueueMemory,
    tail: Position,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(super) fn new(memory: &'a QueueMemory) -> Result<Self> {
        let tail = memory.tail().load()?;
        Ok(Self { memory, tail })
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.tail.is_closed
    }

    /// Returns how many items may be put.
    #[inline]
    pub(super) fn room(&self) -> Result<u64> {
        match self.memory.capacity() {
            u64::MAX => Ok(u64::MAX),
            capacity => Ok(capacity.saturating_sub(self.tail.items - self.head()?.items)),
        }
    }

    /// Returns the consumers' position, which may be outdated but is not after the tail.
    #[inline]
    fn head(&self) -> Result<Position> {
        let head = self.memory.head().load()?;
        (head.items <= self.tail.items)
            .then_some(head)
            .ok_or_else(err_corrupted)
    }

    /// Writes an item. Fails if the item is larger than any block, or if its block cannot be
    /// mapped. Items written before can still be committed.
    #[inline]
    pub(super) fn write(&mut self, item: &[u8]) -> Result<()> {
        let (bytes, next) = match self.layout(item.len()) {
            Some(layout) if self.tail.block.is_hot() => layout,
            _ => self.layout_in_new_block(item.len())?,
        };
        let view = self.memory.block(Side::Producers, self.tail.block)?;
        view.copy_in(bytes.start, item);
        self.write_record(&view, Record::Item(item.len()));
        self.tail.items = self.tail.items.checked_add(1).ok_or_else(err_corrupted)?;
        self.tail.offset = next;
        Ok(())
    }

    /// Puts all written items into the queue in one step.
    #[inline]
    pub(super) fn commit(self) {
        self.memory.tail().commit(self.tail);
    }

    /// Closes the queue for further items.
    pub(super) fn close(mut self) {
        self.tail.is_closed = true;
        self.commit();
    }

    fn layout(&self, bytes: usize) -> Option<(Range<usize>, usize)> {
        record::layout(self.tail.offset, bytes, self.tail.block.size())
    }

    #[cold]
    fn layout_in_new_block(&mut self, bytes: usize) -> Result<(Range<usize>, usize)> {
        let head = self.head()?;
        let allocator = BlockAllocator {
            tail: self.tail,
            head,
            item_len: bytes,
            is_free: &|block| self.is_free(block, head),
        };
        let next = allocator.needs_new_block().then(|| allocator.next_block());
        if let Some(next) = next {
            let twin = self.tail.block.twin();
            self.jump(next.ok_or_else(|| err_no_block(bytes))?)?;
            self.release_unused(twin, head);
        }
        let layout = self.layout(bytes);
        Ok(layout.expect("the block was chosen to hold the item"))
    }

    fn is_free(&self, block: Block, head: Position) -> bool {
        // A generation above the tail's comes from a death: 1. A producer enters the block and
        // stores the generation. 2. It is killed before its commit. 3. The next producer has the
        // old tail: no record leads to the block, so it may be entered again.
        // Relaxed: generations are written and read under the producers' lock.
        let generation = self.memory.generations()[block.number()].load(Ordering::Relaxed);
        self.memory.contains(block)
            && (generation < head.generation || generation > self.tail.generation)
    }

    /// Returns the memory of the twin of the block that was just left, if the consumers have left
    /// the twin.
    fn release_unused(&self, block: Block, head: Position) {
        if block.should_release(self.tail.block) && self.is_free(block, head) {
            self.memory.release(block, 0..block.size());
        }
    }

    /// Continues in another block.
    fn jump(&mut self, next: Block) -> Result<()> {
        let left = self.memory.block(Side::Producers, self.tail.block)?;
        // Map the next block before the first change, as this may fail.
        self.memory.block(Side::Producers, next)?;
        self.write_record(&left, Record::Jump(next));
        if !self.tail.block.is_hot() && next.is_hot() {
            self.memory.unmap_large(Side::Producers);
        }
        self.tail.generation = self
            .tail
            .generation
            .checked_add(1)
            .ok_or_else(err_corrupted)?;
        self.tail.block = next;
        self.tail.offset = 0;
        // Stored before the commit: after it, the block must look occupied to the next producer,
        // even if this one dies right after the commit.
        let generations = self.memory.generations();
        generations[next.number()].store(self.tail.generation, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn write_record(&self, view: &View, record: Record) {
        // Relaxed: no consumer reads it before the commit, which is a release.
        let word = view.atomic_u64(self.tail.offset);
        word.store(record.to_word(), Ordering::Relaxed);
    }
}

#[cold]
fn err_no_block(bytes: usize) -> Error {
    let full = io::ErrorKind::StorageFull.into();
    Error::io(
        format_args!("failed to put an item of {bytes} bytes into a queue"),
        full,
    )
}
