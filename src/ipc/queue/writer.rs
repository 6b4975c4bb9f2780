//! Putting items into chunks, by whoever has the producers' lock.

use super::chunk::{Choice, Chunk};
use super::damaged::damaged;
use super::memory::{Memory, Side};
use super::position::Position;
use super::record::{self, Record};
use crate::error::{Error, Result};
use crate::shm::View;
use std::{io, ops::Range, sync::atomic::Ordering};

/// Writes items behind the tail. They are there once they are committed; if that never happens, the next one writes over
/// them.
///
/// A chunk is free if the consumers have left it, which its visit tells: it is smaller than the one they are in. One that is
/// greater than the producers' own is of a producer that died before its commit, and means nothing.
pub(super) struct Writer<'a> {
    memory: &'a Memory,
    tail: Position,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(super) fn new(memory: &'a Memory) -> Result<Self> {
        let tail = memory.tail().load()?;
        Ok(Self { memory, tail })
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.tail.is_closed
    }

    /// How many items may be put.
    #[inline]
    pub(super) fn room(&self) -> Result<u64> {
        match self.memory.capacity() {
            u64::MAX => Ok(u64::MAX),
            capacity => Ok(capacity.saturating_sub(self.tail.items - self.head()?.items)),
        }
    }

    /// Where the consumers stood a moment ago: not before the tail.
    #[inline]
    fn head(&self) -> Result<Position> {
        let head = self.memory.head().load()?;
        (head.items <= self.tail.items)
            .then_some(head)
            .ok_or_else(damaged)
    }

    /// Fails if the item is larger than any chunk, or the one it is for cannot be mapped. What was written before stays.
    #[inline]
    pub(super) fn write(&mut self, item: &[u8]) -> Result<()> {
        let (bytes, next) = match self.place(item.len()) {
            Some(place) if self.tail.chunk.is_hot() => place,
            _ => self.place_by_choice(item.len())?,
        };
        let view = self.memory.chunk(Side::Producers, self.tail.chunk)?;
        view.copy_in(bytes.start, item);
        self.write_record(&view, Record::Item(item.len()));
        self.tail.items = self.tail.items.checked_add(1).ok_or_else(damaged)?;
        self.tail.offset = next;
        Ok(())
    }

    /// Makes everything that was written count, all at once.
    #[inline]
    pub(super) fn commit(self) {
        self.memory.tail().commit(self.tail);
    }

    /// Has no more items put after these.
    pub(super) fn close(mut self) {
        self.tail.is_closed = true;
        self.commit();
    }

    fn place(&self, bytes: usize) -> Option<(Range<usize>, usize)> {
        record::place(self.tail.offset, bytes, self.tail.chunk.size())
    }

    #[cold]
    fn place_by_choice(&mut self, bytes: usize) -> Result<(Range<usize>, usize)> {
        let head = self.head()?;
        let choice = Choice {
            tail: self.tail,
            head,
            item: bytes,
            is_free: &|chunk| self.is_free(chunk, head),
        };
        let next = choice.is_due().then(|| choice.next());
        if let Some(next) = next {
            let twin = self.tail.chunk.twin();
            self.jump(next.ok_or_else(|| no_chunk(bytes))?)?;
            self.give_up(twin, head);
        }
        let place = self.place(bytes);
        Ok(place.expect("the chunk was chosen to hold the item"))
    }

    fn is_free(&self, chunk: Chunk, head: Position) -> bool {
        // Relaxed: visits are written and read under the producers' lock.
        let visit = self.memory.visits()[chunk.number()].load(Ordering::Relaxed);
        self.memory.has(chunk) && (visit < head.visit || visit > self.tail.visit)
    }

    /// Gives back the memory of a chunk that took turns with the one that was just left, if the consumers are done with both.
    fn give_up(&self, chunk: Chunk, head: Position) {
        if chunk.is_given_up_for(self.tail.chunk) && self.is_free(chunk, head) {
            self.memory.give_back(chunk, 0..chunk.size());
        }
    }

    /// What follows is written to another chunk.
    fn jump(&mut self, next: Chunk) -> Result<()> {
        let left = self.memory.chunk(Side::Producers, self.tail.chunk)?;
        // Now, while it may still fail.
        self.memory.chunk(Side::Producers, next)?;
        self.write_record(&left, Record::Jump(next));
        if !self.tail.chunk.is_hot() && next.is_hot() {
            self.memory.unmap_large(Side::Producers);
        }
        self.tail.visit = self.tail.visit.checked_add(1).ok_or_else(damaged)?;
        self.tail.chunk = next;
        self.tail.offset = 0;
        let visits = self.memory.visits();
        visits[next.number()].store(self.tail.visit, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn write_record(&self, view: &View, record: Record) {
        // Relaxed: nobody reads it before the commit, which is a release.
        let word = view.atomic_u64(self.tail.offset);
        word.store(record.to_word(), Ordering::Relaxed);
    }
}

#[cold]
fn no_chunk(bytes: usize) -> Error {
    let full = io::ErrorKind::StorageFull.into();
    Error::io(
        format_args!("failed to put an item of {bytes} bytes into a queue"),
        full,
    )
}
