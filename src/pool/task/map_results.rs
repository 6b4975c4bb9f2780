//! The taking end of a map: its outcomes, until they are not wanted any more.

use crate::error::Error;
use crate::pool::{
    pool::Pool,
    task::map::{MapPart, MapState},
};
use std::sync::Arc;

/// The outcomes of one map, in its caller's hands.
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

    /// Takes the next outcomes if they are there, in a worker's ring at least.
    pub(crate) fn take(&self) -> Option<MapPart> {
        self.map.take().or_else(|| {
            self.pool.poll();
            self.map.take()
        })
    }

    /// Why nothing will ever come: this is a copy of the pool's process.
    pub(crate) fn refusal(&self) -> Option<Error> {
        if self.pool.is_foreign() {
            return self.pool.closed_error();
        }
        None
    }

    /// Items whose outcomes are yet to be taken, of those that left the input.
    pub(crate) fn untaken(&self) -> usize {
        self.map.load().untaken as usize
    }
}

impl Drop for MapResults {
    /// Cancels what has not started.
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
                context.into_iter().for_each(|it| state.drop_context(it));
            });
        }
    }
}
