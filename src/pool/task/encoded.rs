//! Encoded values on the pool's side: inline if tiny, else on the heap or in a slab.

use crate::shm::{Buffer, Cursor, LivenessToken, SPILL, Slab, SlabSource};
use crate::sys::pid;
use crate::wire::{
    Wire, codec,
    handle::{self, Attached},
};
use parking_lot::Mutex;
use std::{
    cell::RefCell,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

/// The largest value, in bytes, that is stored inline: a payload is then three words.
const INLINE: usize = 22;

/// The largest number of free slabs that a pool keeps; their pages are already mapped.
const MAX_FREE_SLABS: usize = 4;

/// The largest number of slabs in use, as each uses a descriptor. Further values stay private and
/// travel through the pipe.
pub(crate) const MAX_SLABS: usize = 16;

/// Bytes; a larger value always needs a slab, because the length of a frame in the pipe has 32
/// bits.
const MAX_PRIVATE_BYTES: usize = 1 << 30;

/// Bytes that are copied at a time from one slab to another.
const COPY_BYTES: usize = 1 << 20;

/// One encoded value, or the items of a chunk.
#[derive(Debug)]
pub(crate) enum Encoded {
    Inline(u8, [u8; INLINE]),
    Private(Box<[u8]>),
    PoolSlab(Box<PoolSlab>),
    WorkerSlab(Box<WorkerSlab>),
    WithFds(Box<EncodedWithFds>),
}

/// A value with handles in it.
#[derive(Debug)]
pub(crate) struct EncodedWithFds {
    pub(crate) value: Encoded,
    /// The copies that keep the descriptors open as long as the value may be read or sent again.
    pub(crate) descriptors: Vec<Attached>,
}

impl Encoded {
    pub(crate) const EMPTY: Self = Self::Inline(0, [0; INLINE]);

    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        if bytes.len() > INLINE {
            return Self::Private(bytes.into());
        }
        let mut inline = [0; INLINE];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self::Inline(bytes.len() as u8, inline)
    }

    /// Adds the descriptors of the handles in the value.
    pub(crate) fn with_fds(self, descriptors: Vec<Attached>) -> Self {
        if descriptors.is_empty() {
            return self;
        }
        Self::WithFds(Box::new(EncodedWithFds {
            value: self,
            descriptors,
        }))
    }

    pub(crate) fn has_fds(&self) -> bool {
        matches!(self, Self::WithFds(_))
    }

    /// Returns the bytes if they are private.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Inline(length, bytes) => Some(&bytes[..usize::from(*length)]),
            Self::Private(bytes) => Some(bytes),
            Self::PoolSlab(_) | Self::WorkerSlab(_) => None,
            Self::WithFds(with_fds) => with_fds.value.bytes(),
        }
    }

    /// Returns the length of the value in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inline(length, _) => usize::from(*length),
            Self::Private(bytes) => bytes.len(),
            Self::PoolSlab(slab) => slab.length,
            Self::WorkerSlab(slab) => slab.length,
            Self::WithFds(with_fds) => with_fds.value.len(),
        }
    }

    /// Decodes the value.
    pub(crate) fn decode<T: Wire>(&self) -> Result<T, codec::CodecErrorText> {
        match self {
            Self::WithFds(with_fds) => {
                let descriptors = with_fds.descriptors.clone();
                handle::provide(descriptors, || codec::decode(&mut self.cursor()))
            }
            _ => codec::decode(&mut self.cursor()),
        }
    }

    /// Returns the number of the pool's slab that holds the value, if any.
    pub(crate) fn pool_slab(&self) -> Option<u32> {
        match self {
            Self::PoolSlab(slab) => Some(slab.slab().id),
            Self::WithFds(with_fds) => with_fds.value.pool_slab(),
            Self::Inline(..) | Self::Private(_) | Self::WorkerSlab(_) => None,
        }
    }

    fn cursor(&self) -> Cursor<'_> {
        match self {
            Self::Inline(length, bytes) => Cursor::new(&bytes[..usize::from(*length)]),
            Self::Private(bytes) => Cursor::new(bytes),
            Self::PoolSlab(slab) => slab.slab().read(slab.length),
            Self::WorkerSlab(slab) => slab.slab.read(slab.length),
            Self::WithFds(with_fds) => with_fds.value.cursor(),
        }
    }
}

/// An argument in a slab of this pool.
#[derive(Debug)]
pub(crate) struct PoolSlab {
    /// `Some` until drop.
    slab: Option<Slab>,
    pub(crate) length: usize,
    home: Arc<PoolSlabs>,
}

impl PoolSlab {
    pub(crate) fn slab(&self) -> &Slab {
        self.slab.as_ref().expect("the slab is set until drop")
    }

    /// Binds the slab to `worker`, after copying it if it is bound to another worker. Returns false
    /// if the memory for a copy is unavailable.
    pub(crate) fn bind(&mut self, worker: &Arc<LivenessToken>) -> bool {
        let this = Arc::downgrade(worker);
        let is_another = |bound: &Weak<LivenessToken>| !bound.ptr_eq(&this);
        if self.slab().bound_to.as_ref().is_some_and(is_another) {
            let Some(copy) = self.home.take_for(self.length, worker) else {
                return false;
            };
            self.copy_to(&copy);
            let old = self.slab.replace(copy);
            self.home.give_back(old);
        }
        if let Some(slab) = &mut self.slab {
            slab.bound_to = Some(this);
        }
        true
    }

    fn copy_to(&self, copy: &Slab) {
        let mut bytes = Vec::new();
        let mut at = 0;
        while at < self.length {
            bytes.clear();
            let piece = (self.length - at).min(COPY_BYTES);
            self.slab().copy_out(at, piece, &mut bytes);
            copy.write_at(at, &bytes);
            at += piece;
        }
    }
}

impl Drop for PoolSlab {
    fn drop(&mut self) {
        self.home.in_use.fetch_sub(1, Ordering::Relaxed);
        self.home.give_back(self.slab.take());
    }
}

/// A result in a slab of a worker. Dropping it lets the worker reuse the slab.
#[derive(Debug)]
pub(crate) struct WorkerSlab {
    slab: Arc<Slab>,
    length: usize,
    /// The process that owns this value.
    owner: u32,
}

impl WorkerSlab {
    pub(crate) fn new(slab: Arc<Slab>, length: usize) -> Self {
        Self {
            slab,
            length,
            owner: pid::current(),
        }
    }

    /// Appends the whole result to `into`.
    pub(crate) fn copy_out(&self, into: &mut Vec<u8>) {
        self.slab.copy_out(0, self.length, into);
    }
}

impl Drop for WorkerSlab {
    fn drop(&mut self) {
        // In a forked copy the slab still belongs to the pool's process.
        if pid::current() == self.owner {
            self.slab.set_busy(false);
        }
    }
}

/// The slabs for this pool's large arguments.
#[derive(Debug, Default)]
pub(crate) struct PoolSlabs {
    made: AtomicU32,
    /// The number of slabs that values own.
    in_use: AtomicUsize,
    free: Mutex<Vec<Slab>>,
    /// Numbers of dropped slabs that a live worker still has mapped.
    dropped: Mutex<Vec<(Weak<LivenessToken>, u32)>>,
}

impl PoolSlabs {
    /// Returns a slab with room for `bytes` that is bound to `worker` or unbound; creates one if
    /// none is free.
    fn take_for(&self, bytes: usize, worker: &Arc<LivenessToken>) -> Option<Slab> {
        let this = Arc::downgrade(worker);
        let found = {
            let mut free = self.free.lock();
            let fits = |slab: &Slab| {
                let bound_to = slab.bound_to.as_ref();
                bound_to.is_none_or(|it| it.ptr_eq(&this))
            };
            free.iter().position(fits).map(|at| free.swap_remove(at))
        };
        self.with_room(found, bytes)
    }

    fn with_room(&self, found: Option<Slab>, bytes: usize) -> Option<Slab> {
        if let Some(mut slab) = found {
            if slab.reserve(bytes).is_ok() {
                return Some(slab);
            }
            self.give_back(Some(slab));
            return None;
        }
        let id = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        Slab::written_here(id, bytes).ok()
    }

    fn give_back(&self, slab: Option<Slab>) {
        let Some(slab) = slab else { return };
        let mut free = self.free.lock();
        if may_be_reused(&slab) {
            free.push(slab);
        }
        while free.len() > MAX_FREE_SLABS {
            let slab = free.remove(0);
            self.dropped
                .lock()
                .extend(slab.bound_to.map(|worker| (worker, slab.id)));
        }
    }

    /// Returns the dropped slabs that workers must unmap.
    pub(crate) fn take_dropped(&self) -> Vec<(Weak<LivenessToken>, u32)> {
        std::mem::take(&mut *self.dropped.lock())
    }
}

impl SlabSource for PoolSlabs {
    /// Returns the slab that was used last, even if it is bound to a worker, because that worker is
    /// likely to be idle again. `None` if more slabs could exhaust the descriptors.
    fn take(&self, bytes: usize) -> Option<Slab> {
        if self.in_use.load(Ordering::Relaxed) >= MAX_SLABS && bytes < MAX_PRIVATE_BYTES {
            return None;
        }
        let found = {
            let mut free = self.free.lock();
            free.retain(may_be_reused);
            free.pop()
        };
        self.with_room(found, bytes)
    }

    fn give_back(&self, slab: Slab) {
        self.give_back(Some(slab));
    }
}

/// Whether no dead worker has the slab mapped.
fn may_be_reused(slab: &Slab) -> bool {
    let bound_to = slab.bound_to.as_ref();
    bound_to.is_none_or(|worker| worker.strong_count() > 0)
}

/// Returns the value that `buffer` holds last, if it is large.
pub(crate) fn take_large(buffer: &mut Buffer, home: &Arc<PoolSlabs>) -> Option<Encoded> {
    let (slab, length) = buffer.take_slab()?;
    let home = Arc::clone(home);
    home.in_use.fetch_add(1, Ordering::Relaxed);
    Some(Encoded::PoolSlab(Box::new(PoolSlab {
        slab: Some(slab),
        length,
        home,
    })))
}

thread_local! {
    /// A buffer that this thread reuses for each value it encodes.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Encodes one value.
pub(crate) fn encode<T: Wire + 'static>(
    value: &T,
    home: &Arc<PoolSlabs>,
) -> Result<Encoded, codec::CodecErrorText> {
    // Both failures give an empty buffer: a `Serialize` impl that submits a task itself, and a
    // thread whose thread-locals are destroyed, like the main thread in an exit handler.
    let scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    let mut buffer = Buffer::with_memory(scratch, Arc::clone(home) as _);
    let mut descriptors = Vec::new();
    handle::collect(&mut descriptors, || codec::encode(value, &mut buffer))?;
    let large = take_large(&mut buffer, home);
    let encoded = large.unwrap_or_else(|| Encoded::copy_of(buffer.private()));
    let memory = buffer.take_private();
    if memory.capacity() <= 2 * SPILL {
        // Fails only if the thread-locals are destroyed, see above.
        let _ = SCRATCH.try_with(|it| it.replace(memory));
    }
    Ok(encoded.with_fds(descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize, Serializer, ser::Error};

    #[derive(Serialize, Deserialize)]
    struct FailsToEncode(Vec<u64>, #[serde(serialize_with = "refuse")] u8);

    fn refuse<S: Serializer>(_: &u8, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("no"))
    }

    /// Returns slabs with one free slab that is bound to `worker`, and its number.
    fn with_one_free(worker: &Arc<LivenessToken>) -> (Arc<PoolSlabs>, u32) {
        let slabs = Arc::new(PoolSlabs::default());
        let value = vec![0u8; 2 * SPILL];
        let Ok(Encoded::PoolSlab(mut large)) = encode(&value, &slabs) else {
            panic!("a large value is in a slab");
        };
        assert!(large.bind(worker));
        let id = large.slab().id;
        drop(large);
        (slabs, id)
    }

    fn free(slabs: &PoolSlabs) -> Vec<u32> {
        slabs.free.lock().iter().map(|it| it.id).collect()
    }

    #[test]
    fn a_slab_is_kept_when_its_value_cannot_be_encoded() {
        let worker = Arc::new(LivenessToken);
        let (slabs, id) = with_one_free(&worker);
        let refused = encode(&FailsToEncode(vec![0; SPILL], 0), &slabs);
        assert_eq!(refused.err().as_deref(), Some("no"));
        assert_eq!(free(&slabs), [id]);
    }

    #[test]
    fn a_slab_is_kept_when_there_is_no_memory_to_make_it_longer() {
        let worker = Arc::new(LivenessToken);
        let (slabs, id) = with_one_free(&worker);
        // More than the address space holds.
        assert!(slabs.take(1 << 56).is_none());
        assert!(slabs.take_for(1 << 56, &worker).is_none());
        assert_eq!(free(&slabs), [id]);
        assert!(slabs.take(4 << 20).is_some_and(|slab| slab.id == id));
    }
}
