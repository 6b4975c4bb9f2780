//! A queue of values: encoded before anybody's turn comes, decoded when it is over, so that no user's code runs while others
//! wait for it.

use super::chunk::CONTROL;
use super::ring::{Batch, Limit, Ring};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Cursor, Kind, Object, fingerprint};
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

/// Bytes; a thread keeps so much memory for its next item, at the most.
const KEPT: usize = 1 << 20;

/// What all queues of `T` are. Clones share it.
pub(super) struct Items<T> {
    shared: Arc<Shared>,
    types: PhantomData<fn(T) -> T>,
}

#[derive(Debug)]
struct Shared {
    ring: Ring,
    /// Items that this process has taken together with one that could not be decoded: first that, then those behind it.
    aside: Mutex<VecDeque<Vec<u8>>>,
    /// The process that has items set aside, which are not for a copy of it; 0 if there are none.
    aside_in: AtomicU32,
}

impl<T> Clone for Items<T> {
    fn clone(&self) -> Self {
        Self::of_shared(self.shared.clone())
    }
}

impl<T> Items<T> {
    fn of_shared(shared: Arc<Shared>) -> Self {
        let types = PhantomData;
        Self { shared, types }
    }

    fn of_ring(ring: Ring) -> Self {
        Self::of_shared(Arc::new(Shared {
            ring,
            aside: Mutex::default(),
            aside_in: AtomicU32::new(0),
        }))
    }

    #[inline]
    pub(super) fn ring(&self) -> &Ring {
        &self.shared.ring
    }

    pub(super) fn serialize<S: Serializer>(
        &self,
        kind: Kind,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        self.ring().object().serialize(kind, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        kind: Kind,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let object = Object::deserialize(deserializer, kind, fingerprint::<T>(), CONTROL)?;
        let ring = Ring::open(object).map_err(serde::de::Error::custom)?;
        Ok(Self::of_ring(ring))
    }

    pub(super) fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("fd", self.ring().object())
            .field("len", &self.ring().len())
            .finish_non_exhaustive()
    }
}

impl<T: Wire> Items<T> {
    /// For at most so many items at a time; none is for any number.
    pub(super) fn create(kind: Kind, capacity: Option<usize>) -> Result<Self> {
        if capacity == Some(0) {
            let message = "a queue for no items at all is of no use";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let capacity = capacity.map_or(u64::MAX, |it| it as u64);
        Ring::create(kind, fingerprint::<T>(), capacity).map(Self::of_ring)
    }

    #[inline]
    pub(super) fn put(&self, item: &T, limit: Limit) -> Result<()> {
        if let Some(bytes) = as_bytes(item) {
            return self.ring().put(&[bytes], limit);
        }
        let mut buffer = Buffer::take();
        encode(item, &mut buffer.bytes)?;
        self.ring().put(&[&buffer.bytes], limit)
    }

    pub(super) fn put_many(&self, items: &[T], limit: Limit) -> Result<()> {
        let mut buffer = Buffer::take();
        for item in items {
            encode(item, &mut buffer.bytes)?;
            buffer.end();
        }
        let encoded: Vec<&[u8]> = buffer.items().collect();
        self.ring().put(&encoded, limit)
    }

    #[inline]
    pub(super) fn get(&self, limit: Limit) -> Result<T> {
        if let Some(bytes) = self.take_aside() {
            return decode(bytes);
        }
        if is_bytes::<T>() {
            // The memory becomes the value.
            let mut batch = Batch::default();
            self.ring().get(1, &mut batch, limit)?;
            return decode(batch.bytes);
        }
        let mut buffer = Buffer::take();
        self.ring().get(1, &mut buffer, limit)?;
        decode_from(&buffer.bytes)
    }

    pub(super) fn get_many(&self, most: usize, limit: Limit) -> Result<Vec<T>> {
        if most == 0 {
            return Ok(Vec::new());
        }
        if let Some(bytes) = self.take_aside() {
            return decode(bytes).map(|it| vec![it]);
        }
        let mut buffer = Buffer::take();
        self.ring().get(most, &mut buffer, limit)?;
        let mut items = Vec::with_capacity(buffer.ends.len());
        for (count, bytes) in buffer.items().enumerate() {
            match decode_from(bytes) {
                Ok(item) => items.push(item),
                // Those before it are the caller's, and the error is the next call's.
                Err(_) if count > 0 => {
                    self.put_aside(buffer.items().skip(count));
                    break;
                }
                Err(error) => {
                    self.put_aside(buffer.items().skip(1));
                    return Err(error);
                }
            }
        }
        Ok(items)
    }

    #[cold]
    fn put_aside<'a>(&self, items: impl Iterator<Item = &'a [u8]>) {
        let mut aside = self.shared.aside.lock();
        if !self.has_aside() {
            aside.clear();
        }
        aside.extend(items.map(<[u8]>::to_vec));
        self.note_aside(&aside);
    }

    /// Whether this process has items set aside.
    #[inline]
    fn has_aside(&self) -> bool {
        // Relaxed, as below: the lock orders what it says.
        let process = self.shared.aside_in.load(Ordering::Relaxed);
        process != 0 && process == pid::current()
    }

    fn note_aside(&self, aside: &VecDeque<Vec<u8>>) {
        let process = if aside.is_empty() { 0 } else { pid::current() };
        self.shared.aside_in.store(process, Ordering::Relaxed);
    }

    #[inline]
    fn take_aside(&self) -> Option<Vec<u8>> {
        if !self.has_aside() {
            return None;
        }
        let mut aside = self.shared.aside.lock();
        let taken = aside.pop_front();
        self.note_aside(&aside);
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
            "a handle cannot lie in a queue: pass it as an argument, or through a connection",
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
fn decode_by<T>(decode: impl FnOnce() -> Result<T, codec::Reason>) -> Result<T> {
    // No descriptors came with it; those of a value that is being decoded around this call are not its own.
    let decoded = match may_hold_handles::<T>() {
        true => handle::provide(Vec::new(), decode),
        false => decode(),
    };
    decoded.map_err(|reason| {
        let message = format!("failed to decode an item of a queue: {reason}");
        Error::new(ErrorKind::Codec, message)
    })
}

/// A handle closes something when it is dropped.
const fn may_hold_handles<T>() -> bool {
    mem::needs_drop::<T>()
}

impl Batch {
    /// Ends an item.
    fn end(&mut self) {
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
    // In a box: taking it and putting it back is then a word each.
    static KEPT_BUFFER: Cell<Option<Box<Batch>>> = const { Cell::new(None) };
}

/// This thread's memory for encoded items; a second one if user code that is called meanwhile uses a queue itself.
struct Buffer(Option<Box<Batch>>);

impl Buffer {
    #[inline]
    fn take() -> Self {
        // A thread that ends has none any more.
        let kept = KEPT_BUFFER.try_with(Cell::take).ok().flatten();
        Self(Some(kept.unwrap_or_default()))
    }
}

impl Deref for Buffer {
    type Target = Batch;

    #[inline]
    fn deref(&self) -> &Batch {
        self.0.as_ref().expect("there until the drop")
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut Batch {
        self.0.as_mut().expect("there until the drop")
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        let Some(mut batch) = self.0.take() else {
            return;
        };
        if batch.bytes.capacity() <= KEPT && batch.ends.capacity() <= KEPT / size_of::<usize>() {
            batch.clear();
            // As above.
            let _ = KEPT_BUFFER.try_with(|it| it.set(Some(batch)));
        }
    }
}
