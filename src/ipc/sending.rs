//! The end of a line that sends: each message whole, also when many threads send at once.

use super::line::{ALIGNED, BLOCK, HEADER, Header, INLINE, Kind, Line, TAG};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::bytes::as_bytes;
use crate::sys::{
    pipe, signal,
    socket::{self, Tag},
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

/// Bytes; the first message above makes its pipe as large as `ENLARGED`.
const LARGE: usize = 64 << 10;

/// Bytes; as much as one unprivileged pipe may have. Not from the start: a user's pipes have 64 MiB together.
const ENLARGED: i32 = 1 << 20;

/// One process's end of a line that sends.
#[derive(Debug)]
pub(super) struct SendingEnd {
    line: Line,
    /// Locked by the thread whose turn it is to send.
    turn: Mutex<()>,
    is_enlarged: AtomicBool,
    /// Whether this program has SIGPIPE end it, which a peer that is gone must not.
    holds_signal_back: bool,
}

impl SendingEnd {
    pub(super) fn new(line: Line) -> Self {
        Self {
            holds_signal_back: line.kind == Kind::Pipe && signal::broken_pipe_kills(),
            is_enlarged: AtomicBool::new(line.kind == Kind::Socket),
            turn: Mutex::new(()),
            line,
        }
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    #[inline]
    pub(super) fn send<T: Wire>(&self, value: &T) -> Result<()> {
        if let Some(bytes) = as_bytes(value) {
            return self.send_bytes(bytes);
        }
        self.send_encoded(usize::MAX, |message| codec::encode(value, message))
    }

    /// Sends what `encode` appends, if that is at most so many bytes.
    #[inline]
    pub(super) fn send_encoded(
        &self,
        most: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), codec::Reason>,
    ) -> Result<()> {
        let mut message = Vec::with_capacity(4 * BLOCK);
        message.extend_from_slice(&[0; BLOCK]);
        let mut descriptors = Vec::new();
        let encoded = handle::collect(&mut descriptors, || encode(&mut message));
        encoded.map_err(not_encoded)?;
        let length = message.len() - BLOCK;
        if length > most {
            return Err(larger_than(length, most));
        }
        self.send_framed(message, &descriptors)
    }

    /// Sends bytes, and the handles whose places are in them.
    pub(super) fn send_with(&self, bytes: &[u8], descriptors: &[Attached]) -> Result<()> {
        let mut message = vec![0; BLOCK];
        message.extend_from_slice(bytes);
        self.send_framed(message, descriptors)
    }

    /// Sends a message that begins with an empty block.
    #[inline]
    fn send_framed(&self, mut message: Vec<u8>, descriptors: &[Attached]) -> Result<()> {
        let header = Header {
            length: message.len() - BLOCK,
            descriptors: descriptors.len(),
        };
        // A small payload follows its header, a large one the whole block.
        let start = BLOCK - header.start();
        message[start..][..HEADER].copy_from_slice(&header.to_bytes().ok_or_else(too_much)?);
        message.resize(message.len().max(start + BLOCK), 0);
        let message = &mut message[start..];
        if descriptors.is_empty() {
            return self.write([message, &[]]);
        }
        self.write_with(message, descriptors)
    }

    #[inline]
    pub(super) fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        let header = Header {
            length: bytes.len(),
            descriptors: 0,
        };
        let header = header.to_bytes().ok_or_else(too_much)?;
        match bytes.len() {
            0..=INLINE => self.write([&together::<BLOCK>(header, bytes), &[]]),
            length if length <= ALIGNED => {
                let message = together::<{ HEADER + ALIGNED }>(header, bytes);
                self.write([&message[..HEADER + length], &[]])
            }
            _ => self.write([&together::<BLOCK>(header, &[]), bytes]),
        }
    }

    #[inline]
    fn write(&self, parts: [&[u8]; 2]) -> Result<()> {
        let length = parts[0].len() + parts[1].len();
        if length > LARGE {
            self.enlarge();
        }
        let _turn = self.turn.lock();
        self.held_back(|| self.line.write(parts)).map_err(failed)
    }

    #[cold]
    fn write_with(&self, message: &mut [u8], descriptors: &[Attached]) -> Result<()> {
        let Some(beside) = &self.line.beside else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a handle cannot travel to another machine: the connection is no pipe and no Unix socket",
            ));
        };
        let (fds, kinds) = Attached::split(descriptors);
        let tag = new_tag()?;
        message[HEADER..][..TAG].copy_from_slice(&tag);
        let _turn = self.turn.lock();
        let written = match self.line.kind {
            // First, so that they are there when the message is: nobody waits for this socket.
            Kind::Pipe => socket::send_fds(beside, tag, &fds, &kinds)
                .and_then(|()| self.held_back(|| self.line.write([message, &[]]))),
            Kind::Socket => {
                let (start, rest) = message.split_at(BLOCK);
                self.line
                    .write([start, &[]])
                    .and_then(|()| socket::send_fds(beside, tag, &fds, &kinds))
                    .and_then(|()| self.line.write([rest, &[]]))
            }
        };
        written.map_err(failed)
    }

    #[inline]
    fn held_back(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.holds_signal_back {
            return signal::without_broken_pipe(write)?;
        }
        write()
    }

    #[cold]
    fn enlarge(&self) {
        // Relaxed: doing it twice does no harm.
        if !self.is_enlarged.swap(true, Ordering::Relaxed) {
            pipe::enlarge(&self.line, ENLARGED);
        }
    }
}

/// Header and payload in one piece of at most `N` bytes, with zeros behind them.
#[inline]
fn together<const N: usize>(header: [u8; HEADER], bytes: &[u8]) -> [u8; N] {
    let mut message = [0; N];
    message[..HEADER].copy_from_slice(&header);
    message[HEADER..][..bytes.len()].copy_from_slice(bytes);
    message
}

/// No other list has it that is on its way at the same time, from whatever process and copy of one.
fn new_tag() -> Result<Tag> {
    let mut tag = Tag::default();
    getrandom::fill(&mut tag).map_err(|it| Error::io("failed to get random bytes", it.into()))?;
    Ok(tag)
}

#[cold]
fn not_encoded(reason: codec::Reason) -> Error {
    let message = format!("failed to encode a message: {reason}");
    Error::new(ErrorKind::Codec, message)
}

#[cold]
fn larger_than(length: usize, most: usize) -> Error {
    let message = format!("a message of {length} bytes is more than the {most} that are allowed");
    Error::new(ErrorKind::InvalidInput, message)
}

#[cold]
fn too_much() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "a message takes at most 65 535 handles and 256 TiB",
    )
}

#[cold]
fn failed(error: io::Error) -> Error {
    if socket::is_closed(&error) {
        return Error::new(
            ErrorKind::Disconnected,
            "failed to send a message: the other end is gone",
        );
    }
    Error::io("failed to send a message", error)
}

impl AsFd for SendingEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}
