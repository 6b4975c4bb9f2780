//! What is queued and sent: one call, or a part of a map's chunk.

use super::{
    batch::Chunk,
    demands::{Demands, Tries},
    task::Task,
};
use std::sync::Arc;

/// Consecutive items of one call, to be run or running.
#[derive(Debug)]
pub(super) enum Unit {
    Call(Arc<Task>),
    Items(Box<Items>),
}

/// A part of a chunk.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) chunk: Arc<Chunk>,
    /// The first of them in the chunk.
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Unit {
    pub(super) fn count(&self) -> u32 {
        match self {
            Self::Call(_) => 1,
            Self::Items(items) => items.count,
        }
    }

    pub(super) fn demands(&self) -> Demands {
        match self {
            Self::Call(task) => task.demands,
            Self::Items(items) => items.chunk.batch.demands,
        }
    }

    /// How urgent it is: the higher, the sooner.
    pub(super) fn priority(&self) -> i32 {
        self.demands().priority
    }

    /// When it was submitted.
    pub(super) fn submitted(&self) -> u64 {
        match self {
            Self::Call(task) => task.submitted,
            Self::Items(items) => items.chunk.submitted,
        }
    }

    /// Looks at how its first item was tried before.
    pub(super) fn with_tries<T>(&self, look: impl FnOnce(&mut Tries) -> T) -> T {
        match self {
            Self::Call(task) => task.with_tries(look),
            Self::Items(items) => items.chunk.batch.with_tries(items.index(), look),
        }
    }

    /// How many of its items, from the first on, somebody still wants to start.
    pub(super) fn wanted(&self) -> u32 {
        match self {
            Self::Call(task) => u32::from(!task.is_done()),
            Self::Items(items) => items.chunk.batch.wanted(items.index(), items.count),
        }
    }

    /// The number of the slab of ours that its argument lies in, if it does.
    pub(super) fn our_slab(&self) -> Option<u32> {
        match self {
            Self::Call(task) => task.with_argument(|it| it.our_slab()),
            Self::Items(items) => items.chunk.items.lock().our_slab(),
        }
    }

    /// Cuts off all but the first `count` items.
    pub(super) fn split_off(&mut self, count: u32) -> Option<Self> {
        let Self::Items(items) = self else {
            return None;
        };
        let rest = items.count.checked_sub(count).filter(|it| *it > 0)?;
        items.count = count;
        let (chunk, first) = (Arc::clone(&items.chunk), items.first + count);
        Some(Self::Items(Box::new(Items {
            chunk,
            first,
            count: rest,
        })))
    }
}

impl Items {
    /// The place of its first item in the map's input.
    pub(super) fn index(&self) -> u64 {
        self.chunk.index + u64::from(self.first)
    }

    /// Its bytes of the chunk's.
    pub(super) fn part_of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.count == self.chunk.count {
            return bytes;
        }
        let skip = |mut at: usize, items: u32| {
            for _ in 0..items {
                let length = bytes[at..]
                    .first_chunk()
                    .expect("a chunk holds the items it counts");
                at += size_of::<u32>() + u32::from_le_bytes(*length) as usize;
            }
            at
        };
        let start = skip(0, self.first);
        &bytes[start..skip(start, self.count)]
    }
}
