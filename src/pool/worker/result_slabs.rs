//! The slabs of a worker, with its large results.

use crate::shm::{Slab, SlabSource};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Slabs that lie free at most, their memory kept for the next large result.
const MAX_FREE_SLABS: usize = 2;

/// The slabs that carry this worker's large results.
#[derive(Default)]
pub(crate) struct ResultSlabs {
    slabs: Mutex<Vec<Slab>>,
    /// Slabs made so far; the number of the newest.
    made: AtomicU32,
    /// The newest whose descriptor the pool has.
    announced: AtomicU32,
}

impl ResultSlabs {
    /// Whether the pool has yet to be given this slab; it is taken to have it from then on.
    pub(crate) fn announce(&self, id: u32) -> bool {
        self.announced.fetch_max(id, Ordering::Relaxed) < id
    }

    /// Drops free slabs beyond those worth keeping, the oldest first, and says which.
    pub(crate) fn trim(&self) -> Vec<u32> {
        let mut slabs = self.slabs.lock();
        let mut surplus = slabs
            .iter()
            .filter(|it| !it.is_busy())
            .count()
            .saturating_sub(MAX_FREE_SLABS);
        let mut gone = Vec::new();
        slabs.retain(|slab| {
            let drop_it = surplus > 0 && !slab.is_busy();
            if drop_it {
                surplus -= 1;
                gone.push(slab.id);
            }
            !drop_it
        });
        gone
    }
}

impl SlabSource for ResultSlabs {
    fn take(&self, bytes: usize) -> Option<Slab> {
        let mut slabs = self.slabs.lock();
        let free = slabs.iter().position(|it| !it.is_busy());
        if let Some(at) = free {
            slabs[at].reserve(bytes).ok()?;
            return Some(slabs.swap_remove(at));
        }
        let id = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        Slab::new(id, bytes).ok()
    }

    /// Keeps a slab, whether a result lies in it or not.
    fn give_back(&self, slab: Slab) {
        self.slabs.lock().push(slab);
    }
}
