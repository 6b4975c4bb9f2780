//! The chunk of a map that is being filled with items of the input.

use crate::error::{Error, ErrorKind};
use crate::pool::{
    pool::{Pool, Submitter},
    task::{
        Wakeups,
        encoded::{Encoded, take_large},
        map::{Chunk, MapState},
        map_part::MapPart,
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

/// Bytes after which a chunk accepts no more items.
const CHUNK_BYTES: usize = 32 << 10;

/// A chunk that accepts items, each after its length. The thread that reads the input owns it. The
/// pool's thread sends the items if the next one takes long.
pub(crate) struct Outbox {
    pool: Arc<Pool>,
    map: Arc<MapState>,
    buffer: Buffer,
    /// The number of items in the chunk.
    count: u32,
    /// The end of the last item. A panic of user code may leave more bytes in the buffer.
    end: usize,
    /// The descriptors of the last encoded item.
    descriptors: Vec<Attached>,
    /// Whether the pool's thread will check the chunk. The owner sets it before it pulls. The
    /// pool's thread clears it when it has checked, which means that the input is slow.
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

    /// Drops bytes that a panic of user code left.
    pub(crate) fn discard_partial(&mut self) {
        self.buffer.truncate(self.end);
        self.buffer.begin_value();
    }

    /// Whether the chunk must be sent: it has `max` items, the input is slow, or reading must
    /// pause.
    #[inline]
    pub(crate) fn is_due(&self, max: u32) -> bool {
        self.count >= max || !self.is_watched || self.map.halts()
    }

    /// Encodes an item into the chunk. Returns false if no other item fits: the chunk is full, or
    /// it was sent because this item is large, holds handles or cannot be encoded.
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

    /// Fills in the length of the item that starts at `at`.
    #[inline]
    fn finish_item(&mut self, at: usize) {
        let start = at + size_of::<u32>();
        let length = (self.buffer.private().len() - start) as u32;
        self.buffer.private_mut()[at..start].copy_from_slice(&length.to_le_bytes());
        self.end = self.buffer.private().len();
        self.count += 1;
    }

    /// Sends the chunk, then the last encoded item, which starts at `start` if it is not large.
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

    /// Sends the chunk, then delivers an error for the item that could not be encoded.
    fn fail_item(&mut self, reason: &str) {
        self.descriptors.clear();
        self.send();
        let message = format!("failed to encode an item of the map: {reason}");
        let index = self.map.count_sent(1);
        let error = Error::new(ErrorKind::Codec, message);
        self.pool.fail_items(&self.map, index, 1, error);
    }

    /// Sends the items in the chunk.
    pub(crate) fn send(&mut self) {
        if let Some(chunk) = self.take_chunk() {
            self.pool.submit_chunk(chunk);
        }
    }

    /// Takes the overdue items, for the pool's thread, which does not check again.
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
            // A single item is sent without its length.
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

/// Schedules a check of the outbox by the pool's thread, unless one is scheduled.
pub(crate) fn watch(outbox: &mut Owner<Outbox>) {
    let visitor = outbox.visitor();
    let mut entered = outbox.lock();
    if !mem::replace(&mut entered.is_watched, true) {
        entered.pool.flush_timer.watch(visitor);
    }
}

impl Pool {
    /// Submits a chunk. Fails its items if the pool accepts no tasks.
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

    /// Delivers an error for each of these items, which were not submitted.
    fn fail_items(&self, map: &MapState, index: u64, count: u32, error: Error) {
        let mut wakeups = Wakeups::default();
        let part = MapPart {
            index,
            count,
            outcome: Err(error),
        };
        // Later items were not pulled yet, so there is nothing to sweep.
        map.deliver(part, None, &mut wakeups);
        self.wake(wakeups);
        // A sleeping leader may wait for this.
        self.driver.notify_leader();
    }
}
