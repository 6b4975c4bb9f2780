//! A queue of values. They are encoded before the lock is taken and decoded after it is released,
//! so no user code runs while other processes wait.

use super::block::CONTROL_LEN;
use super::ring::{ItemBuffer, Limit, Ring};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Cursor, Object, ObjectKind, fingerprint};
use crate::sys::{
    bytes::{as_bytes, is_bytes},
    pid,
};
use crate::wire::{Wire, codec, handle};
use parking_lot::Mutex;
use serde::{Deserializer, Serializer};
use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    marker::PhantomData,
    mem,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Bytes; a thread keeps a buffer of at most this size for its next item.
const MAX_KEPT: usize = 1 << 20;

/// The implementation of all queues of `T`. Clones share it.
pub(super) struct TypedRing<T> {
    shared: Arc<SharedRing>,
    types: PhantomData<fn(T) -> T>,
}

#[derive(Debug)]
struct SharedRing {
    ring: Ring,
    /// Items that were taken together with an item that could not be decoded: first that item, then
    /// the later ones.
    deferred: Mutex<VecDeque<Vec<u8>>>,
    /// The process that deferred the items, as a forked copy must not use them; 0 if there are
    /// none.
    deferred_in: AtomicU32,
}

impl<T> Clone for TypedRing<T> {
    fn clone(&self) -> Self {
        Self::from_shared(self.shared.clone())
    }
}

impl<T> TypedRing<T> {
    fn from_shared(shared: Arc<SharedRing>) -> Self {
        let types = PhantomData;
        Self { shared, types }
    }

    fn from_ring(ring: Ring) -> Self {
        Self::from_shared(Arc::new(SharedRing {
            ring,
            deferred: Mutex::default(),
            deferred_in: AtomicU32::new(0),
        }))
    }

    #[inline]
    pub(super) fn ring(&self) -> &Ring {
        &self.shared.ring
    }

    pub(super) fn serialize<S: Serializer>(
        &self,
        kind: ObjectKind,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        self.ring().object().serialize(kind, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        kind: ObjectKind,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let object = Object::deserialize(deserializer, kind, fingerprint::<T>(), CONTROL_LEN)?;
        let ring = Ring::open(object).map_err(serde::de::Error::custom)?;
        Ok(Self::from_ring(ring))
    }

    pub(super) fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("fd", self.ring().object())
            .field("len", &self.ring().len())
            .finish_non_exhaustive()
    }
}

impl<T: Wire> TypedRing<T> {
    /// Creates a queue for at most `capacity` items; for any number if it is `None`.
    pub(super) fn create(kind: ObjectKind, capacity: Option<usize>) -> Result<Self> {
        if capacity == Some(0) {
            let message = "the capacity of a queue must not be 0";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let capacity = capacity.map_or(u64::MAX, |capacity| capacity as u64);
        Ring::create(kind, fingerprint::<T>(), capacity).map(Self::from_ring)
    }

    #[inline]
    pub(super) fn put(&self, item: &T, limit: Limit) -> Result<()> {
        if let Some(bytes) = as_bytes(item) {
            return self.ring().put(&[bytes], limit);
        }
        let mut buffer = ThreadBuffer::take();
        encode(item, &mut buffer.bytes)?;
        self.ring().put(&[&buffer.bytes], limit)
    }

    pub(super) fn put_many(&self, items: &[T], limit: Limit) -> Result<()> {
        let mut buffer = ThreadBuffer::take();
        for item in items {
            encode(item, &mut buffer.bytes)?;
            buffer.end_item();
        }
        let encoded: Vec<&[u8]> = buffer.items().collect();
        self.ring().put(&encoded, limit)
    }

    #[inline]
    pub(super) fn get(&self, limit: Limit) -> Result<T> {
        if let Some(bytes) = self.take_deferred() {
            return decode(bytes);
        }
        if is_bytes::<T>() {
            // The buffer itself becomes the value.
            let mut items = ItemBuffer::default();
            self.ring().get(1, &mut items, limit)?;
            return decode(items.bytes);
        }
        let mut buffer = ThreadBuffer::take();
        self.ring().get(1, &mut buffer, limit)?;
        decode_from(&buffer.bytes)
    }

    pub(super) fn get_many(&self, max: usize, limit: Limit) -> Result<Vec<T>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        if let Some(bytes) = self.take_deferred() {
            return decode(bytes).map(|item| vec![item]);
        }
        let mut buffer = ThreadBuffer::take();
        self.ring().get(max, &mut buffer, limit)?;
        let mut items = Vec::with_capacity(buffer.ends.len());
        for (count, bytes) in buffer.items().enumerate() {
            match decode_from(bytes) {
                Ok(item) => items.push(item),
                // Return the items before it. The next call returns the error.
                Err(_) if count > 0 => {
                    self.defer(buffer.items().skip(count));
                    break;
                }
                Err(error) => {
                    self.defer(buffer.items().skip(1));
                    return Err(error);
                }
            }
        }
        Ok(items)
    }

    #[cold]
    fn defer<'a>(&self, items: impl Iterator<Item = &'a [u8]>) {
        let mut deferred = self.shared.deferred.lock();
        if !self.has_deferred() {
            deferred.clear();
        }
        deferred.extend(items.map(<[u8]>::to_vec));
        self.note_deferred(&deferred);
    }

    /// Whether this process has deferred items.
    #[inline]
    fn has_deferred(&self) -> bool {
        // Relaxed, like below: the lock orders the items.
        let process = self.shared.deferred_in.load(Ordering::Relaxed);
        process != 0 && process == pid::current()
    }

    fn note_deferred(&self, deferred: &VecDeque<Vec<u8>>) {
        let process = if deferred.is_empty() {
            0
        } else {
            pid::current()
        };
        self.shared.deferred_in.store(process, Ordering::Relaxed);
    }

    #[inline]
    fn take_deferred(&self) -> Option<Vec<u8>> {
        if !self.has_deferred() {
            return None;
        }
        let mut deferred = self.shared.deferred.lock();
        let taken = deferred.pop_front();
        self.note_deferred(&deferred);
        taken
    }
}

#[inline]
fn encode<T: Wire>(item: &T, into: &mut Vec<u8>) -> Result<()> {
    let mut handles = Vec::new();
    let encoded = handle::collect(&mut handles, || codec::encode(item, into));
    encoded.map_err(|reason| {
        let message = format!("failed to encode an item for a queue: {reason}");
        Error::new(ErrorKind::Codec, message)
    })?;
    if !handles.is_empty() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a queue cannot hold a handle: pass it as an argument, or through a connection",
        ));
    }
    Ok(())
}

#[inline]
fn decode_from<T: Wire>(bytes: &[u8]) -> Result<T> {
    decode_by(|| codec::decode(&mut Cursor::new(bytes)))
}

fn decode<T: Wire>(bytes: Vec<u8>) -> Result<T> {
    if is_bytes::<T>() {
        return Ok(crate::sys::bytes::from_bytes(bytes));
    }
    decode_from(&bytes)
}

#[inline]
fn decode_by<T>(decode: impl FnOnce() -> Result<T, codec::CodecErrorText>) -> Result<T> {
    // The item came with no descriptors. If this call runs inside the decoding of another value, it
    // must not take the descriptors of that value.
    let decoded = match may_hold_handles::<T>() {
        true => handle::provide(Vec::new(), decode),
        false => decode(),
    };
    decoded.map_err(|reason| {
        let message = format!("failed to decode an item of a queue: {reason}");
        Error::new(ErrorKind::Codec, message)
    })
}

/// Whether `T` may hold a handle: handles have drop glue, as they close a descriptor.
const fn may_hold_handles<T>() -> bool {
    mem::needs_drop::<T>()
}

impl ItemBuffer {
    /// Ends an item.
    fn end_item(&mut self) {
        self.ends.push(self.bytes.len());
    }

    fn items(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ranges = starts.zip(&self.ends);
        ranges.map(|(start, end)| &self.bytes[start..*end])
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

thread_local! {
    // Boxed, so that taking and returning it moves one word.
    static THREAD_BUFFER: Cell<Option<Box<ItemBuffer>>> = const { Cell::new(None) };
}

/// This thread's buffer for encoded items. If user code uses a queue while an item is encoded or
/// decoded, it gets a second buffer.
struct ThreadBuffer(Option<Box<ItemBuffer>>);

impl ThreadBuffer {
    #[inline]
    fn take() -> Self {
        // During thread exit the buffer is gone already.
        let kept = THREAD_BUFFER.try_with(Cell::take).ok().flatten();
        Self(Some(kept.unwrap_or_default()))
    }
}

impl Deref for ThreadBuffer {
    type Target = ItemBuffer;

    #[inline]
    fn deref(&self) -> &ItemBuffer {
        self.0.as_ref().expect("the buffer is present until drop")
    }
}

impl DerefMut for ThreadBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut ItemBuffer {
        self.0.as_mut().expect("the buffer is present until drop")
    }
}

impl Drop for ThreadBuffer {
    #[inline]
    fn drop(&mut self) {
        let Some(mut items) = self.0.take() else {
            return;
        };
        if items.bytes.capacity() <= MAX_KEPT
            && items.ends.capacity() <= MAX_KEPT / size_of::<usize>()
        {
            items.clear();
            // The same applies here.
            let _ = THREAD_BUFFER.try_with(|slot| slot.set(Some(items)));
        }
    }
}
