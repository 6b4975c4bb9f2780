//! Messages with descriptors on the socket between pool and worker: slabs, and the handles in
//! values.
//!
//! A message is a number and its descriptors. For a slab, it is the id and the descriptor of the
//! slab. For handles, it is [`HANDLES`] and as many descriptors as fit, with a byte for each that
//! names the kind of handle it belongs to. A message is sent before the frame or record that
//! announces it, so that the receiver finds it there. The handles of one value may need several
//! messages, each announced by an [`FdRange`]. If one is lost, the whole list is void.

use crate::error::Result;
use crate::shm::Slab;
use crate::sys::socket;
use crate::wire::handle::Attached;
use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
};

/// The number of a message with handles; a slab's id is never 0.
const HANDLES: u32 = 0;

/// Consecutive descriptors of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FdRange {
    /// The index of the first one in the value's list.
    pub(crate) start: u32,
    pub(crate) count: u32,
}

impl FdRange {
    /// Splits the descriptors of a value into messages.
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

/// Sends a slab. Fails with `WouldBlock` if the socket is full.
pub(crate) fn try_send_slab(to: impl AsFd, slab: &Slab) -> io::Result<()> {
    socket::try_send(to, &slab.id.to_le_bytes(), &[slab.as_fd()])
}

/// Sends the descriptors of handles. Fails with `WouldBlock` if the socket is full.
pub(crate) fn try_send_fds(to: impl AsFd, attached: &[Attached]) -> io::Result<()> {
    let (fds, kinds) = Attached::split(attached);
    let message = [&HANDLES.to_le_bytes(), &kinds[..]].concat();
    socket::try_send(to, &message, &fds)
}

/// A received message.
pub(crate) enum FdMessage {
    /// A slab; `None` if its descriptor was lost or could not be mapped.
    Slab(u32, Option<Slab>),
    Fds(Vec<Attached>),
}

/// Receives the next message with `receive`, and maps a slab with `map`. `None` without a message.
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
        number => FdMessage::Slab(number, fds.pop().and_then(|fd| map(number, fd).ok())),
    })
}

/// The descriptors received so far for the next value.
#[derive(Debug, Default)]
pub(crate) struct PendingFds(Vec<Attached>);

impl PendingFds {
    /// Adds the descriptors of one message. After missing descriptors, later ones are dropped.
    pub(crate) fn add(&mut self, range: FdRange, mut attached: Vec<Attached>) {
        if range.start == 0 {
            self.0.clear();
        }
        if self.0.len() == range.start as usize && attached.len() == range.count as usize {
            self.0.append(&mut attached);
        }
    }

    /// Takes all of them.
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
        let mut pending = PendingFds::default();
        pending.add(FdRange { start: 0, count: 2 }, ends(2));
        // The kernel had no room for these.
        pending.add(FdRange { start: 2, count: 2 }, ends(0));
        pending.add(FdRange { start: 4, count: 1 }, ends(1));
        assert_eq!(pending.take().len(), 2);
        pending.add(FdRange { start: 0, count: 3 }, ends(3));
        pending.add(FdRange { start: 0, count: 1 }, ends(1));
        assert_eq!(pending.take().len(), 1);
    }

    #[test]
    fn a_long_list_is_cut_into_messages() {
        let end = ends(1);
        let attached = vec![end[0].clone(); 2 * socket::MAX_FDS + 1];
        let ranges: Vec<FdRange> = FdRange::split(&attached).map(|(range, _)| range).collect();
        let whole = socket::MAX_FDS as u32;
        let (start, count) = (2 * whole, 1);
        assert_eq!((ranges.len(), ranges[2]), (3, FdRange { start, count }));
        assert_eq!(FdRange::from_bytes(ranges[1].to_bytes()), ranges[1]);
    }
}
