//! The input of a map: how far ahead it is read, and in what chunks it goes into the pool.

use super::{
    batch::Batch,
    outbox::{Outbox, watch},
    shared::Shared,
};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::biased::Owner;
use crate::wire::Wire;
use futures::Stream;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
};

/// Nanoseconds of work in a chunk, unless its size is set: a hundred times what it costs to hand one
/// over.
const CHUNK_NANOS: u64 = 250_000;

/// Items in a chunk at most, unless its size is set.
const MOST_ITEMS: u64 = 4096;

/// Items in a chunk at most before any has been measured; the first chunk has one, and they double.
const MOST_UNMEASURED: u64 = 64;

/// Chunks in flight for each worker: one runs, one waits, one is on its way.
const CHUNKS_AHEAD: u64 = 3;

/// Work in flight for each worker, in nanoseconds, where the chunks are set smaller than that.
const AHEAD_NANOS: u64 = 10_000_000;

/// Items that may be read ahead of the results that were handed out, unless set.
const DEFAULT_WINDOW: usize = 32 << 10;

/// How a map was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cut {
    pub(super) chunk_size: Option<usize>,
    pub(super) window: Option<usize>,
}

impl Cut {
    /// Fails if a chunk or the window is empty.
    pub(super) fn check(self) -> Result<()> {
        let settings = [("chunk_size", self.chunk_size), ("window", self.window)];
        let Some((setting, _)) = settings.iter().find(|it| it.1 == Some(0)) else {
            return Ok(());
        };
        let message = format!("`{setting}` must be at least 1");
        Err(Error::new(ErrorKind::InvalidInput, message))
    }
}

/// The input of one map.
pub(super) struct Intake<S> {
    shared: Arc<Shared>,
    batch: Arc<Batch>,
    cut: Cut,
    input: Pin<Box<S>>,
    pull: Pull<S>,
    outbox: Owner<Outbox>,
    is_exhausted: bool,
    /// Chunks that were pulled.
    chunks: u32,
}

/// Pulls items into the chunk, which is to have so many at most.
type Pull<S> = fn(Pin<&mut S>, &mut Context<'_>, &mut Owner<Outbox>, u32) -> Pulled;

/// Why no more items were pulled into a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulled {
    /// The chunk is to be sent.
    Enough,
    /// The input has nothing now.
    Pending,
    /// The input has ended.
    End,
}

fn pull<S>(
    mut input: Pin<&mut S>,
    context: &mut Context<'_>,
    outbox: &mut Owner<Outbox>,
    max: u32,
) -> Pulled
where
    S: Stream,
    S::Item: Wire + 'static,
{
    outbox.enter().restart();
    watch(outbox);
    loop {
        let item = match input.as_mut().poll_next(context) {
            Poll::Ready(Some(item)) => item,
            Poll::Ready(None) => return Pulled::End,
            Poll::Pending => return Pulled::Pending,
        };
        let mut outbox = outbox.enter();
        if !outbox.put(&item) || outbox.is_due(max) {
            return Pulled::Enough;
        }
    }
}

impl<S> Intake<S>
where
    S: Stream,
    S::Item: Wire + 'static,
{
    /// Takes nothing from the input yet.
    pub(super) fn new(shared: &Arc<Shared>, batch: &Arc<Batch>, cut: Cut, input: S) -> Self {
        Self {
            shared: Arc::clone(shared),
            batch: Arc::clone(batch),
            cut,
            input: Box::pin(input),
            pull: pull::<S>,
            outbox: Owner::new(Outbox::new(shared, batch)),
            is_exhausted: false,
            chunks: 0,
        }
    }
}

impl<S> Intake<S> {
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Pulls items, at most a chunk, and sends them.
    pub(super) fn pull_chunk(&mut self, context: &mut Context<'_>) -> Pulled {
        // Behind a failure that ends the map nothing more is wanted.
        if !self.batch.wants_more() {
            self.is_exhausted = true;
            return Pulled::End;
        }
        let room = (self.window() as u64).saturating_sub(self.batch.load().ahead);
        let max = self.chunk_size().min(room).clamp(1, u32::MAX.into()) as u32;
        let pulled = (self.pull)(self.input.as_mut(), context, &mut self.outbox, max);
        self.send_rest();
        self.chunks += 1;
        self.is_exhausted |= pulled == Pulled::End;
        pulled
    }

    /// Sends what was pulled.
    pub(super) fn send_rest(&mut self) {
        self.outbox.enter().send();
    }

    pub(super) fn has_room(&self) -> bool {
        let load = self.batch.load();
        !self.is_exhausted
            && load.ahead < self.window() as u64
            && load.outstanding < self.enough()
            && self.may_send(load.outstanding)
    }

    /// Waits for room; false if nothing more is to be read.
    pub(super) fn wait_for_room(&self) -> bool {
        while !self.is_over() {
            if self.has_room() {
                return true;
            }
            self.batch.wake_reader(&thread::current());
            let budget = &self.shared.budget;
            budget.iter().for_each(|it| it.wake(&thread::current()));
            // Once more: what changed before the lines above has not woken this thread.
            if !self.is_over() && !self.has_room() {
                thread::park();
            }
        }
        false
    }

    /// Whether nothing more is to be read, by a thread that does nothing else.
    fn is_over(&self) -> bool {
        self.is_exhausted || self.batch.halts()
    }

    /// Whether a wait for room is over: later than there is any, so that there is room for several
    /// chunks at a time.
    pub(super) fn has_much_room(&self) -> bool {
        let load = self.batch.load();
        !self.is_exhausted
            && load.ahead < self.window() as u64
            && load.outstanding < self.enough().div_ceil(2)
            && self.may_send(load.outstanding)
    }

    /// Whether the pool's budget has room for a chunk. One may be under way in any case.
    fn may_send(&self, outstanding: u64) -> bool {
        self.shared.has_room() || outstanding == 0
    }

    /// Items in flight that keep every worker busy.
    fn enough(&self) -> u64 {
        let nanos = self.batch.item_nanos();
        let ahead = nanos.map_or(0, |nanos| (AHEAD_NANOS / nanos.max(1)).min(MOST_ITEMS));
        let each = self.chunk_size().saturating_mul(CHUNKS_AHEAD).max(ahead);
        each.saturating_mul(self.shared.workers() as u64)
    }

    fn window(&self) -> usize {
        let set_chunk = self.cut.chunk_size.unwrap_or(0);
        let for_chunks = set_chunk.saturating_mul(CHUNKS_AHEAD as usize * self.shared.workers());
        self.cut.window.unwrap_or(DEFAULT_WINDOW.max(for_chunks))
    }

    fn chunk_size(&self) -> u64 {
        let wanted = match (self.cut.chunk_size, self.batch.item_nanos()) {
            (Some(size), _) => size as u64,
            (None, Some(nanos)) => (CHUNK_NANOS / nanos.max(1)).min(MOST_ITEMS),
            (None, None) => (1 << self.chunks.min(16)).min(MOST_UNMEASURED),
        };
        wanted.clamp(1, self.window() as u64)
    }
}

impl<S: Stream> Intake<S> {
    /// Items that the input still has, at least and at most.
    pub(super) fn size_hint(&self) -> (usize, Option<usize>) {
        if self.is_exhausted {
            return (0, Some(0));
        }
        self.input.size_hint()
    }
}

/// An iterator as a stream that is always ready.
pub(super) struct Iter<I>(pub(super) I);

/// The iterator is never pinned.
impl<I> Unpin for Iter<I> {}

impl<I: Iterator> Stream for Iter<I> {
    type Item = I::Item;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
