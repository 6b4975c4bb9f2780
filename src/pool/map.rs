//! Maps: the input cut into chunks, never further ahead than the window, and the outcomes in the caller's hands.

use super::{
    batch::{Batch, Chunk, Part},
    payload::{Payload, take_large},
    shared::{Shared, Submitter},
    unit::{Items, Unit},
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::Buffer;
use crate::sys::clock;
use crate::wire::{
    Wire,
    codec::{self, Output},
    handle::{self, Descriptor},
};
use parking_lot::Mutex;
use std::{
    mem,
    sync::Arc,
    task::{Poll, Waker},
    thread::Thread,
};

/// Nanoseconds of work in a chunk, unless its size is set: a hundred times what it costs to hand one over.
const CHUNK_NANOS: u64 = 250_000;

/// Bytes after which a chunk takes no more items.
const CHUNK_BYTES: usize = 32 << 10;

/// Items in a chunk at most, unless its size is set.
const MOST_ITEMS: u64 = 4096;

/// Items in a chunk at most before any has been measured; the first chunk has one, and they double.
const MOST_UNMEASURED: u64 = 64;

/// Chunks in flight for each worker: one runs, one waits, one is on its way.
const CHUNKS_AHEAD: u64 = 3;

/// Work in flight for each worker, in nanoseconds, where the chunks are set smaller than that.
const AHEAD_NANOS: u64 = 10_000_000;

/// Items that may be read ahead of the results that were handed out, unless set.
pub(super) const DEFAULT_WINDOW: usize = 32 << 10;

/// How a map was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cut {
    pub(super) chunk_size: Option<usize>,
    pub(super) window: Option<usize>,
}

impl Cut {
    /// An error for a chunk or a window of nothing.
    pub(super) fn check(self) -> Result<()> {
        let zero = |what: &str| {
            Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{what} of 0 items"),
            ))
        };
        match self {
            Self {
                chunk_size: Some(0),
                ..
            } => zero("a chunk"),
            Self {
                window: Some(0), ..
            } => zero("a window"),
            _ => Ok(()),
        }
    }
}

/// One map on its way, whatever form its results take.
pub(super) struct Run<I, R> {
    shared: Arc<Shared>,
    batch: Arc<Batch>,
    input: I,
    pull: Pull<I>,
    decode: fn(&Part, &mut dyn FnMut(Result<R>)),
    cut: Cut,
    is_exhausted: bool,
    /// Items taken from the input.
    pulled: u64,
    /// Items whose outcomes were handed out.
    given: u64,
    /// Chunks sent.
    chunks: u32,
    /// The chunk that is being filled.
    next: NextChunk,
}

/// Fills a chunk up to a number of items.
type Pull<I> = fn(&mut I, &mut NextChunk, u32) -> Pulled;

/// Why no more items were pulled into a chunk.
enum Pulled {
    /// The chunk is full.
    Enough,
    /// The input has ended.
    End,
    /// The item pulled last is large or holds handles: it travels alone, and does not count.
    Alone,
    /// The item pulled last could not be encoded, and does not count.
    Failed(codec::Reason),
}

/// A chunk on its way: items, each behind its length.
struct NextChunk {
    buffer: Buffer,
    count: u32,
    /// Where the last of its items ends: a panic of the user's code may leave more in the buffer.
    end: usize,
    /// An item behind them that holds handles, if it is small: a large one lies in the buffer's slab.
    alone: Option<Payload>,
    /// The descriptors of the item that was encoded last.
    descriptors: Vec<Descriptor>,
}

/// Pulls items and encodes them, until something else is to be done.
fn pull<I>(input: &mut I, chunk: &mut NextChunk, most: u32) -> Pulled
where
    I: Iterator,
    I::Item: Wire + 'static,
{
    chunk.buffer.cut(chunk.end);
    chunk.buffer.begin();
    while chunk.count < most && chunk.buffer.private().len() < CHUNK_BYTES {
        let Some(item) = input.next() else {
            return Pulled::End;
        };
        let at = chunk.buffer.private().len();
        chunk.buffer.put(&[0; size_of::<u32>()]);
        chunk.buffer.begin();
        let (buffer, descriptors) = (&mut chunk.buffer, &mut chunk.descriptors);
        if let Err(reason) = handle::collect(descriptors, || codec::encode(&item, buffer)) {
            chunk.descriptors.clear();
            return Pulled::Failed(reason);
        }
        if !chunk.end_item(at) {
            return Pulled::Alone;
        }
    }
    Pulled::Enough
}

impl NextChunk {
    /// Fills in the length of the item whose place begins at `at`; false for one that travels alone, whose place goes.
    #[inline]
    fn end_item(&mut self, at: usize) -> bool {
        let start = at + size_of::<u32>();
        let length = (self.buffer.private().len() - start) as u32;
        if self.buffer.is_large() || !self.descriptors.is_empty() {
            let is_small = !self.buffer.is_large();
            self.alone = is_small.then(|| Payload::copy_of(&self.buffer.private()[start..]));
            self.buffer.cut_private(at);
            return false;
        }
        self.buffer.private_mut()[at..start].copy_from_slice(&length.to_le_bytes());
        self.end = self.buffer.private().len();
        self.count += 1;
        true
    }
}

impl<I, R> Run<I, R>
where
    I: Iterator,
    I::Item: Wire + 'static,
    R: Wire + 'static,
{
    /// Takes nothing from the input yet.
    pub(super) fn new(shared: &Arc<Shared>, batch: Batch, cut: Cut, input: I) -> Result<Self> {
        cut.check()?;
        Ok(Self {
            shared: Arc::clone(shared),
            batch: Arc::new(batch),
            input,
            pull: pull::<I>,
            decode: |part, take| part.decode(take),
            cut,
            is_exhausted: false,
            pulled: 0,
            given: 0,
            chunks: 0,
            next: NextChunk {
                buffer: Buffer::new(Arc::clone(&shared.slabs) as _),
                count: 0,
                end: 0,
                alone: None,
                descriptors: Vec::new(),
            },
        })
    }
}

impl<I, R> Run<I, R> {
    pub(super) fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }

    /// Why nothing will ever come: this is a copy of the pool's process.
    pub(super) fn refusal(&self) -> Option<Error> {
        if self.shared.is_foreign() {
            return self.shared.refusal();
        }
        None
    }

    /// Decodes results one after the other.
    pub(super) fn decode(&self, part: &Part, take: &mut dyn FnMut(Result<R>)) {
        (self.decode)(part, take);
    }

    /// Waits for the next outcomes; none when every item's has been handed out.
    pub(super) fn next_part(&mut self) -> Option<Part> {
        loop {
            if let Poll::Ready(part) = self.try_next_part() {
                return part;
            }
            let (batch, wants) = (&self.batch, self.wanted_below());
            let register = |thread: &Thread| {
                batch.wake(thread);
                self.shared.budget.iter().for_each(|it| it.wake(thread));
            };
            let done = || batch.has_part() || batch.outstanding() < wants && self.may_send();
            self.shared.wait_until(None, &register, &done);
        }
    }

    /// The next outcomes, or `waker` is woken when some may be there.
    pub(super) fn poll_next_part(&mut self, waker: &Waker) -> Poll<Option<Part>> {
        if let Poll::Ready(part) = self.try_next_part() {
            return Poll::Ready(part);
        }
        self.batch.wake_by(waker);
        // Once more: what came before the line above has woken nobody.
        self.try_next_part()
    }

    /// The next outcomes, if they are there. Sends what there is room for first.
    fn try_next_part(&mut self) -> Poll<Option<Part>> {
        loop {
            if let Some(part) = self.batch.take() {
                self.given += u64::from(part.count);
                return Poll::Ready(Some(part));
            }
            self.fill();
            let nothing_comes = self.is_exhausted && self.batch.outstanding() == 0;
            match (self.batch.has_part(), nothing_comes) {
                (true, _) => {}
                (false, true) => return Poll::Ready(None),
                (false, false) => return Poll::Pending,
            }
        }
    }

    /// Takes items from the input and sends them, as far as there is room.
    fn fill(&mut self) {
        while self.has_room() {
            self.send_chunk();
        }
    }

    /// Sends the whole input, however long it is.
    pub(super) fn send_all(&mut self) {
        while !self.is_exhausted {
            // Waits for room. A pool that takes nothing any more says so of each chunk.
            let _ = self.shared.reserve(0);
            self.send_chunk();
        }
    }

    fn has_room(&self) -> bool {
        !self.is_exhausted
            && self.pulled - self.given < self.window() as u64
            && self.batch.outstanding() < self.enough()
            && self.may_send()
    }

    /// Whether the pool's budget has room for a chunk. One may be under way in any case.
    fn may_send(&self) -> bool {
        self.shared.has_room() || self.batch.outstanding() == 0
    }

    /// The number of items in flight below which more are to be sent; 0 if there are no more to send.
    fn wanted_below(&self) -> u64 {
        let may_pull = !self.is_exhausted && self.pulled - self.given < self.window() as u64;
        // Half, so that a waiting caller is woken for several chunks at a time.
        if may_pull {
            self.enough().div_ceil(2)
        } else {
            0
        }
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

    /// Takes items from the input, at most a chunk, and sends them.
    fn send_chunk(&mut self) {
        // Behind a failure that ends the map nothing more is wanted.
        if self.batch.wanted(self.pulled, 1) == 0 {
            self.is_exhausted = true;
            return;
        }
        let room = (self.window() as u64).saturating_sub(self.pulled - self.given);
        let most = self.chunk_size().min(room).clamp(1, u32::MAX.into()) as u32;
        let pulled = (self.pull)(&mut self.input, &mut self.next, most);
        let alone =
            take_large(&mut self.next.buffer, &self.shared.slabs).or(self.next.alone.take());
        let count = mem::take(&mut self.next.count);
        self.next.end = 0;
        let chunk = if count > 0 {
            self.next.buffer.take_private()
        } else {
            Vec::new()
        };
        self.send_items(count, chunk);
        match (pulled, alone) {
            (Pulled::Alone, Some(value)) => {
                let descriptors = mem::take(&mut self.next.descriptors);
                self.send(1, value.with_handles(descriptors));
            }
            (Pulled::Failed(reason), _) => {
                self.pulled += 1;
                let message = format!("failed to encode an item of the map: {reason}");
                self.give_error(1, Error::new(ErrorKind::Codec, message));
            }
            (Pulled::End, _) => self.is_exhausted = true,
            _ => {}
        }
    }

    /// Sends `count` items, each behind its length.
    fn send_items(&mut self, count: u32, items: Vec<u8>) {
        match count {
            0 => {}
            // One item travels without its length.
            1 => self.send(1, Payload::copy_of(&items[size_of::<u32>()..])),
            _ => self.send(count, Payload::Private(items.into())),
        }
    }

    /// Sends `count` items that were just pulled.
    fn send(&mut self, count: u32, items: Payload) {
        self.pulled += u64::from(count);
        self.chunks += 1;
        let index = self.pulled - u64::from(count);
        let batch = Arc::clone(&self.batch);
        let bytes = items.length();
        let chunk = Arc::new(Chunk {
            _reserved: self.shared.budget.as_ref().map(|it| it.reserve(bytes)),
            batch,
            index,
            count,
            submitted: clock::now(),
            items: Mutex::new(items),
        });
        self.batch.sent(count.into());
        let unit = Unit::Items(Box::new(Items {
            chunk,
            first: 0,
            count,
        }));
        if let Err(error) = self.shared.submit(unit, Submitter::Leaves) {
            self.batch.unsent(count.into());
            self.give_error(count, error);
        }
    }

    /// Gives an error in the place of each of the `count` items pulled last.
    fn give_error(&self, count: u32, error: Error) {
        let index = self.pulled - u64::from(count);
        self.batch.deliver_unsent(Part {
            index,
            count,
            outcome: Err(error),
        });
    }
}

impl<I: Iterator, R> Run<I, R> {
    /// Results that will be handed out, at least and at most.
    pub(super) fn size_hint(&self) -> (usize, Option<usize>) {
        let under_way = (self.pulled - self.given) as usize;
        let (low, high) = if self.is_exhausted {
            (0, Some(0))
        } else {
            self.input.size_hint()
        };
        (
            low.saturating_add(under_way),
            high.and_then(|it| it.checked_add(under_way)),
        )
    }

    /// How many results to expect, as far as the input says so.
    pub(super) fn expected(&self) -> usize {
        // An input that claims too much must not cost memory.
        self.input.size_hint().0.min(1 << 14)
    }
}

impl<I, R> Drop for Run<I, R> {
    /// Cancels what has not started.
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            return;
        }
        let context = self.batch.context.as_ref().map(|it| it.id);
        let has_more = self.batch.is_streamed() && self.batch.outstanding() > 0;
        if has_more || context.is_some() {
            self.shared.with_state(|state, told| {
                if has_more {
                    self.batch.cancel_from(0);
                    state.sweep_cancelled(told);
                }
                context.into_iter().for_each(|it| state.drop_context(it));
            });
        }
    }
}
