//! The sending half of a stream: keeps each message whole, even if many threads send at once.

use super::framing::{
    BLOCK_LEN, ByteStream, HEADER_LEN, MAX_ATOMIC_LEN, MAX_INLINE_LEN, MessageHeader, StreamKind,
    TAG_LEN,
};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::bytes::as_bytes;
use crate::sys::{
    fd_list::{self, FrameTag},
    pipe, signal, socket,
};
use crate::wire::{
    Wire, codec,
    handle::{self, Attached},
};
use parking_lot::Mutex;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering},
};

/// Bytes; the first larger message enlarges its pipe to `ENLARGED_PIPE_LEN`.
const ENLARGE_ABOVE: usize = 64 << 10;

/// Bytes; the maximum for an unprivileged pipe. It is not the default, because all pipes of a user
/// share 64 MiB.
const ENLARGED_PIPE_LEN: i32 = 1 << 20;

/// The sending half of a stream in one process.
#[derive(Debug)]
pub(super) struct SendHalf {
    stream: ByteStream,
    /// Held by the thread that is sending.
    write_lock: Mutex<()>,
    is_enlarged: AtomicBool,
    /// Whether SIGPIPE would end this program, so that it must be blocked during writes: a closed
    /// peer is an error.
    blocks_sigpipe: bool,
}

impl SendHalf {
    pub(super) fn new(stream: ByteStream) -> Self {
        Self {
            blocks_sigpipe: stream.kind == StreamKind::Pipe && signal::broken_pipe_kills(),
            is_enlarged: AtomicBool::new(stream.kind == StreamKind::Socket),
            write_lock: Mutex::new(()),
            stream,
        }
    }

    pub(super) fn stream(&self) -> &ByteStream {
        &self.stream
    }

    #[inline]
    pub(super) fn send<T: Wire>(&self, value: &T) -> Result<()> {
        if let Some(bytes) = as_bytes(value) {
            return self.send_bytes(bytes);
        }
        self.send_encoded(usize::MAX, |message| codec::encode(value, message))
    }

    /// Sends the bytes that `encode` appends. Fails if there are more than `max_len`.
    #[inline]
    pub(super) fn send_encoded(
        &self,
        max_len: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), codec::CodecErrorText>,
    ) -> Result<()> {
        let mut message = Vec::with_capacity(4 * BLOCK_LEN);
        message.extend_from_slice(&[0; BLOCK_LEN]);
        let mut descriptors = Vec::new();
        let encoded = handle::collect(&mut descriptors, || encode(&mut message));
        encoded.map_err(encode_error)?;
        let len = message.len() - BLOCK_LEN;
        if len > max_len {
            return Err(err_too_large(len, max_len));
        }
        self.send_framed(message, &descriptors)
    }

    /// Sends encoded bytes and the handles that they refer to.
    pub(super) fn send_with(&self, bytes: &[u8], descriptors: &[Attached]) -> Result<()> {
        let mut message = vec![0; BLOCK_LEN];
        message.extend_from_slice(bytes);
        self.send_framed(message, descriptors)
    }

    /// Sends a message that begins with an empty block.
    #[inline]
    fn send_framed(&self, mut message: Vec<u8>, descriptors: &[Attached]) -> Result<()> {
        let header = MessageHeader {
            len: message.len() - BLOCK_LEN,
            descriptors: descriptors.len(),
        };
        // A small payload follows its header, a large one the whole block.
        let start = BLOCK_LEN - header.payload_offset();
        message[start..][..HEADER_LEN]
            .copy_from_slice(&header.to_bytes().ok_or_else(err_header_overflow)?);
        message.resize(message.len().max(start + BLOCK_LEN), 0);
        let message = &mut message[start..];
        if descriptors.is_empty() {
            return self.write([message, &[]]);
        }
        self.write_with(message, descriptors)
    }

    #[inline]
    pub(super) fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        let header = MessageHeader {
            len: bytes.len(),
            descriptors: 0,
        };
        let header = header.to_bytes().ok_or_else(err_header_overflow)?;
        match bytes.len() {
            0..=MAX_INLINE_LEN => self.write([&framed::<BLOCK_LEN>(header, bytes), &[]]),
            len if len <= MAX_ATOMIC_LEN => {
                let message = framed::<{ HEADER_LEN + MAX_ATOMIC_LEN }>(header, bytes);
                self.write([&message[..HEADER_LEN + len], &[]])
            }
            _ => self.write([&framed::<BLOCK_LEN>(header, &[]), bytes]),
        }
    }

    #[inline]
    fn write(&self, parts: [&[u8]; 2]) -> Result<()> {
        let len = parts[0].len() + parts[1].len();
        if len > ENLARGE_ABOVE {
            self.enlarge_pipe();
        }
        let _turn = self.write_lock.lock();
        self.with_sigpipe_blocked(|| self.stream.write(parts))
            .map_err(send_error)
    }

    #[cold]
    fn write_with(&self, message: &mut [u8], descriptors: &[Attached]) -> Result<()> {
        let Some(fd_socket) = &self.stream.fd_socket else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a handle cannot be sent to another machine: the connection is TCP",
            ));
        };
        let (fds, kinds) = Attached::split(descriptors);
        let tag = new_tag()?;
        message[HEADER_LEN..][..TAG_LEN].copy_from_slice(&tag);
        let _turn = self.write_lock.lock();
        let written = match self.stream.kind {
            // Descriptors first: the receiver looks for them when the message arrives, and does not
            // wait for this socket.
            StreamKind::Pipe => fd_list::send_fds(fd_socket, tag, &fds, &kinds)
                .and_then(|()| self.with_sigpipe_blocked(|| self.stream.write([message, &[]]))),
            StreamKind::Socket => {
                let (start, rest) = message.split_at(BLOCK_LEN);
                self.stream
                    .write([start, &[]])
                    .and_then(|()| fd_list::send_fds(fd_socket, tag, &fds, &kinds))
                    .and_then(|()| self.stream.write([rest, &[]]))
            }
        };
        written.map_err(send_error)
    }

    #[inline]
    fn with_sigpipe_blocked(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.blocks_sigpipe {
            return signal::without_broken_pipe(write)?;
        }
        write()
    }

    #[cold]
    fn enlarge_pipe(&self) {
        // Relaxed: enlarging twice is harmless.
        if !self.is_enlarged.swap(true, Ordering::Relaxed) {
            pipe::enlarge(&self.stream, ENLARGED_PIPE_LEN);
        }
    }
}

/// Returns header and payload in one array, padded with zeros.
#[inline]
fn framed<const N: usize>(header: [u8; HEADER_LEN], bytes: &[u8]) -> [u8; N] {
    let mut message = [0; N];
    message[..HEADER_LEN].copy_from_slice(&header);
    message[HEADER_LEN..][..bytes.len()].copy_from_slice(bytes);
    message
}

/// Returns a tag that is unique among the lists in flight, even those of forked copies.
fn new_tag() -> Result<FrameTag> {
    let mut tag = FrameTag::default();
    getrandom::fill(&mut tag)
        .map_err(|error| Error::io("failed to get random bytes", error.into()))?;
    Ok(tag)
}

#[cold]
fn encode_error(reason: codec::CodecErrorText) -> Error {
    let message = format!("failed to encode a message: {reason}");
    Error::new(ErrorKind::Codec, message)
}

#[cold]
fn err_too_large(len: usize, max_len: usize) -> Error {
    let message = format!("a message of {len} bytes exceeds the limit of {max_len}");
    Error::new(ErrorKind::InvalidInput, message)
}

#[cold]
fn err_header_overflow() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "a message holds at most 65 535 descriptors and 256 TiB",
    )
}

#[cold]
fn send_error(error: io::Error) -> Error {
    if socket::is_closed(&error) {
        return Error::new(
            ErrorKind::Disconnected,
            "failed to send a message: the other end is gone",
        );
    }
    Error::io("failed to send a message", error)
}

impl AsFd for SendHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
