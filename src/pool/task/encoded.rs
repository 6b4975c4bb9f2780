//! Encoded values on the pool's side: inside the task while they are tiny, on the heap, or in a
//! slab.

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

/// Bytes that need no memory of their own: as many as make a payload three words.
const INLINE: usize = 22;

/// Free slabs a pool keeps at most, their memory touched and ready.
const MAX_FREE_SLABS: usize = 4;

/// Slabs in use at most, each of which is a descriptor; further values stay private, and travel
/// through the pipe.
pub(crate) const MAX_SLABS: usize = 16;

/// Bytes; a larger value needs a slab in any case, as the length of a frame in the pipe has 32
/// bits.
const MAX_PRIVATE_BYTES: usize = 1 << 30;

/// Bytes copied at a time from one slab to another.
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
    /// They stay open here until nobody can ask for the value any more.
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

    /// The same, with the descriptors of the handles in it.
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

    /// The bytes, when they are private.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Inline(length, bytes) => Some(&bytes[..usize::from(*length)]),
            Self::Private(bytes) => Some(bytes),
            Self::PoolSlab(_) | Self::WorkerSlab(_) => None,
            Self::WithFds(handled) => handled.value.bytes(),
        }
    }

    /// Bytes of the value.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inline(length, _) => usize::from(*length),
            Self::Private(bytes) => bytes.len(),
            Self::PoolSlab(ours) => ours.length,
            Self::WorkerSlab(theirs) => theirs.length,
            Self::WithFds(handled) => handled.value.len(),
        }
    }

    /// Decodes the value.
    pub(crate) fn decode<T: Wire>(&self) -> Result<T, codec::CodecErrorText> {
        match self {
            Self::WithFds(handled) => {
                let descriptors = handled.descriptors.clone();
                handle::provide(descriptors, || codec::decode(&mut self.cursor()))
            }
            _ => codec::decode(&mut self.cursor()),
        }
    }

    /// The number of the slab of ours that it lies in, if it does.
    pub(crate) fn pool_slab(&self) -> Option<u32> {
        match self {
            Self::PoolSlab(ours) => Some(ours.slab().id),
            Self::WithFds(handled) => handled.value.pool_slab(),
            Self::Inline(..) | Self::Private(_) | Self::WorkerSlab(_) => None,
        }
    }

    fn cursor(&self) -> Cursor<'_> {
        match self {
            Self::Inline(length, bytes) => Cursor::new(&bytes[..usize::from(*length)]),
            Self::Private(bytes) => Cursor::new(bytes),
            Self::PoolSlab(ours) => ours.slab().read(ours.length),
            Self::WorkerSlab(theirs) => theirs.slab.read(theirs.length),
            Self::WithFds(handled) => handled.value.cursor(),
        }
    }
}

/// An argument in a slab that this pool made.
#[derive(Debug)]
pub(crate) struct PoolSlab {
    /// Always there until it is dropped.
    slab: Option<Slab>,
    pub(crate) length: usize,
    home: Arc<PoolSlabs>,
}

impl PoolSlab {
    pub(crate) fn slab(&self) -> &Slab {
        self.slab.as_ref().expect("it is there until it is dropped")
    }

    /// Makes this a slab of the given worker's, by a copy if it was another's. False when there is
    /// no memory for that.
    pub(crate) fn bind(&mut self, worker: &Arc<LivenessToken>) -> bool {
        let this = Arc::downgrade(worker);
        let is_another = |it: &Weak<LivenessToken>| !it.ptr_eq(&this);
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

/// A result in a slab that a worker made. The worker may use the slab again once this is dropped.
#[derive(Debug)]
pub(crate) struct WorkerSlab {
    slab: Arc<Slab>,
    length: usize,
    /// The process whose it is.
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
        // In a copy made by `fork` the memory is still the pool's.
        if pid::current() == self.owner {
            self.slab.set_busy(false);
        }
    }
}

/// The slabs for this pool's large arguments.
#[derive(Debug, Default)]
pub(crate) struct PoolSlabs {
    made: AtomicU32,
    /// Slabs that payloads own.
    in_use: AtomicUsize,
    free: Mutex<Vec<Slab>>,
    /// Numbers of dropped slabs that a living worker still has mapped.
    dropped: Mutex<Vec<(Weak<LivenessToken>, u32)>>,
}

impl PoolSlabs {
    /// A free slab with room for `bytes` that is this worker's or nobody's, else a new one.
    fn take_for(&self, bytes: usize, worker: &Arc<LivenessToken>) -> Option<Slab> {
        let this = Arc::downgrade(worker);
        let found = {
            let mut free = self.free.lock();
            let fits = |it: &Slab| it.bound_to.as_ref().is_none_or(|it| it.ptr_eq(&this));
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
        if slab
            .bound_to
            .as_ref()
            .is_none_or(|it| it.strong_count() > 0)
        {
            free.push(slab);
        }
        while free.len() > MAX_FREE_SLABS {
            let slab = free.remove(0);
            self.dropped
                .lock()
                .extend(slab.bound_to.map(|it| (it, slab.id)));
        }
    }

    /// The dropped slabs that workers have yet to unmap.
    pub(crate) fn take_dropped(&self) -> Vec<(Weak<LivenessToken>, u32)> {
        std::mem::take(&mut *self.dropped.lock())
    }
}

impl SlabSource for PoolSlabs {
    /// The slab used last, whoever's it is: its worker is likely to be free again. None when so
    /// many are in use that descriptors might run out.
    fn take(&self, bytes: usize) -> Option<Slab> {
        if self.in_use.load(Ordering::Relaxed) >= MAX_SLABS && bytes < MAX_PRIVATE_BYTES {
            return None;
        }
        let found = {
            let mut free = self.free.lock();
            free.retain(|it| it.bound_to.as_ref().is_none_or(|it| it.strong_count() > 0));
            free.pop()
        };
        self.with_room(found, bytes)
    }

    fn give_back(&self, slab: Slab) {
        self.give_back(Some(slab));
    }
}

/// Makes a payload of the value that `buffer` holds last, if it is large.
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
    /// Memory for the next value that this thread encodes.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Encodes one value.
pub(crate) fn encode<T: Wire + 'static>(
    value: &T,
    home: &Arc<PoolSlabs>,
) -> Result<Encoded, codec::CodecErrorText> {
    // A `Serialize` that submits a task itself finds fresh memory, and so does a thread whose
    // locals are gone: the main thread's are in an exit handler.
    let scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    let mut buffer = Buffer::with_memory(scratch, Arc::clone(home) as _);
    let mut descriptors = Vec::new();
    handle::collect(&mut descriptors, || codec::encode(value, &mut buffer))?;
    let large = take_large(&mut buffer, home);
    let payload = large.unwrap_or_else(|| Encoded::copy_of(buffer.private()));
    let memory = buffer.take_private();
    if memory.capacity() <= 2 * SPILL {
        // As above.
        let _ = SCRATCH.try_with(|it| it.replace(memory));
    }
    Ok(payload.with_fds(descriptors))
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

    /// Slabs of which one, with this number, is free and a worker's.
    fn with_one_free(worker: &Arc<LivenessToken>) -> (Arc<PoolSlabs>, u32) {
        let slabs = Arc::new(PoolSlabs::default());
        let value = vec![0u8; 2 * SPILL];
        let Ok(Encoded::PoolSlab(mut large)) = encode(&value, &slabs) else {
            panic!("a large value lies in a slab");
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
        // More than addresses can tell apart.
        assert!(slabs.take(1 << 56).is_none());
        assert!(slabs.take_for(1 << 56, &worker).is_none());
        assert_eq!(free(&slabs), [id]);
        assert!(slabs.take(4 << 20).is_some_and(|it| it.id == id));
    }
}
