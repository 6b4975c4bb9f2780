//! Reading and writing shared memory: atomics and copies, never a reference to plain bytes.
//!
//! Another process may change the bytes at any time. Copies in and out are therefore raw, what was copied out is checked
//! before it is believed, and words that both sides use are atomics. That a peer which breaks the protocol can tear a copy
//! is accepted: the result is bytes that do not decode, in a process that still does what it should.

#![expect(
    unsafe_code,
    reason = "raw access to memory that other processes change"
)]

use crate::sys::memory::Mapping;
use crate::wire::codec::Input;
use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
    ptr,
    sync::atomic::{AtomicU32, AtomicU64},
};

/// The bytes of one mapping. Clones see the same.
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

    pub(crate) fn length(&self) -> usize {
        self.0.length()
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.0
    }

    /// The word at `offset`, which must be aligned and inside.
    #[inline]
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        let word = self.place(offset, size_of::<AtomicU32>());
        assert!(
            offset.is_multiple_of(align_of::<AtomicU32>()),
            "word at {offset} is not aligned"
        );
        // SAFETY: inside the mapping and aligned, as was just checked; any bits are a valid atomic, every process uses it
        // as an atomic only, and the borrow of `self` keeps it mapped.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    /// The double word at `offset`, which must be aligned and inside.
    #[inline]
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        let word = self.place(offset, size_of::<AtomicU64>());
        assert!(
            offset.is_multiple_of(align_of::<AtomicU64>()),
            "word at {offset} is not aligned"
        );
        // SAFETY: as for `atomic_u32`.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// Copies `bytes` to `offset`.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.place(offset, bytes.len());
        // SAFETY: the range is inside the mapping, as was just checked, and no slice of this process lies in a mapping.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Appends `length` bytes from `offset` to `into`.
    pub(crate) fn copy_out(&self, offset: usize, length: usize, into: &mut Vec<u8>) {
        into.reserve(length);
        self.cursor(offset, length).append_to(into);
    }

    /// Reads `length` bytes from `offset` one after the other.
    pub(crate) fn cursor(&self, offset: usize, length: usize) -> Cursor<'_> {
        let next = self.place(offset, length).cast_const();
        Cursor {
            next,
            left: length,
            bytes: PhantomData,
        }
    }

    /// The address of a range, which must be inside the mapping.
    #[inline]
    fn place(&self, offset: usize, length: usize) -> *mut u8 {
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

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Copies values out of bytes, shared or private, from the first to the last.
pub(crate) struct Cursor<'a> {
    next: *const u8,
    left: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    /// Reads private bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            next: bytes.as_ptr(),
            left: bytes.len(),
            bytes: PhantomData,
        }
    }
}

impl Cursor<'_> {
    /// Appends all that is left to `into`, which must have the capacity.
    fn append_to(&mut self, into: &mut Vec<u8>) {
        let spare = into.spare_capacity_mut();
        assert!(spare.len() >= self.left, "no room for what is to be copied");
        let end = spare.as_mut_ptr().cast();
        // SAFETY: `left` bytes from `next` on are readable, as for `take`, and so many fit behind the vector's end.
        unsafe { ptr::copy_nonoverlapping(self.next, end, self.left) };
        // SAFETY: those bytes have just been written.
        unsafe { into.set_len(into.len() + self.left) };
        self.left = 0;
    }
}

impl Input for Cursor<'_> {
    #[inline]
    fn take(&mut self, into: &mut [u8]) -> bool {
        if into.len() > self.left {
            return false;
        }
        // SAFETY: `left` bytes from `next` on are readable for the lifetime of the cursor, as its constructors know, and
        // `into` is a slice of this process, which never lies among them.
        unsafe { ptr::copy_nonoverlapping(self.next, into.as_mut_ptr(), into.len()) };
        // SAFETY: at most `left` bytes further, so still inside or at the end.
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

    fn left(&self) -> usize {
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
        assert_eq!((&three, cursor.left()), (b"abc", 3));
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
        assert_eq!(segment.view().length(), 1 << 20);
    }

    #[test]
    #[should_panic(expected = "outside of shared memory")]
    fn a_copy_past_the_end_is_refused() {
        let segment = Segment::anonymous(4096).expect("shared memory");
        segment.view().copy_in(4090, b"too long");
    }
}
