//! The caller's end of a map.

use crate::error::Error;
use crate::pool::{
    pool::Pool,
    task::{map::MapState, map_part::MapPart},
};
use std::sync::Arc;

/// The outcomes of one map; dropping it cancels the map.
pub(crate) struct MapResults {
    pub(crate) pool: Arc<Pool>,
    pub(crate) map: Arc<MapState>,
}

impl MapResults {
    pub(crate) fn new(pool: &Arc<Pool>, map: MapState) -> Self {
        Self {
            pool: Arc::clone(pool),
            map: Arc::new(map),
        }
    }

    /// Takes the next outcomes if they are ready, even if they are still in a worker's reply ring.
    pub(crate) fn take(&self) -> Option<MapPart> {
        self.map.take().or_else(|| {
            self.pool.poll();
            self.map.take()
        })
    }

    /// Returns the error for a forked copy of the pool's process, which receives no outcomes.
    pub(crate) fn refusal(&self) -> Option<Error> {
        if self.pool.is_foreign() {
            return self.pool.closed_error();
        }
        None
    }

    /// Returns the number of items that left the input and whose outcomes were not taken.
    pub(crate) fn untaken(&self) -> usize {
        self.map.load().untaken as usize
    }
}

impl Drop for MapResults {
    /// Cancels the items that have not started.
    fn drop(&mut self) {
        if self.pool.is_foreign() {
            return;
        }
        let context = self.map.context.as_ref().map(|it| it.id);
        let is_streamed = self.map.is_iterated();
        if is_streamed {
            self.map.abandon();
        }
        let has_more = is_streamed && self.map.load().outstanding > 0;
        if has_more || context.is_some() {
            self.pool.with_scheduler(|state, wakeups| {
                if has_more {
                    state.sweep_cancelled(wakeups);
                }
                if let Some(context) = context {
                    state.drop_context(context);
                }
            });
        }
    }
}
