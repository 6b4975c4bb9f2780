//! What lies in a block: a word that says what follows, and an item's bytes behind it.
//!
//! | bit 0 | the other bits | behind it |
//! |---|---|---|
//! | 0 | bytes of the item, and 1 | the item |
//! | 1 | a block | nothing: the next record is the first one there |
//!
//! No record is 0: memory that was never written holds none. Records begin at multiples of 8, and
//! every block ends with one that goes on elsewhere, for which there is always room.

use super::block::Block;
use std::ops::Range;

/// Bytes of the word.
pub(super) const HEADER_LEN: usize = 8;

/// Bytes; an item from here on begins at a cache line, without which large copies are a third
/// slower (benches/ipc.rs).
const ALIGN_FROM: usize = 1024;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// Of so many bytes.
    Item(usize),
    /// Everything that follows is in another block.
    Jump(Block),
}

impl Record {
    pub(super) fn to_word(self) -> u64 {
        match self {
            Self::Item(bytes) => (bytes as u64 + 1) << 1,
            Self::Jump(block) => (block.number() as u64) << 1 | 1,
        }
    }

    /// None for what no producer writes.
    pub(super) fn from_word(word: u64) -> Option<Self> {
        match word % 2 {
            0 => (word >> 1).checked_sub(1).map(|it| Self::Item(it as usize)),
            _ => Block::from_number(word >> 1).map(Self::Jump),
        }
    }
}

/// Where an item of so many bytes lies whose record begins at `offset`, in a block of `size` bytes:
/// its bytes, and where the next record begins. None if it does not fit.
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
