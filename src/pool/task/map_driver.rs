//! A map whose caller reads the input when it requests a result and none is ready.

use crate::error::Result;
use crate::pool::{
    imap::{NextPart, PartSource, PollPart},
    pool::Pool,
    task::{
        chunker::{ChunkOptions, Chunker, FillStop},
        map::MapState,
        map_part::MapPart,
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

/// How long one poll reads an input that always has an item, before it lets other tasks run.
const TURN: Duration = Duration::from_millis(1);

/// One map in progress, for every form of its results.
pub(crate) struct MapDriver<S> {
    results: MapResults,
    chunker: Chunker<S>,
}

impl<S> MapDriver<S>
where
    S: Stream,
    S::Item: Wire + 'static,
{
    /// Creates a map, without reading the input.
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

    /// Reads and sends the whole input.
    pub(crate) fn send_all(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        while !self.chunker.is_exhausted() {
            // Waits for room. If the pool is closed, `pull_chunk` fails the items of each chunk.
            let _ = self.results.pool.reserve(0);
            self.chunker.pull_chunk(&mut context);
        }
    }

    /// Returns the next outcomes, or `None` after the outcomes of all items. Pulls chunks from the
    /// input while no outcome is ready and there is room. Returns `Pending` to wait for the workers
    /// or the input, or when `pause` returns true.
    fn try_next_part(
        &mut self,
        context: &mut Context<'_>,
        pause: impl Fn() -> bool,
    ) -> Poll<Option<MapPart>> {
        loop {
            // Checked before `take`. In the other order: (1) `take` finds nothing; (2) another
            // thread delivers the last outcome; (3) the check finds nothing outstanding, and the
            // last outcome is lost.
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
                let part = self.results.take();
                return part.map_or(Poll::Pending, |part| Poll::Ready(Some(part)));
            }
        }
    }
}

impl<S: Stream> MapDriver<S> {
    /// Returns the number of results to expect, from the size hint of the input.
    pub(crate) fn expected(&self) -> usize {
        // A wrong size hint must not cost memory.
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
        // Before the check in `try_next_part`: an outcome that arrives after it finds the waker.
        self.map().set_waker(context.waker());
        let started = clock::now();
        let waker = context.waker().clone();
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
