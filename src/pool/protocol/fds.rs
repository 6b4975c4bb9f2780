//! Descriptors on the socket between pool and worker: slabs, and the handles in values.
//!
//! A message is a number and what it is about: a slab's own number and its descriptor, or
//! [`HANDLES`] and as many as a message takes, with a byte about each that says of which kind of
//! handle it is a part. It is sent before the frame or record that tells of it, so that it is there
//! when the other side wants it. The handles in one value may need several messages, each told of
//! by a [`FdRange`]; one that got lost makes the whole list void.

use crate::error::Result;
use crate::shm::Slab;
use crate::sys::socket;
use crate::wire::handle::Attached;
use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
};

/// What a message of handles has for a slab's number, which is never 0.
const HANDLES: u32 = 0;

/// Some of the descriptors of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FdRange {
    /// The number of the first in the value's list.
    pub(crate) start: u32,
    pub(crate) count: u32,
}

impl FdRange {
    /// Cuts the descriptors of a value into what one message takes.
    pub(crate) fn split(attached: &[Attached]) -> impl Iterator<Item = (Self, &[Attached])> {
        let parts = attached.chunks(socket::MAX_FDS).enumerate();
        parts.map(|(number, part)| {
            let range = Self {
                start: (number * socket::MAX_FDS) as u32,
                count: part.len() as u32,
            };
            (range, part)
        })
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.start) << 32 | u64::from(self.count)).to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self {
            start: (word >> 32) as u32,
            count: word as u32,
        }
    }
}

/// Sends a slab; `WouldBlock` when there is no room.
pub(crate) fn try_send_slab(to: impl AsFd, slab: &Slab) -> io::Result<()> {
    socket::try_send(to, &slab.id.to_le_bytes(), &[slab.as_fd()])
}

/// Sends a batch of handles; `WouldBlock` when there is no room.
pub(crate) fn try_send_fds(to: impl AsFd, attached: &[Attached]) -> io::Result<()> {
    let (fds, kinds) = Attached::split(attached);
    let message = [&HANDLES.to_le_bytes(), &kinds[..]].concat();
    socket::try_send(to, &message, &fds)
}

/// What a message brought.
pub(crate) enum FdMessage {
    /// Nothing but the number where the descriptor got lost, or could not be mapped.
    Slab(u32, Option<Slab>),
    Fds(Vec<Attached>),
}

/// The next message, given a way to receive one and to map a slab; none if there is none.
pub(crate) fn next_message(
    receive: impl FnOnce(&mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)>,
    map: impl FnOnce(u32, OwnedFd) -> Result<Slab>,
) -> Option<FdMessage> {
    let mut message = [0; size_of::<u32>() + socket::MAX_FDS];
    let (length, mut fds) = receive(&mut message).ok()?;
    let (number, kinds) = message[..length].split_first_chunk()?;
    Some(match u32::from_le_bytes(*number) {
        HANDLES => FdMessage::Fds(Attached::received(fds, kinds)),
        _ if !kinds.is_empty() => return None,
        number => FdMessage::Slab(number, fds.pop().and_then(|it| map(number, it).ok())),
    })
}

/// The descriptors of the value that comes next, as far as they have come.
#[derive(Debug, Default)]
pub(crate) struct PendingFds(Vec<Attached>);

impl PendingFds {
    /// Takes in a batch. Where descriptors are missing, nothing that follows finds its place.
    pub(crate) fn add(&mut self, range: FdRange, mut attached: Vec<Attached>) {
        if range.start == 0 {
            self.0.clear();
        }
        if self.0.len() == range.start as usize && attached.len() == range.count as usize {
            self.0.append(&mut attached);
        }
    }

    /// All there are.
    pub(crate) fn take(&mut self) -> Vec<Attached> {
        mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe;

    fn ends(count: usize) -> Vec<Attached> {
        let end = || pipe::pipe().expect("a pipe").0;
        let ends = (0..count).map(|_| end()).collect();
        Attached::received(ends, &vec![1; count])
    }

    #[test]
    fn a_list_with_a_hole_is_cut_off_there_and_does_not_mix_with_the_next() {
        let mut gathered = PendingFds::default();
        gathered.add(FdRange { start: 0, count: 2 }, ends(2));
        // The kernel had no room for these.
        gathered.add(FdRange { start: 2, count: 2 }, ends(0));
        gathered.add(FdRange { start: 4, count: 1 }, ends(1));
        assert_eq!(gathered.take().len(), 2);
        gathered.add(FdRange { start: 0, count: 3 }, ends(3));
        gathered.add(FdRange { start: 0, count: 1 }, ends(1));
        assert_eq!(gathered.take().len(), 1);
    }

    #[test]
    fn a_long_list_is_cut_into_messages() {
        let end = ends(1);
        let attached = vec![end[0].clone(); 2 * socket::MAX_FDS + 1];
        let batches: Vec<FdRange> = FdRange::split(&attached).map(|it| it.0).collect();
        let whole = socket::MAX_FDS as u32;
        let (start, count) = (2 * whole, 1);
        assert_eq!((batches.len(), batches[2]), (3, FdRange { start, count }));
        assert_eq!(FdRange::from_bytes(batches[1].to_bytes()), batches[1]);
    }
}
