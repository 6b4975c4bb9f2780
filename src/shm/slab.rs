//! A segment that carries large payloads, one after the other.
//!
//! Fresh shared memory is slower than a pipe at every size, because the kernel zeroes each page at
//! its first use. Memory that both sides have mapped and used costs only the copy. The side that
//! created a slab decides its next use. One word at its start tells whether the other
//! side is still reading:
//!
//! | `busy` | meaning | stored by |
//! |---|---|---|
//! | 1 | it holds a payload | the creator, before it tells the reader |
//! | 0 | it is free | the reader after reading, or the creator to drop the payload |

use crate::error::{Error, Result};
use crate::shm::{Cursor, Segment};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// Bytes before the payload: a cache line for `busy` and two published numbers.
const HEADER: usize = 64;

/// The offsets of the published numbers.
const FIRST: usize = 8;
const SECOND: usize = 16;

/// Bytes; the length of a slab is a multiple of this, so that a slab is rarely a little too short.
const LEN_MULTIPLE: usize = 1 << 20;

/// Returns the length in bytes of a segment with room for a payload of `bytes`.
fn with_header(bytes: usize) -> usize {
    (HEADER + bytes).next_multiple_of(LEN_MULTIPLE)
}

/// Lives while a process is believed to live.
#[derive(Debug)]
pub(crate) struct LivenessToken;

/// A reusable segment. Both sides know it by the number that its creator gave it.
#[derive(Debug)]
pub(crate) struct Slab {
    pub(crate) id: u32,
    segment: Segment,
    /// The only other process that may have it mapped. The slab is never given to a different
    /// process, and not reused after the death of this one: a child of that process may still write
    /// to it.
    pub(crate) bound_to: Option<Weak<LivenessToken>>,
}

impl Slab {
    /// Creates a slab with room for `bytes`.
    pub(crate) fn new(id: u32, bytes: usize) -> Result<Self> {
        Ok(Self::of(id, Segment::anonymous(with_header(bytes))?))
    }

    /// Creates a slab with room for `bytes` that the peer can only read. The peer therefore reports
    /// in another way when it is free.
    pub(crate) fn written_here(id: u32, bytes: usize) -> Result<Self> {
        Ok(Self::of(id, Segment::written_here(with_header(bytes))?))
    }

    fn of(id: u32, segment: Segment) -> Self {
        Self {
            id,
            segment,
            bound_to: None,
        }
    }

    /// Creates a slab that holds these bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let slab = Self::new(0, bytes.len())?;
        slab.write_at(0, bytes);
        Ok(slab)
    }

    /// Maps a slab of the peer. Fails if it is shorter than the header.
    pub(crate) fn from_fd(id: u32, file: OwnedFd) -> Result<Self> {
        Self::checked(id, Segment::from_fd(file)?)
    }

    /// Maps a slab of the peer for reading only: a write to it faults.
    pub(crate) fn to_read(id: u32, file: OwnedFd) -> Result<Self> {
        Self::checked(id, Segment::to_read(file)?)
    }

    fn checked(id: u32, segment: Segment) -> Result<Self> {
        if segment.view().len() < HEADER {
            let reason = io::Error::from(io::ErrorKind::InvalidData);
            return Err(Error::io("failed to map shared memory", reason));
        }
        Ok(Self::of(id, segment))
    }

    /// Returns the maximum payload in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.segment.view().len() - HEADER
    }

    /// Grows to a capacity of at least `bytes`, and at least doubles it if it must grow.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.capacity() {
            return Ok(());
        }
        let wanted = bytes.max(self.capacity().saturating_mul(2));
        self.segment.grow(with_header(wanted))
    }

    /// Maps the same memory once more, at its current length.
    pub(crate) fn mapped_again(&self) -> Result<Self> {
        let file = self.segment.as_fd().try_clone_to_owned();
        let file = file.map_err(|error| Error::io("failed to map grown shared memory", error))?;
        Self::from_fd(self.id, file)
    }

    /// Maps the bytes that the peer has added, if that is needed to read `bytes`. Returns false
    /// if they are not there.
    pub(crate) fn map_growth(&mut self, bytes: usize) -> bool {
        bytes <= self.capacity() || self.segment.follow_growth().is_ok() && bytes <= self.capacity()
    }

    /// Reads a payload of `bytes`, which must not exceed the capacity.
    pub(crate) fn read(&self, bytes: usize) -> Cursor<'_> {
        self.segment.view().cursor(HEADER, bytes)
    }

    /// Reads a part of the payload at numbers that the peer has sent. Returns `None` if it exceeds
    /// the capacity.
    pub(crate) fn read_part(&self, offset: u64, length: u64) -> Option<Cursor<'_>> {
        let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        let end = offset.checked_add(length)?;
        (end <= self.capacity()).then(|| self.segment.view().cursor(HEADER + offset, length))
    }

    /// Appends `length` bytes of the payload to `into`.
    pub(crate) fn copy_out(&self, offset: usize, length: usize, into: &mut Vec<u8>) {
        self.segment.view().copy_out(HEADER + offset, length, into);
    }

    pub(crate) fn write_at(&self, offset: usize, bytes: &[u8]) {
        self.segment.view().copy_in(HEADER + offset, bytes);
    }

    pub(crate) fn set_busy(&self, busy: bool) {
        // Release: a side that finds the slab free must find all reads of the last payload done.
        self.busy_word().store(busy.into(), Ordering::Release);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy_word().load(Ordering::Acquire) != 0
    }

    /// Publishes two numbers together with everything written before.
    pub(crate) fn publish(&self, first: u64, second: u64) {
        let view = self.segment.view();
        view.atomic_u64(SECOND).store(second, Ordering::Relaxed);
        // Release: a process that sees this number also sees the second one and everything written
        // before.
        view.atomic_u64(FIRST).store(first, Ordering::Release);
    }

    /// Returns the published numbers; zeros before the first `publish`.
    pub(crate) fn published(&self) -> (u64, u64) {
        let view = self.segment.view();
        let first = view.atomic_u64(FIRST).load(Ordering::Acquire);
        (first, view.atomic_u64(SECOND).load(Ordering::Relaxed))
    }

    fn busy_word(&self) -> &AtomicU32 {
        self.segment.view().atomic_u32(0)
    }
}

impl AsFd for Slab {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_does_not_lie_inside_is_not_read() {
        let slab = Slab::from_bytes(b"some bytes").expect("shared memory");
        let most = slab.capacity() as u64;
        assert!(slab.read_part(0, most).is_some() && slab.read_part(most, 0).is_some());
        for (offset, length) in [(1, most), (most + 1, 0), (u64::MAX, 2), (0, u64::MAX)] {
            assert!(slab.read_part(offset, length).is_none());
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_the_header_is_no_slab() {
        let segment = Segment::anonymous(HEADER - 1).expect("shared memory");
        let file = segment.as_fd().try_clone_to_owned().expect("a descriptor");
        assert!(Slab::from_fd(1, file).is_err());
    }
}
