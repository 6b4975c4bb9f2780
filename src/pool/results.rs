//! The taking end of a map: its outcomes, until they are not wanted any more.

use super::{
    batch::{Batch, Part},
    shared::Shared,
};
use crate::error::Error;
use std::sync::Arc;

/// The outcomes of one map, in its caller's hands.
pub(super) struct Results {
    pub(super) shared: Arc<Shared>,
    pub(super) batch: Arc<Batch>,
}

impl Results {
    pub(super) fn new(shared: &Arc<Shared>, batch: Batch) -> Self {
        Self {
            shared: Arc::clone(shared),
            batch: Arc::new(batch),
        }
    }

    /// Takes the next outcomes if they are there, in a worker's ring at least.
    pub(super) fn take(&self) -> Option<Part> {
        self.batch.take().or_else(|| {
            self.shared.poll();
            self.batch.take()
        })
    }

    /// Why nothing will ever come: this is a copy of the pool's process.
    pub(super) fn refusal(&self) -> Option<Error> {
        if self.shared.is_foreign() {
            return self.shared.refusal();
        }
        None
    }

    /// Items whose outcomes are yet to be taken, of those that left the input.
    pub(super) fn untaken(&self) -> usize {
        self.batch.load().untaken as usize
    }
}

impl Drop for Results {
    /// Cancels what has not started.
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            return;
        }
        let context = self.batch.context.as_ref().map(|it| it.id);
        let is_streamed = self.batch.is_streamed();
        if is_streamed {
            self.batch.abandon();
        }
        let has_more = is_streamed && self.batch.load().outstanding > 0;
        if has_more || context.is_some() {
            self.shared.with_state(|state, told| {
                if has_more {
                    state.sweep_cancelled(told);
                }
                context.into_iter().for_each(|it| state.drop_context(it));
            });
        }
    }
}
