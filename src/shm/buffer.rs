//! Where a value is encoded: private memory while it is small, a slab when it is not.

use crate::{shm::Slab, wire::codec::Output};

/// Bytes; from here on a payload travels in shared memory. Below, a copy through a pipe or ring costs less than the
/// bookkeeping (benches/pool.rs, group `payload`).
const SPILL: usize = 64 << 10;

/// Where a buffer gets a slab from when it needs one.
pub(crate) trait Slabs {
    /// A free slab with room for `bytes`; none when there is no memory.
    fn take(&self, bytes: usize) -> Option<Slab>;
}

/// Bytes on their way, appended one encoded value after the other.
pub(crate) struct Buffer<'a> {
    /// All bytes, while there is no slab.
    private: Vec<u8>,
    /// All bytes, once there is one, and how many.
    slab: Option<(Slab, usize)>,
    slabs: &'a dyn Slabs,
}

/// What a buffer holds in the end.
pub(crate) enum Encoded {
    Private(Vec<u8>),
    Slab(Slab, usize),
}

impl<'a> Buffer<'a> {
    /// Starts with an empty vector, or a used one whose memory is to be used again.
    pub(crate) fn new(mut private: Vec<u8>, slabs: &'a dyn Slabs) -> Self {
        private.clear();
        Self {
            private,
            slab: None,
            slabs,
        }
    }

    pub(crate) fn finish(self) -> Encoded {
        match self.slab {
            Some((slab, length)) => Encoded::Slab(slab, length),
            None => Encoded::Private(self.private),
        }
    }

    /// Moves everything to a slab that has room for `more` bytes besides.
    #[cold]
    fn spill(&mut self, more: usize) -> bool {
        let Some(needed) = self.private.len().checked_add(more) else {
            return false;
        };
        let Some(slab) = self.slabs.take(needed) else {
            return false;
        };
        slab.write_at(0, &self.private);
        self.slab = Some((slab, self.private.len()));
        self.private = Vec::new();
        true
    }

    #[cold]
    fn put_shared(&mut self, bytes: &[u8]) -> bool {
        if self.slab.is_none() && !self.spill(bytes.len()) {
            return false;
        }
        let Some((slab, length)) = &mut self.slab else {
            return false;
        };
        let Some(end) = length.checked_add(bytes.len()) else {
            return false;
        };
        if slab.reserve(end).is_err() {
            return false;
        }
        slab.write_at(*length, bytes);
        *length = end;
        true
    }
}

impl Output for Buffer<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> bool {
        if self.slab.is_some() || self.private.len() + bytes.len() > SPILL {
            return self.put_shared(bytes);
        }
        self.private.extend_from_slice(bytes);
        true
    }
}
