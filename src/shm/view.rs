//! Access to shared memory: atomics and copies, never a reference to plain bytes.
//!
//! Another process may change the bytes at any time. Copies in and out are therefore raw, copied
//! data is checked before use, and words that both sides use are atomics. A peer that breaks the
//! protocol can tear a copy. This is accepted: the result is bytes that do not decode, in a process
//! that stays correct. The exception is plain data protected by a mutex, [`Cells`].

#![expect(
    unsafe_code,
    reason = "raw access to memory that other processes change"
)]

mod cells;

pub(crate) use self::cells::{Cells, CellsError, CellsGuard};
use crate::sys::memory::Mapping;
use crate::wire::codec::ByteSource;
use std::{
    fmt, io,
    marker::PhantomData,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    ptr,
    sync::atomic::{
        AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32,
        AtomicU64, AtomicUsize,
    },
};

/// The bytes of one mapping. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct View(Mapping);

impl View {
    pub(super) fn new(mapping: Mapping) -> Self {
        Self(mapping)
    }

    pub(super) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        self.0.grow(bytes)
    }

    pub(super) fn follow_growth(&mut self) -> io::Result<()> {
        self.0.follow_growth()
    }

    pub(super) fn close_file(&mut self) {
        self.0.close_file();
    }

    /// Maps another part of the same file, which must start at a page boundary.
    pub(crate) fn map_part(&self, part: Range<usize>) -> io::Result<Self> {
        let mapping = Mapping::part(self.0.file().clone(), part.start, part.len());
        mapping.map(Self)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.length()
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.0
    }

    /// Returns the word at `offset`, which must be aligned and inside the mapping.
    #[inline]
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        self.word(offset)
    }

    /// Returns the double word at `offset`, which must be aligned and inside the mapping.
    #[inline]
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        self.word(offset)
    }

    /// Returns the atomic at `offset`, which must be aligned and inside the mapping.
    #[inline]
    pub(crate) fn word<W: AtomicWord>(&self, offset: usize) -> &W {
        let word = self.checked_ptr(offset, size_of::<W>());
        assert!(
            offset.is_multiple_of(align_of::<W>()),
            "word at {offset} is not aligned"
        );
        // SAFETY: inside the mapping and aligned, as was just checked; any bits are a valid atomic,
        // every process uses it as an atomic only, and the borrow of `self` keeps it mapped.
        unsafe { &*word.cast::<W>() }
    }

    /// Returns the double words from `offset` on, which must be aligned and inside the mapping.
    #[inline]
    pub(crate) fn atomic_u64s<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        let words = self.checked_ptr(offset, size_of::<[AtomicU64; N]>());
        assert!(
            offset.is_multiple_of(align_of::<AtomicU64>()),
            "words at {offset} are not aligned"
        );
        // SAFETY: like in `word`, for each of them.
        unsafe { &*words.cast() }
    }

    /// Copies `bytes` to `offset`.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.checked_ptr(offset, bytes.len());
        // SAFETY: the range is inside the mapping, as was just checked. No slice of this process
        // overlaps it: `Cells` gives out slices only of objects into which nothing is copied.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Appends `length` bytes from `offset` to `into`.
    pub(crate) fn copy_out(&self, offset: usize, length: usize, into: &mut Vec<u8>) {
        into.reserve(length);
        self.cursor(offset, length).append_to(into);
    }

    /// Returns a cursor over `length` bytes from `offset`.
    pub(crate) fn cursor(&self, offset: usize, length: usize) -> Cursor<'_> {
        let next = self.checked_ptr(offset, length).cast_const();
        Cursor {
            next,
            left: length,
            bytes: PhantomData,
        }
    }

    /// Returns the address of a range, which must be inside the mapping.
    #[inline]
    fn checked_ptr(&self, offset: usize, length: usize) -> *mut u8 {
        let inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.0.length());
        assert!(
            inside,
            "{length} bytes at {offset} are outside of shared memory"
        );
        // SAFETY: the offset is at most the length of the mapping, as was just checked.
        unsafe { self.0.start().as_ptr().add(offset) }
    }
}

/// The atomic integers.
///
/// # Safety
///
/// Any bits are a valid value, and all operations are atomic without a lock. A lock would be
/// unknown to other processes.
pub(crate) unsafe trait AtomicWord {}

macro_rules! words {
    ($($word:ty)*) => {
        $(
            // SAFETY: the standard library guarantees this for its atomic integers.
            unsafe impl AtomicWord for $word {}
        )*
    };
}
words!(AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize);
words!(AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize);

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Copies values out of shared or private bytes, from the first to the last.
pub(crate) struct Cursor<'a> {
    next: *const u8,
    left: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    /// Creates a cursor over private bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            next: bytes.as_ptr(),
            left: bytes.len(),
            bytes: PhantomData,
        }
    }
}

impl Cursor<'_> {
    /// Appends all remaining bytes to `into`, which must have the capacity.
    fn append_to(&mut self, into: &mut Vec<u8>) {
        let spare = into.spare_capacity_mut();
        assert!(spare.len() >= self.left, "the vector lacks the capacity");
        let end = spare.as_mut_ptr().cast();
        // SAFETY: `left` bytes from `next` on are readable, like in `take`, and fit into the spare
        // capacity, as was just checked.
        unsafe { ptr::copy_nonoverlapping(self.next, end, self.left) };
        // SAFETY: those bytes have just been written.
        unsafe { into.set_len(into.len() + self.left) };
        self.left = 0;
    }
}

impl ByteSource for Cursor<'_> {
    #[inline]
    fn take(&mut self, into: &mut [u8]) -> bool {
        if into.len() > self.left {
            return false;
        }
        // SAFETY: `left` bytes from `next` on are readable for the lifetime of the cursor, which
        // its constructors guarantee. `into` is a slice of this process, which never overlaps them
        // (see `copy_in`).
        unsafe { ptr::copy_nonoverlapping(self.next, into.as_mut_ptr(), into.len()) };
        // SAFETY: at most `left` bytes further, so inside the bytes or at their end.
        self.next = unsafe { self.next.add(into.len()) };
        self.left -= into.len();
        true
    }

    fn take_all(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.left).ok()?;
        self.append_to(&mut bytes);
        Some(bytes)
    }

    fn remaining(&self) -> usize {
        self.left
    }
}

impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Segment;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let segment = Segment::anonymous(4096).expect("shared memory");
        segment.view().copy_in(100, b"abcdef");
        let mut out = vec![b'>'];
        segment.view().copy_out(101, 4, &mut out);
        assert_eq!(out, b">bcde");
        let mut three = [0; 3];
        let mut cursor = segment.view().cursor(100, 6);
        assert!(cursor.take(&mut three));
        assert_eq!((&three, cursor.remaining()), (b"abc", 3));
        assert!(!cursor.take(&mut [0; 4]));
    }

    #[test]
    fn growth_keeps_what_was_there() {
        let mut segment = Segment::anonymous(4096).expect("shared memory");
        segment.view().copy_in(4000, b"kept");
        segment.grow(1 << 20).expect("growth");
        let mut out = Vec::new();
        segment.view().copy_out(4000, 4, &mut out);
        assert_eq!(out, b"kept");
        assert_eq!(segment.view().len(), 1 << 20);
    }

    #[test]
    #[should_panic(expected = "outside of shared memory")]
    fn a_copy_past_the_end_is_refused() {
        let segment = Segment::anonymous(4096).expect("shared memory");
        segment.view().copy_in(4090, b"too long");
    }
}
