//! The chunk of a map that is being filled: items on their way from the input into the pool.

use crate::error::{Error, ErrorKind};
use crate::pool::{
    pool::{Pool, Submitter},
    task::{
        Wakeups,
        encoded::{Encoded, take_large},
        map::{Chunk, MapPart, MapState},
        work_item::{ChunkSlice, WorkItem},
    },
};
use crate::shm::Buffer;
use crate::sys::{biased::Owner, clock};
use crate::wire::{
    Wire,
    codec::{self, ByteSink},
    handle::{self, Attached},
};
use parking_lot::Mutex;
use std::{mem, sync::Arc};

/// Bytes after which a chunk takes no more items.
const CHUNK_BYTES: usize = 32 << 10;

/// A chunk that takes items, each behind its length. The thread that reads the input owns it; the
/// pool's thread sends the items if the next one is long in coming.
pub(crate) struct Outbox {
    pool: Arc<Pool>,
    map: Arc<MapState>,
    buffer: Buffer,
    /// Items in the chunk.
    count: u32,
    /// Where the last of them ends: a panic of the user's code may leave more in the buffer.
    end: usize,
    /// The descriptors of the item that was encoded last.
    descriptors: Vec<Attached>,
    /// Whether the pool's thread will look at the chunk. Set by the owner as it begins to pull,
    /// cleared by that thread when it has looked: then the input is slow.
    is_watched: bool,
}

impl Outbox {
    pub(crate) fn new(pool: &Arc<Pool>, map: &Arc<MapState>) -> Self {
        Self {
            pool: Arc::clone(pool),
            map: Arc::clone(map),
            buffer: Buffer::new(Arc::clone(&pool.slabs) as _),
            count: 0,
            end: 0,
            descriptors: Vec::new(),
            is_watched: false,
        }
    }

    /// Drops what a panic of the user's code left.
    pub(crate) fn discard_partial(&mut self) {
        self.buffer.truncate(self.end);
        self.buffer.begin_value();
    }

    /// Whether the chunk is to be sent: it has `max` items, the input is slow, or is not to be
    /// read on.
    #[inline]
    pub(crate) fn is_due(&self, max: u32) -> bool {
        self.count >= max || !self.is_watched || self.map.halts()
    }

    /// Encodes an item into the chunk. Returns false if no other fits: the chunk is full, or was
    /// sent, as this item is large, holds handles or cannot be encoded.
    #[inline]
    pub(crate) fn put<T: Wire + 'static>(&mut self, item: &T) -> bool {
        let at = self.buffer.private().len();
        self.buffer.put(&[0; size_of::<u32>()]);
        self.buffer.begin_value();
        let (buffer, descriptors) = (&mut self.buffer, &mut self.descriptors);
        if let Err(reason) = handle::collect(descriptors, || codec::encode(item, buffer)) {
            self.fail_item(&reason);
            return false;
        }
        if self.buffer.is_large() || !self.descriptors.is_empty() {
            self.send_alone(at + size_of::<u32>());
            return false;
        }
        self.finish_item(at);
        self.end < CHUNK_BYTES
    }

    /// Fills in the length of the item whose place begins at `at`.
    #[inline]
    fn finish_item(&mut self, at: usize) {
        let start = at + size_of::<u32>();
        let length = (self.buffer.private().len() - start) as u32;
        self.buffer.private_mut()[at..start].copy_from_slice(&length.to_le_bytes());
        self.end = self.buffer.private().len();
        self.count += 1;
    }

    /// Sends the chunk, then the item encoded last, which begins at `start` if it is not large.
    fn send_alone(&mut self, start: usize) {
        let small = &self.buffer.private()[start..];
        let small = (!self.buffer.is_large()).then(|| Encoded::copy_of(small));
        let value = take_large(&mut self.buffer, &self.pool.slabs).or(small);
        self.send();
        let descriptors = mem::take(&mut self.descriptors);
        if let Some(value) = value {
            let chunk = self.chunk(1, value.with_fds(descriptors));
            self.pool.submit_chunk(chunk);
        }
    }

    /// Sends the chunk, and delivers an error in the place of the item that was not encoded.
    fn fail_item(&mut self, reason: &str) {
        self.descriptors.clear();
        self.send();
        let message = format!("failed to encode an item of the map: {reason}");
        let index = self.map.count_sent(1);
        let error = Error::new(ErrorKind::Codec, message);
        self.pool.fail_items(&self.map, index, 1, error);
    }

    /// Sends the items that are there.
    pub(crate) fn send(&mut self) {
        if let Some(chunk) = self.take_chunk() {
            self.pool.submit_chunk(chunk);
        }
    }

    /// Takes the items that are too long here, for the pool's thread, which looks no more.
    pub(crate) fn take_overdue(&mut self) -> Option<Arc<Chunk>> {
        self.is_watched = false;
        self.take_chunk()
    }

    fn take_chunk(&mut self) -> Option<Arc<Chunk>> {
        self.buffer.truncate(mem::take(&mut self.end));
        let count = mem::take(&mut self.count);
        if count == 0 {
            return None;
        }
        let items = self.buffer.take_private();
        let items = if count == 1 {
            // One item travels without its length.
            Encoded::copy_of(&items[size_of::<u32>()..])
        } else {
            Encoded::Private(items.into())
        };
        Some(self.chunk(count, items))
    }

    fn chunk(&self, count: u32, items: Encoded) -> Arc<Chunk> {
        let bytes = items.len();
        Arc::new(Chunk {
            _reservation: self.pool.budget.as_ref().map(|it| it.reserve(bytes)),
            map: Arc::clone(&self.map),
            index: self.map.count_sent(count),
            count,
            submitted: clock::now(),
            items: Mutex::new(items),
        })
    }
}

/// Has the pool's thread look at the outbox soon, if it does not already.
pub(crate) fn watch(outbox: &mut Owner<Outbox>) {
    let visitor = outbox.visitor();
    let mut entered = outbox.lock();
    if !mem::replace(&mut entered.is_watched, true) {
        entered.pool.flush_timer.watch(visitor);
    }
}

impl Pool {
    /// Submits a chunk; if the pool takes none, its items fail.
    pub(crate) fn submit_chunk(&self, chunk: Arc<Chunk>) {
        let (map, index, count) = (Arc::clone(&chunk.map), chunk.index, chunk.count);
        let work_item = WorkItem::Slice(Box::new(ChunkSlice {
            chunk,
            first: 0,
            count,
        }));
        if let Err(error) = self.submit(work_item, Submitter::Leaves) {
            self.fail_items(&map, index, count, error);
        }
    }

    /// Delivers an error in the place of each of these items, none of which was submitted.
    fn fail_items(&self, map: &MapState, index: u64, count: u32, error: Error) {
        let mut wakeups = Wakeups::default();
        let part = MapPart {
            index,
            count,
            outcome: Err(error),
        };
        // What lies behind them was not pulled yet, so that there is nothing to sweep.
        map.deliver(part, None, &mut wakeups);
        self.wake(wakeups);
        // A leader that sleeps may wait for just this.
        self.driver.notify_leader();
    }
}
