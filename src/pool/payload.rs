//! Encoded values on the pool's side: inside the task while they are tiny, on the heap, or in a slab.

use crate::shm::{Buffer, Cursor, Encoded, Slab, Slabs};
use parking_lot::Mutex;
use std::{
    cell::RefCell,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// Bytes that need no memory of their own: as many as make a payload three words.
const INLINE: usize = 22;

/// Free slabs a pool keeps at most, their memory touched and ready.
const FREE_SLABS: usize = 4;

/// One encoded value, or the items of a chunk.
#[derive(Debug)]
pub(super) enum Payload {
    Inline(u8, [u8; INLINE]),
    Private(Box<[u8]>),
    Ours(Box<OurSlab>),
    Theirs(Box<TheirSlab>),
}

impl Payload {
    pub(super) const EMPTY: Self = Self::Inline(0, [0; INLINE]);

    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        if bytes.len() > INLINE {
            return Self::Private(bytes.into());
        }
        let mut inline = [0; INLINE];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self::Inline(bytes.len() as u8, inline)
    }

    /// The bytes, when they are private.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Inline(length, bytes) => Some(&bytes[..usize::from(*length)]),
            Self::Private(bytes) => Some(bytes),
            Self::Ours(_) | Self::Theirs(_) => None,
        }
    }

    pub(super) fn cursor(&self) -> Cursor<'_> {
        match self {
            Self::Inline(length, bytes) => Cursor::new(&bytes[..usize::from(*length)]),
            Self::Private(bytes) => Cursor::new(bytes),
            Self::Ours(ours) => ours.slab().read(ours.length),
            Self::Theirs(theirs) => theirs.slab.read(theirs.length),
        }
    }
}

/// An argument in a slab that this pool made.
#[derive(Debug)]
pub(super) struct OurSlab {
    /// Always there until it is dropped.
    slab: Option<Slab>,
    pub(super) length: usize,
    /// The worker that may have it mapped. No other is ever given the slab, and nobody after that one's death: a process
    /// that it left behind may still write to it.
    bound_to: Option<Weak<Life>>,
    home: Arc<PoolSlabs>,
}

impl OurSlab {
    pub(super) fn slab(&self) -> &Slab {
        self.slab.as_ref().expect("it is there until it is dropped")
    }

    /// Makes this a slab of the given worker's, by a copy if it was another's. False when there is no memory for that.
    pub(super) fn bind(&mut self, worker: &Arc<Life>) -> bool {
        let this = Arc::downgrade(worker);
        match &self.bound_to {
            None => self.bound_to = Some(this),
            Some(bound) if bound.ptr_eq(&this) => {}
            Some(_) => {
                let Some((copy, bound_to)) = self.home.take_for(self.length, worker) else {
                    return false;
                };
                let mut bytes = Vec::new();
                let mut at = 0;
                while at < self.length {
                    bytes.clear();
                    let piece = (self.length - at).min(1 << 20);
                    self.slab().copy_out(at, piece, &mut bytes);
                    copy.write_at(at, &bytes);
                    at += piece;
                }
                let old = self.slab.replace(copy);
                let bound_before = self.bound_to.replace(bound_to.unwrap_or(this));
                self.home.give_back(old, bound_before);
            }
        }
        true
    }
}

impl Drop for OurSlab {
    fn drop(&mut self) {
        self.home.give_back(self.slab.take(), self.bound_to.take());
    }
}

/// A result in a slab that a worker made. The worker may use the slab again once this is dropped.
#[derive(Debug)]
pub(super) struct TheirSlab {
    pub(super) slab: Arc<Slab>,
    pub(super) length: usize,
}

impl Drop for TheirSlab {
    fn drop(&mut self) {
        self.slab.set_busy(false);
    }
}

/// Lives as long as one worker process is believed to.
#[derive(Debug)]
pub(super) struct Life;

/// The slabs for this pool's large arguments.
#[derive(Debug, Default)]
pub(super) struct PoolSlabs {
    made: AtomicU32,
    free: Mutex<Vec<(Slab, Option<Weak<Life>>)>>,
    /// Dropped slabs that a living worker still has mapped.
    dropped: Mutex<Vec<(Weak<Life>, u32)>>,
}

impl PoolSlabs {
    /// A free slab with room for `bytes` that is this worker's or nobody's, else a new one.
    fn take_for(&self, bytes: usize, worker: &Arc<Life>) -> Option<(Slab, Option<Weak<Life>>)> {
        let this = Arc::downgrade(worker);
        let found = {
            let mut free = self.free.lock();
            let at = free
                .iter()
                .position(|(_, it)| it.as_ref().is_none_or(|it| it.ptr_eq(&this)));
            at.map(|at| free.swap_remove(at))
        };
        self.with_room(found, bytes)
    }

    /// A free slab, if possible one that is not bound to a worker other than the last one used.
    fn take_any(&self, bytes: usize) -> Option<(Slab, Option<Weak<Life>>)> {
        let found = {
            let mut free = self.free.lock();
            free.retain(|(_, bound)| bound.as_ref().is_none_or(|it| it.strong_count() > 0));
            free.pop()
        };
        self.with_room(found, bytes)
    }

    fn with_room(
        &self,
        found: Option<(Slab, Option<Weak<Life>>)>,
        bytes: usize,
    ) -> Option<(Slab, Option<Weak<Life>>)> {
        if let Some((mut slab, bound)) = found {
            slab.reserve(bytes).ok()?;
            return Some((slab, bound));
        }
        let id = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        Some((Slab::new(id, bytes).ok()?, None))
    }

    fn give_back(&self, slab: Option<Slab>, bound_to: Option<Weak<Life>>) {
        let Some(slab) = slab else { return };
        let alive = bound_to.as_ref().is_none_or(|it| it.strong_count() > 0);
        let mut free = self.free.lock();
        if alive {
            free.push((slab, bound_to));
        }
        while free.len() > FREE_SLABS {
            let (slab, bound_to) = free.remove(0);
            self.dropped.lock().extend(bound_to.map(|it| (it, slab.id)));
        }
    }

    /// The dropped slabs that workers have yet to unmap.
    pub(super) fn take_dropped(&self) -> Vec<(Weak<Life>, u32)> {
        std::mem::take(&mut *self.dropped.lock())
    }
}

thread_local! {
    /// Memory for the next value that this thread encodes.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What was encoded: a few bytes in the caller's memory, or a payload that needs no copy.
pub(super) enum Fresh {
    Small(Vec<u8>),
    Large(Payload),
}

/// Encodes, into `memory` as long as it is little.
pub(super) fn encode_into<E>(
    memory: Vec<u8>,
    slabs: &Arc<PoolSlabs>,
    encode: impl FnOnce(&mut Buffer<'_>) -> Result<(), E>,
) -> Result<Fresh, E> {
    let source = Source {
        slabs,
        bound_to: RefCell::new(None),
    };
    let mut buffer = Buffer::new(memory, &source);
    let outcome = encode(&mut buffer);
    let fresh = match buffer.finish() {
        Encoded::Private(bytes) => Fresh::Small(bytes),
        Encoded::Slab(slab, length) => {
            let (bound_to, home) = (source.bound_to.take(), Arc::clone(slabs));
            Fresh::Large(Payload::Ours(Box::new(OurSlab {
                slab: Some(slab),
                length,
                bound_to,
                home,
            })))
        }
    };
    outcome.map(|()| fresh)
}

/// Encodes one value.
///
/// `encode` may itself come by here (a `Serialize` that submits a task): then it finds fresh memory.
pub(super) fn encoded<E>(
    slabs: &Arc<PoolSlabs>,
    encode: impl FnOnce(&mut Buffer<'_>) -> Result<(), E>,
) -> Result<Payload, E> {
    let scratch = SCRATCH.take();
    match encode_into(scratch, slabs, encode)? {
        Fresh::Large(payload) => Ok(payload),
        Fresh::Small(bytes) => {
            let payload = Payload::copy_of(&bytes);
            SCRATCH.set(bytes);
            Ok(payload)
        }
    }
}

/// Remembers whose the slab is that a buffer took.
struct Source<'a> {
    slabs: &'a PoolSlabs,
    bound_to: RefCell<Option<Weak<Life>>>,
}

impl Slabs for Source<'_> {
    fn take(&self, bytes: usize) -> Option<Slab> {
        let (slab, bound_to) = self.slabs.take_any(bytes)?;
        *self.bound_to.borrow_mut() = bound_to;
        Some(slab)
    }
}
