//! Reads the input of a map and decides how far ahead it is read and how large the chunks are.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    pool::Pool,
    task::{
        map::MapState,
        outbox::{Outbox, watch},
    },
};
use crate::sys::biased::Owner;
use crate::wire::Wire;
use futures::Stream;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
};

/// Nanoseconds of work in a chunk, unless its size is set: a hundred times the cost of sending one.
const CHUNK_NANOS: u64 = 250_000;

/// The largest number of items in a chunk, unless its size is set.
const MAX_CHUNK_ITEMS: u64 = 4096;

/// The largest number of items in a chunk before an item has been measured. The first chunk has one
/// item, and the number doubles.
const MAX_UNMEASURED_ITEMS: u64 = 64;

/// Chunks in flight for each worker: one runs, one waits, and one is being sent.
const CHUNKS_AHEAD: u64 = 3;

/// Nanoseconds of work in flight for each worker, if smaller chunks are set.
const MAP_PREFETCH_NANOS: u64 = 10_000_000;

/// Items that may be read ahead of the results that were returned, unless set.
const DEFAULT_WINDOW: usize = 32 << 10;

/// The settings of one map.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ChunkOptions {
    pub(crate) chunk_size: Option<usize>,
    pub(crate) window: Option<usize>,
}

impl ChunkOptions {
    /// Fails if a chunk or the window is empty.
    pub(crate) fn check(self) -> Result<()> {
        let settings = [("chunk_size", self.chunk_size), ("window", self.window)];
        let Some((setting, _)) = settings.iter().find(|(_, value)| *value == Some(0)) else {
            return Ok(());
        };
        let message = format!("`{setting}` must be at least 1");
        Err(Error::new(ErrorKind::InvalidInput, message))
    }
}

/// Reads the input of one map and sends it in chunks.
pub(crate) struct Chunker<S> {
    pool: Arc<Pool>,
    map: Arc<MapState>,
    options: ChunkOptions,
    input: Pin<Box<S>>,
    fill: FillFn<S>,
    outbox: Owner<Outbox>,
    is_exhausted: bool,
    /// The number of chunks that were pulled.
    chunks: u32,
}

/// Pulls items into the outbox until its chunk has the given number of items.
type FillFn<S> = fn(Pin<&mut S>, &mut Context<'_>, &mut Owner<Outbox>, u32) -> FillStop;

/// Why a pull stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FillStop {
    /// The chunk must be sent.
    Full,
    /// The input has no item ready.
    Pending,
    /// The input has ended.
    End,
}

fn fill<S>(
    mut input: Pin<&mut S>,
    context: &mut Context<'_>,
    outbox: &mut Owner<Outbox>,
    max: u32,
) -> FillStop
where
    S: Stream,
    S::Item: Wire + 'static,
{
    outbox.lock().discard_partial();
    watch(outbox);
    loop {
        let item = match input.as_mut().poll_next(context) {
            Poll::Ready(Some(item)) => item,
            Poll::Ready(None) => return FillStop::End,
            Poll::Pending => return FillStop::Pending,
        };
        let mut outbox = outbox.lock();
        if !outbox.put(&item) || outbox.is_due(max) {
            return FillStop::Full;
        }
    }
}

impl<S> Chunker<S>
where
    S: Stream,
    S::Item: Wire + 'static,
{
    /// Creates a chunker, without reading the input.
    pub(crate) fn new(
        pool: &Arc<Pool>,
        map: &Arc<MapState>,
        chunking: ChunkOptions,
        input: S,
    ) -> Self {
        Self {
            pool: Arc::clone(pool),
            map: Arc::clone(map),
            options: chunking,
            input: Box::pin(input),
            fill: fill::<S>,
            outbox: Owner::new(Outbox::new(pool, map)),
            is_exhausted: false,
            chunks: 0,
        }
    }
}

impl<S> Chunker<S> {
    pub(crate) fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Pulls at most one chunk of items and sends it.
    pub(crate) fn pull_chunk(&mut self, context: &mut Context<'_>) -> FillStop {
        // After a failure that cancels the rest of the map, no more items are needed.
        if !self.map.wants_more() {
            self.is_exhausted = true;
            return FillStop::End;
        }
        let room = (self.window() as u64).saturating_sub(self.map.load().ahead);
        let max = self.chunk_size().min(room).clamp(1, u32::MAX.into()) as u32;
        let pulled = (self.fill)(self.input.as_mut(), context, &mut self.outbox, max);
        self.flush();
        self.chunks += 1;
        self.is_exhausted |= pulled == FillStop::End;
        pulled
    }

    /// Sends the pulled items.
    pub(crate) fn flush(&mut self) {
        self.outbox.lock().send();
    }

    pub(crate) fn has_room(&self) -> bool {
        let load = self.map.load();
        !self.is_exhausted
            && load.ahead < self.window() as u64
            && load.outstanding < self.prefetch_items()
            && self.may_send(load.outstanding)
    }

    /// Waits until another chunk may be sent. Returns false if no more items are to be read.
    pub(crate) fn wait_for_room(&self) -> bool {
        while !self.is_finished() {
            if self.has_room() {
                return true;
            }
            self.map.set_reader(&thread::current());
            let budget = &self.pool.budget;
            if let Some(budget) = budget {
                budget.set_waiter(&thread::current());
            }
            // Checked again. Without this: (1) the check above finds no room; (2) a reply makes
            // room and finds no reader to wake; (3) this thread registers and parks, although there
            // is room.
            if !self.is_finished() && !self.has_room() {
                thread::park();
            }
        }
        false
    }

    /// Whether a reader thread must stop.
    fn is_finished(&self) -> bool {
        self.is_exhausted || self.map.halts()
    }

    /// Whether a wait for room is over. It needs more room than [`has_room`](Self::has_room), so
    /// that several chunks can be sent per wake-up.
    pub(crate) fn has_much_room(&self) -> bool {
        let load = self.map.load();
        !self.is_exhausted
            && load.ahead < self.window() as u64
            && load.outstanding < self.prefetch_items().div_ceil(2)
            && self.may_send(load.outstanding)
    }

    /// Whether the pool's budget has room for a chunk. One chunk may always be outstanding.
    fn may_send(&self, outstanding: u64) -> bool {
        self.pool.has_room() || outstanding == 0
    }

    /// Returns how many items in flight keep every worker busy.
    fn prefetch_items(&self) -> u64 {
        let nanos = self.map.item_nanos();
        let ahead = nanos.map_or(0, |nanos| {
            (MAP_PREFETCH_NANOS / nanos.max(1)).min(MAX_CHUNK_ITEMS)
        });
        let each = self.chunk_size().saturating_mul(CHUNKS_AHEAD).max(ahead);
        each.saturating_mul(self.pool.workers() as u64)
    }

    fn window(&self) -> usize {
        let set_chunk = self.options.chunk_size.unwrap_or(0);
        let for_chunks = set_chunk.saturating_mul(CHUNKS_AHEAD as usize * self.pool.workers());
        self.options
            .window
            .unwrap_or(DEFAULT_WINDOW.max(for_chunks))
    }

    fn chunk_size(&self) -> u64 {
        let wanted = match (self.options.chunk_size, self.map.item_nanos()) {
            (Some(size), _) => size as u64,
            (None, Some(nanos)) => (CHUNK_NANOS / nanos.max(1)).min(MAX_CHUNK_ITEMS),
            (None, None) => (1 << self.chunks.min(16)).min(MAX_UNMEASURED_ITEMS),
        };
        wanted.clamp(1, self.window() as u64)
    }
}

impl<S: Stream> Chunker<S> {
    /// Returns bounds on the number of items left in the input.
    pub(crate) fn size_hint(&self) -> (usize, Option<usize>) {
        if self.is_exhausted {
            return (0, Some(0));
        }
        self.input.size_hint()
    }
}

/// Adapts an iterator to a stream that is always ready.
pub(crate) struct IterStream<I>(pub(crate) I);

/// The iterator is never pinned.
impl<I> Unpin for IterStream<I> {}

impl<I: Iterator> Stream for IterStream<I> {
    type Item = I::Item;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
