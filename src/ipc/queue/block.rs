//! The blocks of a queue's file: two of each size.
//!
//! A block is filled from start to end only, so nothing wraps around. While one block of a size is
//! filled, the other is read. If the consumers fall too far back for that, the producers go on in
//! the next size. The memory of a queue is therefore a small multiple of its waiting items, and
//! there is a block for an item of any size.

use std::ops::Range;

/// Length of the area before the first block in bytes: all users of the queue map it. A multiple of
/// every page size.
pub(super) const CONTROL_LEN: usize = 64 << 10;

/// Bytes of a block of the smallest class: two of them fit into a core's second-level cache. In a
/// loom model it holds one small item.
const MIN_BLOCK_LEN: usize = if cfg!(loom) { 32 } else { 64 << 10 };

/// Number of block sizes, each twice the previous one, up to 1 TiB.
pub(super) const CLASSES: u8 = 25;

/// Number of blocks.
pub(super) const BLOCKS: usize = 2 * CLASSES as usize;

/// The largest class whose blocks stay mapped, and keep their memory while the queue uses them: 8
/// MiB each.
const MAX_HOT_CLASS: u8 = 7;

/// Number of blocks that may stay mapped, about 32 MiB together.
pub(super) const HOT_BLOCKS: usize = 2 * (MAX_HOT_CLASS as usize + 1);

/// A block's number: twice its class, plus 1 for the second block of the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block(pub(super) u8);

impl Block {
    /// The first block of a new queue.
    pub(super) const FIRST: Self = Self(0);

    /// Returns `None` if the number is too large.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (usize::from(number) < BLOCKS).then_some(Self(number))
    }

    pub(super) fn number(self) -> usize {
        self.0.into()
    }

    /// Returns the length in bytes.
    pub(super) fn size(self) -> usize {
        size_of_class(self.class())
    }

    /// Returns the range of the file that it occupies.
    pub(super) fn range(self) -> Range<usize> {
        let before = 2 * (self.size() - MIN_BLOCK_LEN);
        let second = usize::from(self.0 % 2) * self.size();
        let start = CONTROL_LEN + before + second;
        start..start + self.size()
    }

    pub(super) fn is_hot(self) -> bool {
        self.class() <= MAX_HOT_CLASS
    }

    /// Whether producers in block `now` do not need the memory of this block: it is large, or they
    /// use another size.
    pub(super) fn should_release(self, now: Self) -> bool {
        !self.is_hot() || self.class() != now.class()
    }

    /// Returns the other block of the same size.
    pub(super) fn twin(self) -> Self {
        Self(self.0 ^ 1)
    }

    pub(super) fn class(self) -> u8 {
        self.0 / 2
    }
}

/// Returns the length of a queue's file in bytes: as many classes as fit into `limit`, and at least
/// the control area.
pub(super) fn file_len(limit: usize) -> usize {
    let ends = (0..CLASSES).map(|class| Block(2 * class + 1).range().end);
    ends.take_while(|end| *end <= limit)
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
