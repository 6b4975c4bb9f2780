//! The positions of producers and consumers: seven words each, committed by a store to one of them.
//!
//! A position has more parts than one store can write. Each side therefore has two slots, and a
//! count of commits whose lowest bit selects the valid slot. The holder of the side's lock writes
//! the other slot, then increments the count. A death before the increment changes nothing; a death
//! after it changes everything.
//!
//! | word | content |
//! |---|---|
//! | 0 | commits so far; the valid slot starts at 1 + 3 * (commits % 2) |
//! | 1, 4 | items put, or taken, so far |
//! | 2, 5 | blocks entered so far, including the first |
//! | 3, 6 | bit 63: closed; bits 56 to 62: the block; the rest: the offset in it |
//!
//! `tests/loom/ipc` loads positions while they change, in every order that the memory model allows.

use super::block::Block;
use super::corrupted::err_corrupted;
use super::record::HEADER_LEN;
use crate::error::Result;
use crate::sys::atomic::{AtomicU64, Ordering};

/// Words of a position.
pub(super) const WORDS: usize = 7;

const CLOSED: u64 = 1 << 63;
const BLOCK_SHIFT: u32 = 56;

/// Attempts to load a position that keeps changing. Each failed attempt takes a commit of another
/// process, which takes longer than a load.
const MAX_LOADS: usize = 1 << 20;

/// The position of one side of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Items put, or taken, since the queue was created.
    pub(super) items: u64,
    /// Blocks entered so far, including the first.
    pub(super) generation: u64,
    pub(super) block: Block,
    /// Bytes from the block's start to the next record.
    pub(super) offset: usize,
    /// For producers: no item may be put any more.
    pub(super) is_closed: bool,
}

impl Position {
    const START: Self = Self {
        items: 0,
        generation: 1,
        block: Block::FIRST,
        offset: 0,
        is_closed: false,
    };

    fn to_words(self) -> [u64; 3] {
        let block = (self.block.number() as u64) << BLOCK_SHIFT;
        let closed = if self.is_closed { CLOSED } else { 0 };
        [
            self.items,
            self.generation,
            closed | block | self.offset as u64,
        ]
    }

    /// Returns `None` for words that no commit has written: a record must fit at the offset.
    fn from_words([items, generation, place]: [u64; 3]) -> Option<Self> {
        let block = Block::from_number((place & !CLOSED) >> BLOCK_SHIFT)?;
        let offset = (place & ((1 << BLOCK_SHIFT) - 1)) as usize;
        let is_inside = offset.is_multiple_of(HEADER_LEN) && offset <= block.size() - HEADER_LEN;
        is_inside.then_some(Self {
            items,
            generation,
            block,
            offset,
            is_closed: place & CLOSED != 0,
        })
    }
}

/// The words of one side's position in shared memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct AtomicPosition<'a>(pub(super) &'a [AtomicU64; WORDS]);

impl AtomicPosition<'_> {
    /// Sets the position of a new queue, before any other process has it.
    pub(super) fn init(self) {
        self.commit(Position::START);
    }

    /// Loads the position, which may be outdated at once if other processes may commit.
    ///
    /// Fails if something other than a commit has written the words.
    #[inline]
    pub(super) fn load(self) -> Result<Position> {
        for _ in 0..MAX_LOADS {
            // Acquire: a load that sees a commit also sees everything written before that commit.
            let commits = self.commits().load(Ordering::Acquire);
            // The slot may be overwritten during the load:
            // 1. This process loads the count n, and the first word of slot n. 2. A holder of the
            // lock commits n + 1, into the other slot. 3. The next one writes slot n + 2, which is
            // this slot. 4. This process loads the other words, which do not fit the first.
            // Acquire: a load that sees a word of 3 also sees 2, so the count below is not n.
            let words = self.slot(commits).each_ref();
            let words = words.map(|it| it.load(Ordering::Acquire));
            if self.commits().load(Ordering::Relaxed) == commits {
                return Position::from_words(words).ok_or_else(err_corrupted);
            }
            std::hint::spin_loop();
        }
        Err(err_corrupted())
    }

    /// Moves the side to a new position in one step. Only the holder of its lock calls this.
    #[inline]
    pub(super) fn commit(self, position: Position) {
        // Relaxed: only holders of the lock write it.
        let next = self.commits().load(Ordering::Relaxed).wrapping_add(1);
        for (word, value) in self.slot(next).iter().zip(position.to_words()) {
            // Release: see `load`. The overwritten slot has been invalid since the last commit.
            word.store(value, Ordering::Release);
        }
        // Release: publishes the position and everything that was written, or read, before it.
        self.commits().store(next, Ordering::Release);
    }

    fn commits(&self) -> &AtomicU64 {
        &self.0[0]
    }

    fn slot(&self, commits: u64) -> &[AtomicU64; 3] {
        let start = if commits.is_multiple_of(2) { 1 } else { 4 };
        let words = self.0[start..].first_chunk();
        words.expect("the first word is followed by two slots of three words")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn every_part_of_a_position_comes_back() {
        let words = Default::default();
        let mark = AtomicPosition(&words);
        mark.init();
        assert_eq!(mark.load().ok(), Some(Position::START));
        for is_closed in [false, true] {
            let position = Position {
                items: u64::MAX,
                generation: 77,
                block: Block::from_number(49).expect("a block"),
                offset: (1 << 40) - 8,
                is_closed,
            };
            mark.commit(position);
            assert_eq!(mark.load().ok(), Some(position));
        }
    }

    #[test]
    fn a_commit_that_was_not_finished_is_none() {
        let words: [AtomicU64; WORDS] = Default::default();
        let mark = AtomicPosition(&words);
        mark.init();
        // The state after a producer that died before it incremented the count.
        for word in mark.slot(2) {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        assert_eq!(mark.load().ok(), Some(Position::START));
    }

    #[test]
    fn positions_are_never_torn() {
        let (words, rounds) = (Default::default(), 100_000);
        let mark = AtomicPosition(&words);
        mark.init();
        let at = |n| Position {
            items: n,
            generation: n + 1,
            offset: n as usize % 1000 * HEADER_LEN,
            ..Position::START
        };
        thread::scope(|scope| {
            scope.spawn(move || (1..=rounds).for_each(|n| mark.commit(at(n))));
            let mut last = 0;
            while last < rounds {
                let seen = mark.load().expect("a position");
                assert_eq!(seen, at(seen.items));
                assert!(seen.items >= last);
                last = seen.items;
            }
        });
    }
}
