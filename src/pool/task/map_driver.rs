//! A map whose caller reads the input: when it asks for a result and none is there.

use crate::error::Result;
use crate::pool::{
    imap::{NextPart, PartSource, PollPart},
    pool::Pool,
    task::{
        chunker::{ChunkOptions, Chunker, FillStop},
        map::{MapPart, MapState},
        map_results::MapResults,
    },
};
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
pub(crate) struct MapDriver<S> {
    results: MapResults,
    chunker: Chunker<S>,
}

impl<S> MapDriver<S>
where
    S: Stream,
    S::Item: Wire + 'static,
{
    /// Takes nothing from the input yet.
    pub(crate) fn new(
        pool: &Arc<Pool>,
        map: MapState,
        chunking: ChunkOptions,
        input: S,
    ) -> Result<Self> {
        chunking.check()?;
        let results = MapResults::new(pool, map);
        let chunker = Chunker::new(pool, &results.map, chunking, input);
        Ok(Self { results, chunker })
    }
}

impl<S> MapDriver<S> {
    pub(crate) fn map(&self) -> &Arc<MapState> {
        &self.results.map
    }

    /// Sends the whole input, however long it is.
    pub(crate) fn send_all(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        while !self.chunker.is_exhausted() {
            // Waits for room. A pool that takes nothing any more says so of each chunk.
            let _ = self.results.pool.reserve(0);
            self.chunker.pull_chunk(&mut context);
        }
    }

    /// Returns the next outcomes, `None` when every item's has been handed out. Pulls from the
    /// input, chunk by chunk, while no outcome is there and there is room; pending if the workers
    /// or the input are to be waited for, or once `pause` says so.
    fn try_next_part(
        &mut self,
        context: &mut Context<'_>,
        pause: impl Fn() -> bool,
    ) -> Poll<Option<MapPart>> {
        loop {
            // Looked at first: what comes in between is found below.
            let is_over = self.chunker.is_exhausted() && self.map().load().outstanding == 0;
            if let Some(part) = self.results.take() {
                return Poll::Ready(Some(part));
            }
            if is_over {
                return Poll::Ready(None);
            }
            if !self.chunker.has_room() || pause() {
                return Poll::Pending;
            }
            if self.chunker.pull_chunk(context) == FillStop::Pending {
                return self
                    .results
                    .take()
                    .map_or(Poll::Pending, |it| Poll::Ready(Some(it)));
            }
        }
    }
}

impl<S: Stream> MapDriver<S> {
    /// How many results to expect, as far as the input says so.
    pub(crate) fn expected(&self) -> usize {
        // An input that claims too much must not cost memory.
        self.chunker.size_hint().0.min(1 << 14)
    }
}

impl<S: Stream> PartSource for MapDriver<S> {
    fn results(&self) -> &MapResults {
        &self.results
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let untaken = self.results.untaken();
        let (low, high) = self.chunker.size_hint();
        (
            low.saturating_add(untaken),
            high.and_then(|it| it.checked_add(untaken)),
        )
    }
}

impl<S: Stream> NextPart for MapDriver<S> {
    fn next_part(&mut self) -> Option<MapPart> {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(part) = self.try_next_part(&mut context, || false) {
                return part;
            }
            let (pool, map) = (&self.results.pool, &self.results.map);
            let register = |thread: &Thread| {
                map.set_waiter(thread);
                pool.budget.iter().for_each(|it| it.set_waiter(thread));
            };
            let done = || map.has_part() || self.chunker.has_much_room();
            pool.wait_until(None, &register, &done);
        }
    }
}

impl<S: Stream> PollPart for MapDriver<S> {
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<MapPart>> {
        if let Some(part) = self.results.take() {
            return Poll::Ready(Some(part));
        }
        self.map().set_waker(context.waker());
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
