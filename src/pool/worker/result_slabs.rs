//! The slabs of a worker, which hold its large results.

use crate::shm::{Slab, SlabSource};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// The largest number of free slabs that are kept for the next large results.
const MAX_FREE_SLABS: usize = 2;

/// The slabs that carry this worker's large results.
#[derive(Default)]
pub(crate) struct ResultSlabs {
    slabs: Mutex<Vec<Slab>>,
    /// The number of slabs made so far, which is the id of the newest.
    made: AtomicU32,
    /// The id of the newest slab whose descriptor was sent to the pool.
    announced: AtomicU32,
}

impl ResultSlabs {
    /// Returns whether the descriptor of this slab must be sent to the pool, and records it as
    /// sent.
    pub(crate) fn announce(&self, id: u32) -> bool {
        self.announced.fetch_max(id, Ordering::Relaxed) < id
    }

    /// Drops the oldest free slabs beyond `MAX_FREE_SLABS`, and returns their ids.
    pub(crate) fn trim(&self) -> Vec<u32> {
        let mut slabs = self.slabs.lock();
        let mut surplus = slabs
            .iter()
            .filter(|slab| !slab.is_busy())
            .count()
            .saturating_sub(MAX_FREE_SLABS);
        let mut gone = Vec::new();
        slabs.retain(|slab| {
            let is_surplus = surplus > 0 && !slab.is_busy();
            if is_surplus {
                surplus -= 1;
                gone.push(slab.id);
            }
            !is_surplus
        });
        gone
    }
}

impl SlabSource for ResultSlabs {
    fn take(&self, bytes: usize) -> Option<Slab> {
        let mut slabs = self.slabs.lock();
        let free = slabs.iter().position(|slab| !slab.is_busy());
        if let Some(at) = free {
            slabs[at].reserve(bytes).ok()?;
            return Some(slabs.swap_remove(at));
        }
        let id = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        Slab::new(id, bytes).ok()
    }

    /// Keeps a slab, even if it holds a result.
    fn give_back(&self, slab: Slab) {
        self.slabs.lock().push(slab);
    }
}
