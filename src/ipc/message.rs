//! A message on its way in: what has come of it so far, and what it holds when all of it has.

use super::fd_lists::FdLists;
use super::framing::{BLOCK_LEN, ByteStream, HEADER_LEN, MessageHeader, StreamKind, TAG_LEN};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::Cursor;
use crate::sys::socket::{self, FrameTag, PartKind};
use crate::wire::{
    Wire,
    codec::{self, ByteSource},
    handle::{self, Attached, Descriptor},
};
use std::{io, mem};

/// Bytes that memory is taken for at once: a length may be a lie, which then costs no more than
/// what really comes.
const READ_STEP: usize = 1 << 20;

/// The next message of a stream. It can be received in pieces: a wait may end in the middle of it.
#[derive(Debug)]
pub(crate) struct IncomingMessage {
    block: [u8; BLOCK_LEN],
    /// Bytes of the block that have come.
    filled: usize,
    /// The payload, if it is larger than the block, as far as it has come.
    large: Vec<u8>,
    descriptors: Vec<Attached>,
    /// Messages of their list that have come, in a socket's stream.
    parts: usize,
    has_all_descriptors: bool,
}

impl Default for IncomingMessage {
    fn default() -> Self {
        Self {
            block: [0; BLOCK_LEN],
            filled: 0,
            large: Vec::new(),
            descriptors: Vec::new(),
            parts: 0,
            has_all_descriptors: false,
        }
    }
}

impl IncomingMessage {
    /// Whether nothing of it has come.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Bytes that have come of it.
    #[inline]
    pub(super) fn received_len(&self) -> usize {
        self.filled + self.large.len()
    }

    /// Bytes of payload; none as long as the header has not come.
    #[inline]
    pub(super) fn payload_len(&self) -> Option<usize> {
        (self.filled >= HEADER_LEN).then(|| self.header().len)
    }

    fn header(&self) -> MessageHeader {
        let header = self.block.first_chunk();
        MessageHeader::from_bytes(*header.expect("a block is longer than a header"))
    }

    /// Which list of descriptors is its own, if it has any.
    fn tag(&self) -> FrameTag {
        let tag = self.block[HEADER_LEN..][..TAG_LEN].first_chunk();
        *tag.expect("a tag is as long as it is")
    }

    /// Receives what is missing. `WouldBlock` when that has not all come yet, `UnexpectedEof` when
    /// it never will.
    #[inline]
    pub(super) fn advance(
        &mut self,
        stream: &ByteStream,
        fd_lists: &mut FdLists,
    ) -> io::Result<()> {
        self.advance_start(stream, fd_lists)?;
        match self.header() {
            header if header.len > header.inline_len() => self.advance_large(stream, header),
            _ => Ok(()),
        }
    }

    /// Receives all but what is behind the first block.
    #[inline]
    pub(super) fn advance_start(
        &mut self,
        stream: &ByteStream,
        fd_lists: &mut FdLists,
    ) -> io::Result<()> {
        self.advance_block(stream, BLOCK_LEN)?;
        while self.header().descriptors > 0 && !self.has_all_descriptors {
            if !self.advance_descriptors(stream, fd_lists)? {
                *self = Self::default();
                self.advance_block(stream, BLOCK_LEN)?;
            }
        }
        Ok(())
    }

    /// Receives the first `max` bytes.
    #[inline]
    pub(super) fn advance_block(&mut self, stream: &ByteStream, max: usize) -> io::Result<()> {
        while self.filled < max {
            match stream.try_read(&mut self.block[self.filled..max])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.filled += count,
            }
        }
        Ok(())
    }

    /// False when the message was not sent after all, which in a socket's stream is known only now.
    #[cold]
    fn advance_descriptors(
        &mut self,
        stream: &ByteStream,
        fd_lists: &mut FdLists,
    ) -> io::Result<bool> {
        let (tag, count) = (self.tag(), self.header().descriptors);
        let is_sent = match (&stream.fd_socket, stream.kind) {
            (None, _) => true,
            (Some(fd_socket), StreamKind::Pipe) => {
                self.descriptors = fd_lists.claim(fd_socket, tag, count)?;
                true
            }
            (Some(fd_socket), StreamKind::Socket) => self.advance_list(fd_socket, tag)?,
        };
        if self.descriptors.len() < count {
            // Another process took them, or this one had no room for all: none is better than some
            // in others' places.
            self.descriptors.clear();
        }
        self.has_all_descriptors = is_sent;
        Ok(is_sent)
    }

    /// Receives the list that lies in the stream; false when it was given up, and the message with
    /// it. `InvalidData`, for ever, when it is not what was announced: whoever sends that could go
    /// on until no descriptor is left here.
    fn advance_list(&mut self, socket: &Descriptor, tag: FrameTag) -> io::Result<bool> {
        let count = self.header().descriptors;
        loop {
            // As many parts as its length takes, and one that gives it up.
            if self.parts > count.div_ceil(socket::MAX_FDS) {
                self.descriptors.clear();
                return Err(io::ErrorKind::InvalidData.into());
            }
            let part = socket::try_receive_part(socket)?;
            self.parts += 1;
            let attached = Attached::received(part.fds, &part.labels);
            self.descriptors.extend(attached);
            if part.tag != tag || self.descriptors.len() > count {
                self.parts = usize::MAX;
                continue;
            }
            match part.batch {
                PartKind::More => {}
                PartKind::Last => return Ok(true),
                PartKind::GivenUp => return Ok(false),
            }
        }
    }

    /// The part of the payload that has come.
    pub(crate) fn payload(&self) -> &[u8] {
        if self.filled < HEADER_LEN {
            return &[];
        }
        if self.large.is_empty() {
            let header = self.header();
            let (start, max) = (header.payload_offset(), header.inline_len());
            let end = self.filled.clamp(start, start + max);
            &self.block[start..end]
        } else {
            &self.large
        }
    }

    /// The handles that came with it.
    #[inline]
    pub(crate) fn take_descriptors(&mut self) -> Vec<Attached> {
        mem::take(&mut self.descriptors)
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
                codec::decode(&mut LargePayload::new(mem::take(&mut self.large)))
            }
        });
        decoded.map_err(|reason| {
            let message = format!("failed to decode a message: {reason}");
            Error::new(ErrorKind::Codec, message)
        })
    }

    fn advance_large(&mut self, stream: &ByteStream, header: MessageHeader) -> io::Result<()> {
        let len = header.len;
        if self.large.is_empty() {
            reserve(&mut self.large, len)?;
            let start = &self.block[header.payload_offset()..][..header.inline_len()];
            self.large.extend_from_slice(start);
        }
        while self.large.len() < len {
            if self.large.capacity() == self.large.len() {
                reserve(&mut self.large, len)?;
            }
            let room = self.large.capacity() - self.large.len();
            let max = room.min(len - self.large.len());
            if stream.try_append(&mut self.large, max)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Makes room for more of `payload_len` bytes: a step at first, then twice as much each time.
fn reserve(payload: &mut Vec<u8>, len: usize) -> io::Result<()> {
    let more = payload.len().max(READ_STEP).min(len - payload.len());
    let reserved = payload.try_reserve_exact(more);
    reserved.map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// A large payload, which becomes the value where that is nothing but bytes.
struct LargePayload {
    bytes: Vec<u8>,
    position: usize,
}

impl LargePayload {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, position: 0 }
    }
}

impl ByteSource for LargePayload {
    #[inline]
    fn take(&mut self, into: &mut [u8]) -> bool {
        let Some(bytes) = self.bytes[self.position..].get(..into.len()) else {
            return false;
        };
        into.copy_from_slice(bytes);
        self.position += into.len();
        true
    }

    fn take_all(&mut self) -> Option<Vec<u8>> {
        let mut bytes = mem::take(&mut self.bytes);
        bytes.drain(..mem::take(&mut self.position));
        Some(bytes)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }
}
