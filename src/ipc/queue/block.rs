//! The blocks of a queue's file: two of each size.
//!
//! A block is filled from its start to its end and never from both, so nothing wraps around. With
//! two of each size, one is filled while the other is read; when the consumers are too far behind
//! for that, the next size takes what comes. The memory of a queue is therefore a small multiple of
//! what waits in it, and an item of any size finds a block that holds it.

use std::ops::Range;

/// Bytes before the first block: what all users of the queue map. A multiple of every page size.
pub(super) const CONTROL_LEN: usize = 64 << 10;

/// Bytes of a block of the smallest class: two of them stay in a core's second-level cache. In a
/// model it holds one small item.
const MIN_BLOCK_LEN: usize = if cfg!(loom) { 32 } else { 64 << 10 };

/// Sizes of blocks, each twice the one before: up to 1 TiB.
pub(super) const CLASSES: u8 = 25;

/// How many blocks there are.
pub(super) const BLOCKS: usize = 2 * CLASSES as usize;

/// The last class whose blocks stay mapped, and keep their memory as long as the queue works with
/// them: 8 MiB each.
const MAX_HOT_CLASS: u8 = 7;

/// How many blocks may stay mapped, about 32 MiB together.
pub(super) const HOT_BLOCKS: usize = 2 * (MAX_HOT_CLASS as usize + 1);

/// One of the pieces: twice its class, and 1 more for the second of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block(pub(super) u8);

impl Block {
    /// The one that a queue begins in.
    pub(super) const FIRST: Self = Self(0);

    /// None if there is no such block.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (usize::from(number) < BLOCKS).then_some(Self(number))
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
        let before = 2 * (self.size() - MIN_BLOCK_LEN);
        let second = usize::from(self.0 % 2) * self.size();
        let start = CONTROL_LEN + before + second;
        start..start + self.size()
    }

    pub(super) fn is_hot(self) -> bool {
        self.class() <= MAX_HOT_CLASS
    }

    /// Whether the memory of this block is of no use to producers who are in `now`: it is large, or
    /// they work with another size.
    pub(super) fn should_release(self, now: Self) -> bool {
        !self.is_hot() || self.class() != now.class()
    }

    /// The other one of this size.
    pub(super) fn twin(self) -> Self {
        Self(self.0 ^ 1)
    }

    pub(super) fn class(self) -> u8 {
        self.0 / 2
    }
}

/// Bytes of a queue's file: as many classes as fit into `limit`, at least what everybody maps.
pub(super) fn file_len(limit: usize) -> usize {
    let ends = (0..CLASSES).map(|class| Block(2 * class + 1).range().end);
    ends.take_while(|it| *it <= limit)
        .last()
        .unwrap_or(CONTROL_LEN)
}

pub(super) fn size_of_class(class: u8) -> usize {
    MIN_BLOCK_LEN << class
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_each_other_in_the_file() {
        let mut end = CONTROL_LEN;
        for number in 0..BLOCKS as u64 {
            let range = Block::from_number(number).expect("a block").range();
            assert_eq!(
                (range.start, range.len()),
                (end, MIN_BLOCK_LEN << (number / 2))
            );
            end = range.end;
        }
        assert_eq!(Block::from_number(BLOCKS as u64), None);
        assert_eq!(file_len(usize::MAX), end);
        assert_eq!(file_len(end - 1), Block(47).range().end);
        assert_eq!(file_len(CONTROL_LEN + MIN_BLOCK_LEN), CONTROL_LEN);
    }
}
