//! The records of a block: a header word, followed by the bytes of an item.
//!
//! | bit 0 | the other bits | followed by |
//! |---|---|---|
//! | 0 | bytes of the item, plus 1 | the item |
//! | 1 | a block number | nothing: the next record is the first one in that block |
//!
//! No record is 0, which is the content of unwritten memory. Records start at multiples of 8. Every
//! block ends with a jump record, for which room is always kept.

use super::block::Block;
use std::ops::Range;

/// Bytes of the header word.
pub(super) const HEADER_LEN: usize = 8;

/// Bytes; an item of at least this length starts at a cache line. Without that, large copies are a
/// third slower (benches/ipc.rs).
const ALIGN_FROM: usize = 1024;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// A decoded header word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// An item of this many bytes.
    Item(usize),
    /// The next record is in another block.
    Jump(Block),
}

impl Record {
    pub(super) fn to_word(self) -> u64 {
        match self {
            Self::Item(bytes) => (bytes as u64 + 1) << 1,
            Self::Jump(block) => (block.number() as u64) << 1 | 1,
        }
    }

    /// Returns `None` for a word that no producer writes.
    pub(super) fn from_word(word: u64) -> Option<Self> {
        match word % 2 {
            0 => (word >> 1)
                .checked_sub(1)
                .map(|bytes| Self::Item(bytes as usize)),
            _ => Block::from_number(word >> 1).map(Self::Jump),
        }
    }
}

/// Computes the layout of an item of `bytes` bytes whose record starts at `offset` in a block of
/// `size` bytes: the range of its bytes, and the offset of the next record. Returns `None` if it
/// does not fit.
#[inline]
pub(super) fn layout(offset: usize, bytes: usize, size: usize) -> Option<(Range<usize>, usize)> {
    let start = offset.checked_add(HEADER_LEN)?;
    let start = match bytes {
        ..ALIGN_FROM => start,
        _ => start.checked_next_multiple_of(CACHE_LINE)?,
    };
    let end = start.checked_add(bytes)?;
    let next = end.checked_next_multiple_of(HEADER_LEN)?;
    (next.checked_add(HEADER_LEN)? <= size).then_some((start..end, next))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_records_are() {
        for record in [
            Record::Item(0),
            Record::Item(1 << 40),
            Record::Jump(Block::FIRST),
            Record::Jump(Block::from_number(49).expect("a block")),
        ] {
            assert_eq!(Record::from_word(record.to_word()), Some(record));
        }
        assert_eq!([0, u64::MAX].map(Record::from_word), [None; 2]);
    }

    #[test]
    fn an_item_fits_when_a_jump_fits_behind_it() {
        assert_eq!(layout(0, 0, 16), Some((8..8, 8)));
        assert_eq!(layout(0, 1, 24), Some((8..9, 16)));
        assert_eq!(layout(0, 1, 23), None);
        assert_eq!(layout(8, 4096, 4200), Some((64..4160, 4160)));
        assert_eq!(layout(0, usize::MAX, usize::MAX), None);
        assert_eq!(layout(usize::MAX - 7, 1024, usize::MAX), None);
    }
}
