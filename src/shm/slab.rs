//! A segment that carries one large payload after the other.
//!
//! Fresh shared memory is slower than a pipe at every size, because the kernel zeroes each page at
//! its first touch; memory that is mapped and touched on both sides already costs the copy alone.
//! The side that made a slab decides what it is used for next, and one word at its start says
//! whether the other side still reads:
//!
//! | `busy` | meaning | who stores it |
//! |---|---|---|
//! | 1 | a payload lies in it | its maker, before it tells the reader |
//! | 0 | free | the reader when it is done, or the maker when the payload is no longer wanted |

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

/// The offsets of those numbers.
const FIRST: usize = 8;
const SECOND: usize = 16;

/// Bytes; a slab's length is a multiple of this, so that one that is a little too short is rare.
const LEN_MULTIPLE: usize = 1 << 20;

/// Bytes of a segment with room for a payload of `bytes`.
fn with_header(bytes: usize) -> usize {
    (HEADER + bytes).next_multiple_of(LEN_MULTIPLE)
}

/// Lives as long as one process is believed to.
#[derive(Debug)]
pub(crate) struct LivenessToken;

/// A reusable segment, known to both sides by its maker's number.
#[derive(Debug)]
pub(crate) struct Slab {
    pub(crate) id: u32,
    segment: Segment,
    /// The one other process that may have it mapped. No other is ever given it, and nobody after
    /// that one's death: a process that it left behind may still write to it.
    pub(crate) bound_to: Option<Weak<LivenessToken>>,
}

impl Slab {
    /// Makes one with room for `bytes`.
    pub(crate) fn new(id: u32, bytes: usize) -> Result<Self> {
        Ok(Self::of(id, Segment::anonymous(with_header(bytes))?))
    }

    /// Makes one with room for `bytes`, which the peer can only read: it says itself when it is
    /// free.
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

    /// Makes one that holds these bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let slab = Self::new(0, bytes.len())?;
        slab.write_at(0, bytes);
        Ok(slab)
    }

    /// Maps one that the peer made. Fails if it is shorter than a slab's header.
    pub(crate) fn from_fd(id: u32, file: OwnedFd) -> Result<Self> {
        Self::checked(id, Segment::from_fd(file)?)
    }

    /// Maps one that the peer made, to be read only: a write to it faults.
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

    /// Bytes of payload that fit.
    pub(crate) fn capacity(&self) -> usize {
        self.segment.view().len() - HEADER
    }

    /// Makes room for `bytes`, at least doubling.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.capacity() {
            return Ok(());
        }
        let wanted = bytes.max(self.capacity().saturating_mul(2));
        self.segment.grow(with_header(wanted))
    }

    /// Maps the same memory once more, as long as it is now.
    pub(crate) fn mapped_again(&self) -> Result<Self> {
        let file = self.segment.as_fd().try_clone_to_owned();
        let file = file.map_err(|it| Error::io("failed to map grown shared memory", it))?;
        Self::from_fd(self.id, file)
    }

    /// Maps what the peer has made the slab grow by, if that is needed to read `bytes`; false when
    /// they are not there.
    pub(crate) fn map_growth(&mut self, bytes: usize) -> bool {
        bytes <= self.capacity() || self.segment.follow_growth().is_ok() && bytes <= self.capacity()
    }

    /// Reads a payload of `bytes`, at most the capacity.
    pub(crate) fn read(&self, bytes: usize) -> Cursor<'_> {
        self.segment.view().cursor(HEADER, bytes)
    }

    /// Reads a part of the payload by numbers that a peer has given; none if it does not lie
    /// inside.
    pub(crate) fn read_part(&self, offset: u64, length: u64) -> Option<Cursor<'_>> {
        let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        let end = offset.checked_add(length)?;
        (end <= self.capacity()).then(|| self.segment.view().cursor(HEADER + offset, length))
    }

    /// Appends `len` bytes of the payload to `into`.
    pub(crate) fn copy_out(&self, offset: usize, length: usize, into: &mut Vec<u8>) {
        self.segment.view().copy_out(HEADER + offset, length, into);
    }

    pub(crate) fn write_at(&self, offset: usize, bytes: &[u8]) {
        self.segment.view().copy_in(HEADER + offset, bytes);
    }

    pub(crate) fn set_busy(&self, busy: bool) {
        // Release: whoever finds the slab free must find the reads of the last payload done.
        self.busy_word().store(busy.into(), Ordering::Release);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy_word().load(Ordering::Acquire) != 0
    }

    /// Leaves two numbers for whoever maps it, behind everything that was written to it.
    pub(crate) fn publish(&self, first: u64, second: u64) {
        let view = self.segment.view();
        view.atomic_u64(SECOND).store(second, Ordering::Relaxed);
        // Release: whoever sees it sees what was written before.
        view.atomic_u64(FIRST).store(first, Ordering::Release);
    }

    /// The numbers that were left; zeros if none were.
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
