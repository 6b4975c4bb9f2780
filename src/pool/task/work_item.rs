//! What is queued and sent: one call, or a part of a map's chunk.

use crate::pool::task::{
    Task,
    config::{Attempts, TaskConfig},
    map::Chunk,
};
use std::sync::Arc;

/// Consecutive items of one call, to be run or running.
#[derive(Debug)]
pub(crate) enum WorkItem {
    Call(Arc<Task>),
    Slice(Box<ChunkSlice>),
}

/// A part of a chunk.
#[derive(Debug)]
pub(crate) struct ChunkSlice {
    pub(crate) chunk: Arc<Chunk>,
    /// The first of them in the chunk.
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl WorkItem {
    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Call(_) => 1,
            Self::Slice(items) => items.count,
        }
    }

    pub(crate) fn config(&self) -> TaskConfig {
        match self {
            Self::Call(task) => task.config,
            Self::Slice(items) => items.chunk.map.config,
        }
    }

    /// How urgent it is: the higher, the sooner.
    pub(crate) fn priority(&self) -> i32 {
        self.config().priority
    }

    /// When it was submitted.
    pub(crate) fn submitted(&self) -> u64 {
        match self {
            Self::Call(task) => task.submitted,
            Self::Slice(items) => items.chunk.submitted,
        }
    }

    /// Looks at how its first item was tried before.
    pub(crate) fn with_attempts<T>(&self, look: impl FnOnce(&mut Attempts) -> T) -> T {
        match self {
            Self::Call(task) => task.with_attempts(look),
            Self::Slice(items) => items.chunk.map.with_attempts(items.index(), look),
        }
    }

    /// How many of its items, from the first on, somebody still wants to start.
    pub(crate) fn wanted(&self) -> u32 {
        match self {
            Self::Call(task) => u32::from(!task.is_done()),
            Self::Slice(items) => items.chunk.map.count_wanted(items.index(), items.count),
        }
    }

    /// The number of the slab of ours that its argument lies in, if it does.
    pub(crate) fn pool_slab(&self) -> Option<u32> {
        match self {
            Self::Call(task) => task.with_argument(|it| it.pool_slab()),
            Self::Slice(items) => items.chunk.items.lock().pool_slab(),
        }
    }

    /// Cuts off all but the first `count` items.
    pub(crate) fn split_off(&mut self, count: u32) -> Option<Self> {
        let Self::Slice(items) = self else {
            return None;
        };
        let rest = items.count.checked_sub(count).filter(|it| *it > 0)?;
        items.count = count;
        let (chunk, first) = (Arc::clone(&items.chunk), items.first + count);
        Some(Self::Slice(Box::new(ChunkSlice {
            chunk,
            first,
            count: rest,
        })))
    }
}

impl ChunkSlice {
    /// The place of its first item in the map's input.
    pub(crate) fn index(&self) -> u64 {
        self.chunk.index + u64::from(self.first)
    }

    /// Its bytes of the chunk's.
    pub(crate) fn bytes_of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
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
