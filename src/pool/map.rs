//! A map whose caller reads the input: when it asks for a result and none is there.

use super::{
    batch::{Batch, Part},
    intake::{Cut, Intake, Pulled},
    lazy::{NextPart, Parts, PollPart},
    results::Results,
    shared::Shared,
};
use crate::error::Result;
use crate::sys::clock;
use crate::wire::Wire;
use futures::Stream;
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    thread::Thread,
    time::Duration,
};

/// How long one poll reads an input that always has an item; then it lets other tasks run.
const TURN: Duration = Duration::from_millis(1);

/// One map on its way, whatever form its results take.
pub(super) struct Run<S> {
    results: Results,
    intake: Intake<S>,
}

impl<S> Run<S>
where
    S: Stream,
    S::Item: Wire + 'static,
{
    /// Takes nothing from the input yet.
    pub(super) fn new(shared: &Arc<Shared>, batch: Batch, cut: Cut, input: S) -> Result<Self> {
        cut.check()?;
        let results = Results::new(shared, batch);
        let intake = Intake::new(shared, &results.batch, cut, input);
        Ok(Self { results, intake })
    }
}

impl<S> Run<S> {
    pub(super) fn batch(&self) -> &Arc<Batch> {
        &self.results.batch
    }

    /// Sends the whole input, however long it is.
    pub(super) fn send_all(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        while !self.intake.is_exhausted() {
            // Waits for room. A pool that takes nothing any more says so of each chunk.
            let _ = self.results.shared.reserve(0);
            self.intake.pull_chunk(&mut context);
        }
    }

    /// Returns the next outcomes, `None` when every item's has been handed out. Pulls from the
    /// input, chunk by chunk, while no outcome is there and there is room; pending if the workers
    /// or the input are to be waited for, or once `pause` says so.
    fn try_next_part(
        &mut self,
        context: &mut Context<'_>,
        pause: impl Fn() -> bool,
    ) -> Poll<Option<Part>> {
        loop {
            // Looked at first: what comes in between is found below.
            let is_over = self.intake.is_exhausted() && self.batch().load().outstanding == 0;
            if let Some(part) = self.results.take() {
                return Poll::Ready(Some(part));
            }
            if is_over {
                return Poll::Ready(None);
            }
            if !self.intake.has_room() || pause() {
                return Poll::Pending;
            }
            if self.intake.pull_chunk(context) == Pulled::Pending {
                return self
                    .results
                    .take()
                    .map_or(Poll::Pending, |it| Poll::Ready(Some(it)));
            }
        }
    }
}

impl<S: Stream> Run<S> {
    /// How many results to expect, as far as the input says so.
    pub(super) fn expected(&self) -> usize {
        // An input that claims too much must not cost memory.
        self.intake.size_hint().0.min(1 << 14)
    }
}

impl<S: Stream> Parts for Run<S> {
    fn results(&self) -> &Results {
        &self.results
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let untaken = self.results.untaken();
        let (low, high) = self.intake.size_hint();
        (
            low.saturating_add(untaken),
            high.and_then(|it| it.checked_add(untaken)),
        )
    }
}

impl<S: Stream> NextPart for Run<S> {
    fn next_part(&mut self) -> Option<Part> {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(part) = self.try_next_part(&mut context, || false) {
                return part;
            }
            let (shared, batch) = (&self.results.shared, &self.results.batch);
            let register = |thread: &Thread| {
                batch.wake(thread);
                shared.budget.iter().for_each(|it| it.wake(thread));
            };
            let done = || batch.has_part() || self.intake.has_much_room();
            shared.wait_until(None, &register, &done);
        }
    }
}

impl<S: Stream> PollPart for Run<S> {
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Part>> {
        if let Some(part) = self.results.take() {
            return Poll::Ready(Some(part));
        }
        self.batch().wake_by(context.waker());
        let (started, waker) = (clock::now(), context.waker().clone());
        let pause = || {
            let is_late = clock::since(started) > TURN;
            if is_late {
                waker.wake_by_ref();
            }
            is_late
        };
        self.try_next_part(context, pause)
    }
}
