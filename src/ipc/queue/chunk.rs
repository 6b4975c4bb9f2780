//! The pieces of a queue's file: two chunks of each size, and which of them a producer goes to next.
//!
//! A chunk is filled from its start to its end and never from both, so nothing wraps around. With two of each size, one is
//! filled while the other is read; when the consumers are too far behind for that, the next size takes what comes. The
//! memory of a queue is therefore a small multiple of what waits in it, and an item of any size finds a chunk that holds it.

use super::position::Position;
use super::record;
use std::ops::Range;

/// Bytes before the first chunk: what all users of the queue map. A multiple of every page size.
pub(super) const CONTROL: usize = 64 << 10;

/// Bytes of a chunk of the smallest class: two of them stay in a core's second-level cache. In a model
/// it holds one small item.
const SMALLEST: usize = if cfg!(loom) { 32 } else { 64 << 10 };

/// Sizes of chunks, each twice the one before: up to 1 TiB.
const CLASSES: u8 = 25;

/// How many chunks there are.
pub(super) const CHUNKS: usize = 2 * CLASSES as usize;

/// The last class whose chunks stay mapped, and keep their memory as long as the queue works with them: 8 MiB each.
const LAST_HOT: u8 = 7;

/// How many chunks may stay mapped, about 32 MiB together.
pub(super) const HOT: usize = 2 * (LAST_HOT as usize + 1);

/// One of the pieces: twice its class, and 1 more for the second of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk(u8);

impl Chunk {
    /// The one that a queue begins in.
    pub(super) const FIRST: Self = Self(0);

    /// None if there is no such chunk.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (usize::from(number) < CHUNKS).then_some(Self(number))
    }

    pub(super) fn number(self) -> usize {
        self.0.into()
    }

    /// Bytes.
    pub(super) fn size(self) -> usize {
        size_of_class(self.class())
    }

    /// Where it lies in the file.
    pub(super) fn range(self) -> Range<usize> {
        let before = 2 * (self.size() - SMALLEST);
        let second = usize::from(self.0 % 2) * self.size();
        let start = CONTROL + before + second;
        start..start + self.size()
    }

    pub(super) fn is_hot(self) -> bool {
        self.class() <= LAST_HOT
    }

    /// Whether the memory of this chunk is of no use to producers who are in `now`: it is large, or they work with another
    /// size.
    pub(super) fn is_given_up_for(self, now: Self) -> bool {
        !self.is_hot() || self.class() != now.class()
    }

    /// The other one of this size.
    pub(super) fn twin(self) -> Self {
        Self(self.0 ^ 1)
    }

    fn class(self) -> u8 {
        self.0 / 2
    }
}

/// Bytes of a queue's file: as many classes as fit into `limit`, at least what everybody maps.
pub(super) fn file_length(limit: usize) -> usize {
    let ends = (0..CLASSES).map(|class| Chunk(2 * class + 1).range().end);
    ends.take_while(|it| *it <= limit).last().unwrap_or(CONTROL)
}

/// What the producers know when they choose.
pub(super) struct Choice<'a> {
    /// Where they stand.
    pub(super) tail: Position,
    /// Where the consumers stood a moment ago.
    pub(super) head: Position,
    /// Bytes of the item that is to be put.
    pub(super) item: usize,
    /// Whether a chunk may be written to from its start.
    pub(super) is_free: &'a dyn Fn(Chunk) -> bool,
}

impl Choice<'_> {
    /// Whether the item goes to another chunk: it does not fit, or nothing waits in a chunk that is larger than is
    /// good for it.
    pub(super) fn is_due(&self) -> bool {
        let chunk = self.tail.chunk;
        let is_oversized = || {
            let waiting = self.tail.items - self.head.items;
            waiting == 0 && self.least().is_some_and(|it| it < chunk.class())
        };
        record::place(self.tail.offset, self.item, chunk.size()).is_none()
            || !chunk.is_hot() && is_oversized()
    }

    /// The next chunk; none if the item is larger than any.
    pub(super) fn next(&self) -> Option<Chunk> {
        let classes = self.least()?.max(self.wanted())..CLASSES;
        let mut chunks = classes.flat_map(|it| [Chunk(2 * it), Chunk(2 * it + 1)]);
        chunks.find(|it| (self.is_free)(*it))
    }

    /// The class that suits what waits: all memory is given up when nothing does, half of it when that is little.
    fn wanted(&self) -> u8 {
        let (tail, head) = (self.tail, self.head);
        let (class, size) = (tail.chunk.class(), tail.chunk.size());
        if tail.items == head.items && !tail.chunk.is_hot() {
            return 0;
        }
        let waits = tail.offset.saturating_sub(head.offset);
        let is_little = head.visit == tail.visit && waits < size / 4;
        // Where only a few such items fit, the next one that has to wait would lead up again.
        let fit_below = self.item < size / 8;
        class - u8::from(is_little && fit_below && class > 0)
    }

    /// The smallest class that holds the item.
    fn least(&self) -> Option<u8> {
        let holds = |class: &u8| record::place(0, self.item, size_of_class(*class)).is_some();
        (0..CLASSES).find(holds)
    }
}

fn size_of_class(class: u8) -> usize {
    SMALLEST << class
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(chunk: u8, offset: usize, visit: u64, items: u64) -> Position {
        Position {
            items,
            visit,
            chunk: Chunk(chunk),
            offset,
            is_closed: false,
        }
    }

    fn choose(tail: Position, head: Position, item: usize, free: &[u8]) -> (bool, Option<u8>) {
        let choice = Choice {
            tail,
            head,
            item,
            is_free: &|it| free.contains(&it.0),
        };
        (choice.is_due(), choice.next().map(|it| it.0))
    }

    #[test]
    fn chunks_follow_each_other_in_the_file() {
        let mut end = CONTROL;
        for number in 0..CHUNKS as u64 {
            let range = Chunk::from_number(number).expect("a chunk").range();
            assert_eq!((range.start, range.len()), (end, SMALLEST << (number / 2)));
            end = range.end;
        }
        assert_eq!(Chunk::from_number(CHUNKS as u64), None);
        assert_eq!(file_length(usize::MAX), end);
        assert_eq!(file_length(end - 1), Chunk(47).range().end);
        assert_eq!(file_length(CONTROL + SMALLEST), CONTROL);
    }

    #[test]
    fn two_chunks_take_turns_while_the_consumers_keep_up() {
        let (tail, head) = (at(0, 65_500, 7, 900), at(0, 30_000, 7, 500));
        assert_eq!(choose(tail, head, 100, &[1, 2, 3]), (true, Some(1)));
        let tail = at(0, 65_400, 7, 900);
        assert!(!choose(tail, head, 100, &[1, 2, 3]).0);
    }

    #[test]
    fn what_waits_makes_chunks_larger_and_smaller() {
        let (tail, far_behind) = (at(5, 262_100, 9, 900), at(4, 10, 8, 1));
        assert_eq!(choose(tail, far_behind, 100, &[0, 1, 2, 6, 7]).1, Some(6));
        let close_behind = at(5, 261_000, 9, 890);
        assert_eq!(choose(tail, close_behind, 100, &[0, 1, 2, 4, 6]).1, Some(2));
        assert_eq!(choose(tail, close_behind, 100, &[0, 1, 4, 6]).1, Some(4));
        assert_eq!(choose(tail, close_behind, 40_000, &[2, 4]).1, Some(4));
    }

    #[test]
    fn a_large_item_finds_a_chunk_that_holds_it() {
        let here = at(0, 0, 1, 0);
        assert_eq!(choose(here, here, 65_000, &[1, 2]), (false, Some(1)));
        assert_eq!(choose(here, here, 65_536, &[1, 2]), (true, Some(2)));
        assert_eq!(choose(here, here, 64 << 20, &[1, 22]), (true, Some(22)));
        assert_eq!(choose(here, here, 2 << 40, &[1, 49]), (true, None));
    }

    #[test]
    fn a_large_chunk_is_left_when_nothing_waits_in_it() {
        let end_of_backlog = at(20, 4096, 30, 5);
        assert_eq!(
            choose(end_of_backlog, end_of_backlog, 8, &[0, 1]),
            (true, Some(0))
        );
        // The item itself needs a chunk of that size.
        assert!(!choose(end_of_backlog, end_of_backlog, 40 << 20, &[21]).0);
        assert!(!choose(end_of_backlog, at(20, 0, 30, 4), 8, &[0, 1]).0);
    }
}
