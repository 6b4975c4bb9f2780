//! Lists of any number of descriptors, sent through a Unix socket in several messages.

use super::poll;
use super::socket::{MAX_FDS, send, try_receive};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Identifies a list of descriptors: lists of several processes may be in one socket.
pub(crate) type FrameTag = [u8; 8];

/// A message of [`send_fds`].
#[derive(Debug)]
pub(crate) struct FdPart {
    pub(crate) tag: FrameTag,
    pub(crate) batch: PartKind,
    /// All descriptors of the message, or no descriptors if this process has no room for them.
    pub(crate) fds: Vec<OwnedFd>,
    /// A byte from the sender for each of them.
    pub(crate) labels: Vec<u8>,
}

/// The position of a message of [`send_fds`] in its list of descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// More messages follow.
    More,
    /// The last message.
    Last,
    /// The list could not be sent completely; the receiver drops it.
    GivenUp,
}

/// How long a sender waits while too many descriptors are in transit: the receiver may be busy.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Sends any number of descriptors, each with a byte, in as many messages as needed. Blocks while
/// the socket's buffer is full.
///
/// The kernel limits the descriptors in transit (RLIMIT_NOFILE for all processes of a user). If the
/// limit is reached, it waits at most `REFUSED_FOR` for others to be received. After a failure, it
/// tells the peer to drop the list.
pub(crate) fn send_fds(
    socket: impl AsFd,
    tag: FrameTag,
    fds: &[BorrowedFd<'_>],
    labels: &[u8],
) -> io::Result<()> {
    let last = fds.len().div_ceil(MAX_FDS).saturating_sub(1);
    let batches = fds.chunks(MAX_FDS).zip(labels.chunks(MAX_FDS));
    for (number, (batch, labels)) in batches.enumerate() {
        let mark = if number == last {
            PartKind::Last
        } else {
            PartKind::More
        };
        if let Err(error) = send_once_allowed(&socket, &part(tag, mark, labels), batch) {
            // It fails only if the peer has closed its end, and then needs no message.
            let _ = send(&socket, &part(tag, PartKind::GivenUp, &[]), &[]);
            return Err(error);
        }
    }
    Ok(())
}

fn send_once_allowed(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let deadline = Instant::now() + REFUSED_FOR;
    loop {
        match send(&socket, bytes, fds) {
            Err(error)
                if error.raw_os_error() == Some(libc::ETOOMANYREFS)
                    && Instant::now() < deadline =>
            {
                // The kernel reports no event for free room.
                poll::wait_for_hang_up(&socket, Duration::from_millis(1));
            }
            sent => return sent,
        }
    }
}

/// The size of a message of [`send_fds`] before the labels, in bytes.
const HEAD: usize = size_of::<FrameTag>() + 1;

/// The size of a message of [`send_fds`] in bytes, for any number of descriptors. The fixed size
/// keeps messages together in a stream socket, too: each is sent and received in one piece.
const PART: usize = HEAD + MAX_FDS;

fn part(tag: FrameTag, batch: PartKind, labels: &[u8]) -> [u8; PART] {
    let mut bytes = [0; PART];
    bytes[..tag.len()].copy_from_slice(&tag);
    bytes[tag.len()] = batch as u8;
    bytes[HEAD..][..labels.len()].copy_from_slice(labels);
    bytes
}

/// Receives the next message of [`send_fds`]. Fails with `WouldBlock` if none is queued,
/// `UnexpectedEof` if the peer has closed its end, and `InvalidData` if it is another message.
pub(crate) fn try_receive_part(socket: impl AsFd) -> io::Result<FdPart> {
    let mut bytes = [0; PART];
    let (length, fds) = try_receive(socket, &mut bytes)?;
    let (tag, batch) = match (length, bytes.split_first_chunk()) {
        (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
        (PART, Some((tag, &[batch, ..]))) => (*tag, batch),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let batches = [PartKind::More, PartKind::Last, PartKind::GivenUp];
    let batch = batches.into_iter().find(|kind| *kind as u8 == batch);
    let batch = batch.ok_or(io::ErrorKind::InvalidData)?;
    let labels = bytes[HEAD..][..fds.len().min(MAX_FDS)].to_vec();
    Ok(FdPart {
        tag,
        batch,
        fds,
        labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{pipe, socket::pair};

    #[test]
    fn any_number_of_descriptors_comes_in_order() {
        let (a, b) = pair().expect("sockets");
        let (reader, writer) = pipe::pipe().expect("a pipe");
        for count in [1, MAX_FDS, MAX_FDS + 1, 3 * MAX_FDS] {
            let mut sent = vec![reader.as_fd(); count];
            sent[count - 1] = writer.as_fd();
            let sent_labels: Vec<u8> = (0..count).map(|number| number as u8).collect();
            send_fds(&a, FrameTag::default(), &sent, &sent_labels).expect("a list");
            let (mut fds, mut labels, mut last) = (Vec::new(), Vec::new(), PartKind::More);
            while last == PartKind::More {
                let mut part = try_receive_part(&b).expect("a list");
                fds.append(&mut part.fds);
                labels.append(&mut part.labels);
                last = part.batch;
            }
            assert_eq!((fds.len(), labels), (count, sent_labels));
            pipe::write(&fds[count - 1], b"x").expect("the pipe's end");
            assert_eq!(
                pipe::read(&fds[0], &mut [0; 2]).ok(),
                (count > 1).then_some(1)
            );
            if count == 1 {
                pipe::read(&reader, &mut [0]).expect("the pipe");
            }
        }
    }
}
