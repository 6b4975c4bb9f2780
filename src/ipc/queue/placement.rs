//! Chooses the producers' next block: it must hold the item, and suit the amount of waiting items.

use super::block::{Block, CLASSES, size_of_class};
use super::position::Position;
use super::record;

/// The state that the choice depends on.
pub(super) struct BlockAllocator<'a> {
    /// The producers' position.
    pub(super) tail: Position,
    /// The consumers' position, which may be outdated.
    pub(super) head: Position,
    /// Length in bytes of the item to put.
    pub(super) item_len: usize,
    /// Whether a block may be overwritten from its start.
    pub(super) is_free: &'a dyn Fn(Block) -> bool,
}

impl BlockAllocator<'_> {
    /// Whether the item must go to another block: it does not fit, or nothing waits and the block
    /// is larger than needed.
    pub(super) fn needs_new_block(&self) -> bool {
        let block = self.tail.block;
        let is_oversized = || {
            let waiting = self.tail.items - self.head.items;
            waiting == 0 && self.min_class().is_some_and(|class| class < block.class())
        };
        record::layout(self.tail.offset, self.item_len, block.size()).is_none()
            || !block.is_hot() && is_oversized()
    }

    /// Returns the next block; `None` if the item is larger than any block.
    pub(super) fn next_block(&self) -> Option<Block> {
        let classes = self.min_class()?.max(self.target_class())..CLASSES;
        let mut blocks = classes.flat_map(|class| [Block(2 * class), Block(2 * class + 1)]);
        blocks.find(|block| (self.is_free)(*block))
    }

    /// Returns the class that suits the waiting items: the smallest if nothing waits, half the size
    /// if little waits.
    fn target_class(&self) -> u8 {
        let (tail, head) = (self.tail, self.head);
        let (class, size) = (tail.block.class(), tail.block.size());
        if tail.items == head.items && !tail.block.is_hot() {
            return 0;
        }
        let waits = tail.offset.saturating_sub(head.offset);
        let is_little = head.generation == tail.generation && waits < size / 4;
        // If only a few such items fit into the smaller class, it would soon be left for a larger
        // one again.
        let fit_below = self.item_len < size / 8;
        class - u8::from(is_little && fit_below && class > 0)
    }

    /// Returns the smallest class that holds the item.
    fn min_class(&self) -> Option<u8> {
        let holds = |class: &u8| record::layout(0, self.item_len, size_of_class(*class)).is_some();
        (0..CLASSES).find(holds)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(block: u8, offset: usize, generation: u64, items: u64) -> Position {
        Position {
            items,
            generation,
            block: Block(block),
            offset,
            is_closed: false,
        }
    }

    fn choose(tail: Position, head: Position, item: usize, free: &[u8]) -> (bool, Option<u8>) {
        let choice = BlockAllocator {
            tail,
            head,
            item_len: item,
            is_free: &|block| free.contains(&block.0),
        };
        (choice.needs_new_block(), choice.next_block().map(|it| it.0))
    }

    #[test]
    fn two_blocks_take_turns_while_the_consumers_keep_up() {
        let (tail, head) = (at(0, 65_500, 7, 900), at(0, 30_000, 7, 500));
        assert_eq!(choose(tail, head, 100, &[1, 2, 3]), (true, Some(1)));
        let tail = at(0, 65_400, 7, 900);
        assert!(!choose(tail, head, 100, &[1, 2, 3]).0);
    }

    #[test]
    fn what_waits_makes_blocks_larger_and_smaller() {
        let (tail, far_behind) = (at(5, 262_100, 9, 900), at(4, 10, 8, 1));
        assert_eq!(choose(tail, far_behind, 100, &[0, 1, 2, 6, 7]).1, Some(6));
        let close_behind = at(5, 261_000, 9, 890);
        assert_eq!(choose(tail, close_behind, 100, &[0, 1, 2, 4, 6]).1, Some(2));
        assert_eq!(choose(tail, close_behind, 100, &[0, 1, 4, 6]).1, Some(4));
        assert_eq!(choose(tail, close_behind, 40_000, &[2, 4]).1, Some(4));
    }

    #[test]
    fn a_large_item_finds_a_block_that_holds_it() {
        let here = at(0, 0, 1, 0);
        assert_eq!(choose(here, here, 65_000, &[1, 2]), (false, Some(1)));
        assert_eq!(choose(here, here, 65_536, &[1, 2]), (true, Some(2)));
        assert_eq!(choose(here, here, 64 << 20, &[1, 22]), (true, Some(22)));
        assert_eq!(choose(here, here, 2 << 40, &[1, 49]), (true, None));
    }

    #[test]
    fn a_large_block_is_left_when_nothing_waits_in_it() {
        let end_of_backlog = at(20, 4096, 30, 5);
        assert_eq!(
            choose(end_of_backlog, end_of_backlog, 8, &[0, 1]),
            (true, Some(0))
        );
        // The item itself needs a block of that size.
        assert!(!choose(end_of_backlog, end_of_backlog, 40 << 20, &[21]).0);
        assert!(!choose(end_of_backlog, at(20, 0, 30, 4), 8, &[0, 1]).0);
    }
}
