//! One direction of a connection: its descriptors, and how a message lies in its stream.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | header: the payload's length in 48 bits, the number of descriptors in 16 |
//! | 8, if there are descriptors | tag: which of the lists that come is this message's |
//! | the payload's length | payload |
//! | as many as are missing to 64 | zeros |
//!
//! Of more than 4096 bytes the zeros stand before the payload, so that what is copied is aligned.
//!
//! The reader asks for 64 bytes first. So a small message is one write and one read, and no read
//! goes beyond its message: what is readable is always the next one, for `poll` and for other
//! readers of the same end.
//!
//! Descriptors go through a socket beside a pipe, before the message; in a stream of a socket they
//! lie behind its first 64 bytes. A byte about each says of which kind of handle it is a part.
//! Processes that share an end that sends put their lists into one socket in another order than
//! their messages into the pipe, and one that was killed leaves a list without a message: that is
//! what the tag is for.

use crate::sys::{
    pipe,
    socket::{self, FrameTag},
};
use crate::wire::handle::Descriptor;
use std::{io, os::fd::AsFd};

/// Bytes behind the header of a message with descriptors.
pub(super) const TAG_LEN: usize = size_of::<FrameTag>();

/// Bytes that are read first, and the least that a message takes up.
pub(super) const BLOCK_LEN: usize = 64;

/// Bytes before the payload.
pub(super) const HEADER_LEN: usize = 8;

/// Bytes of payload in the first block, at the most.
pub(super) const MAX_INLINE_LEN: usize = BLOCK_LEN - HEADER_LEN;

/// Bytes; a larger payload begins behind the first block. The kernel copies megabytes that lie 8
/// bytes beside a cache line at half the speed (benches/ipc.rs, group `megabytes`); up to here
/// header and payload are one atomic write.
pub(super) const MAX_ATOMIC_LEN: usize = pipe::ATOMIC - HEADER_LEN;

/// What is known of a message before it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MessageHeader {
    /// Bytes of payload.
    pub(super) len: usize,
    pub(super) descriptors: usize,
}

impl MessageHeader {
    /// None when there are more of either than any message has.
    pub(super) fn to_bytes(self) -> Option<[u8; HEADER_LEN]> {
        let descriptors = u16::try_from(self.descriptors).ok()?;
        let word = (self.len as u64) << 16 | u64::from(descriptors);
        (self.len < 1 << 48).then_some(word.to_le_bytes())
    }

    pub(super) fn from_bytes(bytes: [u8; HEADER_LEN]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self {
            len: (word >> 16) as usize,
            descriptors: usize::from(word as u16),
        }
    }

    /// Bytes of the message before the payload.
    #[inline]
    pub(super) fn payload_offset(self) -> usize {
        let start = match self.descriptors {
            0 => HEADER_LEN,
            _ => HEADER_LEN + TAG_LEN,
        };
        if start + self.len > pipe::ATOMIC {
            BLOCK_LEN
        } else {
            start
        }
    }

    /// Bytes of the payload that are in the first block.
    #[inline]
    pub(super) fn inline_len(self) -> usize {
        self.len.min(BLOCK_LEN - self.payload_offset())
    }
}

/// What the bytes go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// A pipe, of which the end that reads never blocks.
    Pipe,
    /// A connected socket.
    Socket,
}

/// One end of one direction.
#[derive(Debug, Clone)]
pub(super) struct ByteStream {
    pub(super) kind: StreamKind,
    pub(super) data: Descriptor,
    /// The socket that carries descriptors, if any does: one beside the pipe, or the same.
    pub(super) fd_socket: Option<Descriptor>,
}

impl ByteStream {
    /// Reads what is there, at least one byte; 0 at the end, `WouldBlock` when nothing is there
    /// yet.
    #[inline]
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.kind {
            StreamKind::Pipe => pipe::read(&self.data, buffer),
            StreamKind::Socket => socket::try_read(&self.data, buffer),
        }
    }

    /// The same, behind the end of a vector, which must have the capacity for `max_len` more bytes.
    pub(super) fn try_append(&self, into: &mut Vec<u8>, max_len: usize) -> io::Result<usize> {
        match self.kind {
            StreamKind::Pipe => pipe::read_append(&self.data, into, max_len),
            StreamKind::Socket => socket::try_append(&self.data, into, max_len),
        }
    }

    /// Writes two parts one behind the other, together as far as the system allows; blocks until
    /// all is written.
    pub(super) fn write(&self, mut parts: [&[u8]; 2]) -> io::Result<()> {
        while !parts[0].is_empty() {
            let count = match self.kind {
                StreamKind::Pipe if parts[1].is_empty() => pipe::write(&self.data, parts[0]),
                StreamKind::Pipe => pipe::write_parts(&self.data, parts),
                StreamKind::Socket => socket::send_parts(&self.data, parts),
            }?;
            parts = skip_written(parts, count);
        }
        Ok(())
    }
}

/// What is left of two parts behind the first `count` bytes; the first is empty only when both are.
fn skip_written([first, second]: [&[u8]; 2], count: usize) -> [&[u8]; 2] {
    if count < first.len() {
        return [&first[count..], second];
    }
    [&second[count - first.len()..], &[]]
}

impl AsFd for ByteStream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.data.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_was_put_in() {
        for (len, descriptors) in [(0, 0), (5 << 30, 1), ((1 << 48) - 1, 65535)] {
            let header = MessageHeader { len, descriptors };
            let bytes = header.to_bytes().expect("it has room");
            assert_eq!(MessageHeader::from_bytes(bytes), header);
        }
        let (len, descriptors) = (1 << 48, 65536);
        assert!(
            MessageHeader {
                len,
                descriptors: 0
            }
            .to_bytes()
            .is_none()
        );
        assert!(
            MessageHeader {
                len: 0,
                descriptors
            }
            .to_bytes()
            .is_none()
        );
    }

    #[test]
    fn what_was_written_is_left_out_across_parts() {
        assert_eq!(skip_written([b"ab", b"cd"], 1), [&b"b"[..], b"cd"]);
        assert_eq!(skip_written([b"ab", b"cd"], 2), [&b"cd"[..], b""]);
        assert_eq!(skip_written([b"ab", b"cd"], 3), [&b"d"[..], b""]);
        assert_eq!(skip_written([b"ab", b""], 2), [b"", b""]);
    }
}
