//! A message on its way in: what has come of it so far, and what it holds when all of it has.

use super::line::{BLOCK, HEADER, Header, INLINE, Kind, Line, in_block};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::Cursor;
use crate::sys::socket::{self, Batch};
use crate::wire::{
    Wire,
    codec::{self, Input},
    handle,
};
use std::{io, mem, os::fd::OwnedFd};

/// Bytes that memory is taken for at once: a length may be a lie, which then costs no more than what really comes.
const STEP: usize = 1 << 20;

/// The next message of a line. It can be received in pieces: a wait may end in the middle of it.
#[derive(Debug)]
pub(super) struct Message {
    block: [u8; BLOCK],
    /// Bytes of the block that have come.
    filled: usize,
    /// The payload, if it is larger than the block, as far as it has come.
    large: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    has_all_descriptors: bool,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            block: [0; BLOCK],
            filled: 0,
            large: Vec::new(),
            descriptors: Vec::new(),
            has_all_descriptors: false,
        }
    }
}

impl Message {
    /// Whether nothing of it has come.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Bytes that have come of it.
    #[inline]
    pub(super) fn received(&self) -> usize {
        self.filled + self.large.len()
    }

    /// Bytes of payload; none as long as the header has not come.
    #[inline]
    pub(super) fn length(&self) -> Option<usize> {
        (self.filled >= HEADER).then(|| self.header().length)
    }

    fn header(&self) -> Header {
        let header = self.block.first_chunk();
        Header::from_bytes(*header.expect("a block is longer than a header"))
    }

    /// Receives what is missing. `WouldBlock` when that has not all come yet, `UnexpectedEof` when it never will.
    #[inline]
    pub(super) fn advance(&mut self, line: &Line) -> io::Result<()> {
        self.advance_start(line)?;
        match self.header().length {
            length if length > INLINE => self.advance_large(line, length),
            _ => Ok(()),
        }
    }

    /// Receives all but what is behind the first block.
    #[inline]
    pub(super) fn advance_start(&mut self, line: &Line) -> io::Result<()> {
        self.advance_block(line, BLOCK)?;
        while self.header().descriptors > 0 && !self.has_all_descriptors {
            if !self.advance_descriptors(line)? {
                *self = Self::default();
                self.advance_block(line, BLOCK)?;
            }
        }
        Ok(())
    }

    /// Receives the first `most` bytes.
    #[inline]
    pub(super) fn advance_block(&mut self, line: &Line, most: usize) -> io::Result<()> {
        while self.filled < most {
            match line.try_read(&mut self.block[self.filled..most])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.filled += count,
            }
        }
        Ok(())
    }

    /// False when the message was not sent after all, which in a socket's stream is known only now.
    #[cold]
    fn advance_descriptors(&mut self, line: &Line) -> io::Result<bool> {
        let Some(beside) = &line.beside else {
            self.has_all_descriptors = true;
            return Ok(true);
        };
        loop {
            match socket::try_receive_fds(beside, &mut self.descriptors)? {
                Batch::More => {}
                Batch::Last => break,
                Batch::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Batch::GivenUp if line.kind == Kind::Socket => return Ok(false),
                Batch::GivenUp => self.descriptors.clear(),
            }
        }
        self.keep_own_descriptors();
        self.has_all_descriptors = true;
        Ok(true)
    }

    fn keep_own_descriptors(&mut self) {
        let count = self.header().descriptors;
        // What stands before them is of a sender that has died.
        let left_over = self.descriptors.len().saturating_sub(count);
        self.descriptors.drain(..left_over);
        if self.descriptors.len() < count {
            // This process had no room for all: none is better than some in others' places.
            self.descriptors.clear();
        }
    }

    /// The part of the payload that has come.
    pub(super) fn payload(&self) -> &[u8] {
        let Some(length) = self.length() else {
            return &[];
        };
        if self.large.is_empty() {
            let end = self.filled.clamp(HEADER, HEADER + in_block(length));
            &self.block[HEADER..end]
        } else {
            &self.large
        }
    }

    /// The payload, when all has come.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        if self.large.is_empty() {
            return self.payload().to_vec();
        }
        self.large
    }

    /// The value that was sent, when all has come.
    #[inline]
    pub(super) fn decode<T: Wire>(mut self) -> Result<T> {
        let descriptors = mem::take(&mut self.descriptors);
        let decoded = handle::provide(descriptors, || {
            if self.large.is_empty() {
                codec::decode(&mut Cursor::new(self.payload()))
            } else {
                codec::decode(&mut Payload::new(mem::take(&mut self.large)))
            }
        });
        decoded.map_err(|reason| {
            let message = format!("failed to decode a message: {reason}");
            Error::new(ErrorKind::Codec, message)
        })
    }

    fn advance_large(&mut self, line: &Line, length: usize) -> io::Result<()> {
        if self.large.is_empty() {
            reserve(&mut self.large, length)?;
            let start = &self.block[HEADER..][..in_block(length)];
            self.large.extend_from_slice(start);
        }
        while self.large.len() < length {
            if self.large.capacity() == self.large.len() {
                reserve(&mut self.large, length)?;
            }
            let room = self.large.capacity() - self.large.len();
            let most = room.min(length - self.large.len());
            if line.try_append(&mut self.large, most)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Makes room for more of `length` bytes: a step at first, then twice as much each time.
fn reserve(payload: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let more = payload.len().max(STEP).min(length - payload.len());
    let reserved = payload.try_reserve_exact(more);
    reserved.map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// A large payload, which becomes the value where that is nothing but bytes.
struct Payload {
    bytes: Vec<u8>,
    taken: usize,
}

impl Payload {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, taken: 0 }
    }
}

impl Input for Payload {
    #[inline]
    fn take(&mut self, into: &mut [u8]) -> bool {
        let Some(bytes) = self.bytes[self.taken..].get(..into.len()) else {
            return false;
        };
        into.copy_from_slice(bytes);
        self.taken += into.len();
        true
    }

    fn take_all(&mut self) -> Option<Vec<u8>> {
        let mut bytes = mem::take(&mut self.bytes);
        bytes.drain(..mem::take(&mut self.taken));
        Some(bytes)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.taken
    }
}
