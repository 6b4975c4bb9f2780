//! One direction of a connection: its descriptors, and the layout of a message in its stream.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | header: the payload's length in 48 bits, the number of descriptors in 16 |
//! | 8, if there are descriptors | tag: identifies the list of descriptors of this message |
//! | the payload's length | payload |
//! | up to a total of 64 | zeros |
//!
//! For a payload above [`MAX_ATOMIC_LEN`] the zeros stand before it, so that the copied data is
//! aligned.
//!
//! The reader first asks for 64 bytes. A small message is therefore one write and one read, and no
//! read goes beyond its message: the stream always continues with the next message, both for `poll`
//! and for other readers of this end.
//!
//! Descriptors of a pipe go through a separate socket, before the message. In a socket's stream
//! they follow the first 64 bytes of the message. A byte for each descriptor names the kind of
//! handle that it belongs to. Two processes that share a sending end may send their lists in
//! another order than their messages, and a killed process may leave a list without a message. The
//! tag matches lists and messages.

use crate::sys::{fd_list::FrameTag, pipe, socket};
use crate::wire::handle::Descriptor;
use std::{io, os::fd::AsFd};

/// Length of the tag in bytes. It follows the header of a message with descriptors.
pub(super) const TAG_LEN: usize = size_of::<FrameTag>();

/// Bytes of the first read, and the minimum length of a message.
pub(super) const BLOCK_LEN: usize = 64;

/// Bytes before the payload.
pub(super) const HEADER_LEN: usize = 8;

/// Maximum bytes of payload in the first block.
pub(super) const MAX_INLINE_LEN: usize = BLOCK_LEN - HEADER_LEN;

/// Bytes; a larger payload begins after the first block. The kernel copies megabytes at half the
/// speed if they start 8 bytes off a cache line (benches/ipc.rs, group `megabytes`). Up to this
/// length, header and payload are one atomic write.
pub(super) const MAX_ATOMIC_LEN: usize = pipe::ATOMIC - HEADER_LEN;

/// The header of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MessageHeader {
    /// Bytes of payload.
    pub(super) len: usize,
    pub(super) descriptors: usize,
}

impl MessageHeader {
    /// Returns `None` if a count exceeds the range of its field.
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

    /// Returns the number of bytes before the payload.
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

    /// Returns how many bytes of the payload are in the first block.
    #[inline]
    pub(super) fn inline_len(self) -> usize {
        self.len.min(BLOCK_LEN - self.payload_offset())
    }
}

/// The transport of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// A pipe, whose reading end never blocks.
    Pipe,
    /// A connected socket.
    Socket,
}

/// One end of one direction.
#[derive(Debug, Clone)]
pub(super) struct ByteStream {
    pub(super) kind: StreamKind,
    pub(super) data: Descriptor,
    /// The socket that carries descriptors: a separate one for a pipe, the stream itself for a Unix
    /// socket, `None` for TCP.
    pub(super) fd_socket: Option<Descriptor>,
}

impl ByteStream {
    /// Reads the available bytes, at least one. Returns 0 at the end of the stream, and fails with
    /// `WouldBlock` if there is nothing to read yet.
    #[inline]
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.kind {
            StreamKind::Pipe => pipe::read(&self.data, buffer),
            StreamKind::Socket => socket::try_read(&self.data, buffer),
        }
    }

    /// Like [`try_read`](Self::try_read), but appends to a vector, which must have the capacity for
    /// `max_len` more bytes.
    pub(super) fn try_append(&self, into: &mut Vec<u8>, max_len: usize) -> io::Result<usize> {
        match self.kind {
            StreamKind::Pipe => pipe::read_append(&self.data, into, max_len),
            StreamKind::Socket => socket::try_append(&self.data, into, max_len),
        }
    }

    /// Writes two parts in order, with as few system calls as possible. Blocks until all is
    /// written.
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

/// Returns what remains of two parts after the first `count` bytes. The first is empty only if both
/// are.
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
