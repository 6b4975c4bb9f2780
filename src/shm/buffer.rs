//! A buffer for encoded values: private memory for small values, a slab for a large one.

use crate::shm::Slab;
use crate::wire::codec::ByteSink;
use std::{fmt, mem, sync::Arc};

/// Bytes; a larger value travels in shared memory. Up to this length, a copy through a pipe or a
/// ring costs less than the bookkeeping (benches/pool.rs, group `payload`).
pub(crate) const SPILL: usize = 64 << 10;

/// Maximum bytes in private memory when no slab is available: the length of a frame has 32 bits.
const MAX_PRIVATE_BYTES: usize = 2 << 30;

/// The source of a buffer's slabs.
pub(crate) trait SlabSource: Send + Sync {
    /// Returns a free slab with room for `bytes`; `None` if the value must stay private.
    fn take(&self, bytes: usize) -> Option<Slab>;

    /// Takes back a slab whose value is not needed. The peer may have it mapped, so dropping it is
    /// not enough.
    fn give_back(&self, slab: Slab);
}

/// Creates a slab for each large value.
pub(crate) struct FreshSlabs;

impl SlabSource for FreshSlabs {
    fn take(&self, bytes: usize) -> Option<Slab> {
        Slab::new(0, bytes).ok()
    }

    fn give_back(&self, _slab: Slab) {}
}

/// Encoded values in a row. The last one may be in a slab.
pub(crate) struct Buffer {
    private: Vec<u8>,
    /// The offset of the last value.
    start: usize,
    /// The maximum length of `private`, above which the last value moves to a slab.
    limit: usize,
    /// The last value, if it is large, and its length in bytes.
    slab: Option<(Slab, usize)>,
    slabs: Arc<dyn SlabSource>,
}

impl Buffer {
    pub(crate) fn new(slabs: Arc<dyn SlabSource>) -> Self {
        Self::with_memory(Vec::new(), slabs)
    }

    /// Creates an empty buffer that reuses the memory of a vector.
    pub(crate) fn with_memory(mut private: Vec<u8>, slabs: Arc<dyn SlabSource>) -> Self {
        private.clear();
        Self {
            private,
            start: 0,
            limit: SPILL,
            slab: None,
            slabs,
        }
    }

    /// Removes all values and keeps the memory.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.truncate(0);
        self.begin_value();
    }

    /// Starts a value after the existing ones, which must be private.
    #[inline]
    pub(crate) fn begin_value(&mut self) {
        debug_assert!(self.slab.is_none(), "a large value must be the last one");
        self.start = self.private.len();
        self.limit = self.start + SPILL;
    }

    /// Truncates the buffer to the first `length` private bytes.
    #[inline]
    pub(crate) fn truncate(&mut self, length: usize) {
        self.private.truncate(length);
        if let Some((slab, _)) = self.slab.take() {
            self.slabs.give_back(slab);
        }
    }

    /// Returns all private bytes.
    #[inline]
    pub(crate) fn private(&self) -> &[u8] {
        &self.private
    }

    /// Returns all private bytes mutably, to fill in fields that were left open.
    pub(crate) fn private_mut(&mut self) -> &mut [u8] {
        &mut self.private
    }

    /// Takes all private bytes with their memory.
    pub(crate) fn take_private(&mut self) -> Vec<u8> {
        let taken = mem::take(&mut self.private);
        self.begin_value();
        taken
    }

    /// Whether the last value is large.
    #[inline]
    pub(crate) fn is_large(&self) -> bool {
        self.slab.is_some()
    }

    /// Takes the last value if it is large, with its length in bytes.
    #[inline]
    pub(crate) fn take_slab(&mut self) -> Option<(Slab, usize)> {
        self.slab.take()
    }

    #[cold]
    fn put_in_slab(&mut self, bytes: &[u8]) -> bool {
        if self.slab.is_none() {
            self.spill(bytes.len());
        }
        let Some((slab, length)) = &mut self.slab else {
            // No slab is available: the value stays private, at any size.
            self.limit = usize::MAX;
            let has_room = self.private.len() + bytes.len() <= MAX_PRIVATE_BYTES
                && self.private.try_reserve(bytes.len()).is_ok();
            if has_room {
                self.private.extend_from_slice(bytes);
            }
            return has_room;
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

    /// Moves the last value to a slab with room for `more` further bytes.
    fn spill(&mut self, more: usize) {
        let value = &self.private[self.start..];
        let needed = value.len().checked_add(more);
        let Some(slab) = needed.and_then(|it| self.slabs.take(it)) else {
            return;
        };
        slab.write_at(0, value);
        self.slab = Some((slab, value.len()));
        self.private.truncate(self.start);
        // No length is below this limit, so all further bytes go to the slab.
        self.limit = 0;
    }
}

impl ByteSink for Buffer {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> bool {
        if self.private.len() + bytes.len() > self.limit {
            return self.put_in_slab(bytes);
        }
        self.private.extend_from_slice(bytes);
        true
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("private", &self.private.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct FreshSlab {
        given_back: AtomicU32,
    }

    impl SlabSource for FreshSlab {
        fn take(&self, bytes: usize) -> Option<Slab> {
            Slab::new(1, bytes).ok()
        }

        fn give_back(&self, slab: Slab) {
            self.given_back.fetch_add(slab.id, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_slab_whose_value_is_not_wanted_is_given_back() {
        let slabs = Arc::new(FreshSlab::default());
        let mut buffer = Buffer::new(Arc::clone(&slabs) as _);
        for length in [0, 3] {
            assert!(buffer.put(&vec![b'x'; SPILL + 1]));
            buffer.truncate(length);
            buffer.begin_value();
        }
        assert_eq!(slabs.given_back.load(Ordering::Relaxed), 2);
        assert!(buffer.put(&vec![b'x'; SPILL + 1]));
        drop(buffer);
        assert_eq!(slabs.given_back.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_large_value_goes_to_a_slab_and_leaves_those_before_it() {
        let mut buffer = Buffer::new(Arc::new(FreshSlab::default()));
        assert!(buffer.put(b"small"));
        buffer.begin_value();
        assert!(buffer.put(b"ab") && buffer.put(&vec![b'x'; SPILL]) && buffer.put(b"cd"));
        let (slab, length) = buffer.take_slab().expect("a large value");
        let mut bytes = Vec::new();
        slab.copy_out(0, length, &mut bytes);
        assert_eq!(
            (&bytes[..2], &bytes[length - 2..], length),
            (&b"ab"[..], &b"cd"[..], SPILL + 4)
        );
        assert_eq!(buffer.private(), b"small");
        buffer.begin_value();
        assert!(buffer.put(b"er") && buffer.take_slab().is_none());
        assert_eq!(buffer.private(), b"smaller");
    }
}
