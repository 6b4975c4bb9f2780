//! The unit that is queued and sent: one call, or a part of a map's chunk.

use crate::pool::task::{
    Task,
    config::{Attempts, TaskConfig},
    map::Chunk,
};
use std::sync::Arc;

/// Consecutive items of one call that are queued or in flight.
#[derive(Debug)]
pub(crate) enum WorkItem {
    Call(Arc<Task>),
    Slice(Box<ChunkSlice>),
}

/// Consecutive items of a chunk.
#[derive(Debug)]
pub(crate) struct ChunkSlice {
    pub(crate) chunk: Arc<Chunk>,
    /// The index of its first item in the chunk.
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl WorkItem {
    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Call(_) => 1,
            Self::Slice(slice) => slice.count,
        }
    }

    pub(crate) fn config(&self) -> TaskConfig {
        match self {
            Self::Call(task) => task.config,
            Self::Slice(slice) => slice.chunk.map.config,
        }
    }

    /// Returns the priority; items with a higher one start first.
    pub(crate) fn priority(&self) -> i32 {
        self.config().priority
    }

    /// Returns when it was submitted.
    pub(crate) fn submitted(&self) -> u64 {
        match self {
            Self::Call(task) => task.submitted,
            Self::Slice(slice) => slice.chunk.submitted,
        }
    }

    /// Runs `look` on the attempts at its first item.
    pub(crate) fn with_attempts<T>(&self, look: impl FnOnce(&mut Attempts) -> T) -> T {
        match self {
            Self::Call(task) => task.with_attempts(look),
            Self::Slice(slice) => slice.chunk.map.with_attempts(slice.index(), look),
        }
    }

    /// Returns how many of its items, from the first on, may still start.
    pub(crate) fn wanted(&self) -> u32 {
        match self {
            Self::Call(task) => u32::from(!task.is_done()),
            Self::Slice(slice) => slice.chunk.map.count_wanted(slice.index(), slice.count),
        }
    }

    /// Returns the number of the pool's slab that holds its argument, if any.
    pub(crate) fn pool_slab(&self) -> Option<u32> {
        match self {
            Self::Call(task) => task.with_argument(|it| it.pool_slab()),
            Self::Slice(slice) => slice.chunk.items.lock().pool_slab(),
        }
    }

    /// Splits off all items except the first `count`.
    pub(crate) fn split_off(&mut self, count: u32) -> Option<Self> {
        let Self::Slice(slice) = self else {
            return None;
        };
        let rest = slice.count.checked_sub(count).filter(|rest| *rest > 0)?;
        slice.count = count;
        let (chunk, first) = (Arc::clone(&slice.chunk), slice.first + count);
        Some(Self::Slice(Box::new(ChunkSlice {
            chunk,
            first,
            count: rest,
        })))
    }
}

impl ChunkSlice {
    /// Returns the position of its first item in the map's input.
    pub(crate) fn index(&self) -> u64 {
        self.chunk.index + u64::from(self.first)
    }

    /// Returns its part of the chunk's bytes.
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
