//! An incoming message: the part that has arrived, and its content once it is complete.

use super::fd_lists::FdLists;
use super::framing::{BLOCK_LEN, ByteStream, HEADER_LEN, MessageHeader, StreamKind, TAG_LEN};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::Cursor;
use crate::sys::{
    fd_list::{self, FrameTag, PartKind},
    socket,
};
use crate::wire::{
    Wire,
    codec::{self, ByteSource},
    handle::{self, Attached, Descriptor},
};
use std::{io, mem};

/// Bytes by which the buffer grows at first. An announced length may be a lie, which then costs no
/// more memory than the data that arrives.
const READ_STEP: usize = 1 << 20;

/// The next message of a stream. It can be received in pieces: a wait may end in the middle of it.
#[derive(Debug)]
pub(crate) struct IncomingMessage {
    block: [u8; BLOCK_LEN],
    /// Bytes of the first block that have arrived.
    filled: usize,
    /// The part of the payload that has arrived, if the payload is larger than the block.
    large: Vec<u8>,
    descriptors: Vec<Attached>,
    /// How many parts of its list of descriptors have arrived in a socket's stream.
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
    /// Whether nothing has arrived yet.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Returns how many bytes and list parts have arrived.
    #[inline]
    pub(super) fn received_len(&self) -> usize {
        self.filled + self.large.len()
    }

    /// Returns the length of the payload in bytes; `None` until the header has arrived.
    #[inline]
    pub(super) fn payload_len(&self) -> Option<usize> {
        (self.filled >= HEADER_LEN).then(|| self.header().len)
    }

    fn header(&self) -> MessageHeader {
        let header = self.block.first_chunk();
        MessageHeader::from_bytes(*header.expect("a block is longer than a header"))
    }

    /// Returns the tag of its list of descriptors.
    fn tag(&self) -> FrameTag {
        let tag = self.block[HEADER_LEN..][..TAG_LEN].first_chunk();
        *tag.expect("the slice has the length of a tag")
    }

    /// Receives the missing part. Fails with `WouldBlock` if more is to come, and with
    /// `UnexpectedEof` at the end of the stream.
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

    /// Receives everything except the payload after the first block.
    #[inline]
    pub(super) fn advance_start(
        &mut self,
        stream: &ByteStream,
        fd_lists: &mut FdLists,
    ) -> io::Result<()> {
        self.advance_block(stream, BLOCK_LEN)?;
        while self.header().descriptors > 0 && !self.has_all_descriptors {
            if !self.advance_descriptors(stream, fd_lists)? {
                // The sender failed between the block and the list, and its end marked the list as
                // given up. The stream continues with the next message.
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

    /// Returns false if the sender gave the message up, which only a socket's stream shows.
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
            // Another process took them, or this process was out of descriptors. Drop all: a
            // partial list would put some into the wrong places.
            self.descriptors.clear();
        }
        self.has_all_descriptors = is_sent;
        Ok(is_sent)
    }

    /// Receives the list in a socket's stream. Returns false if the sender gave up the list, and
    /// the message with it. Fails with `InvalidData`, from now on, if the list is not the announced
    /// one: such a peer could use up all descriptors of this process.
    fn advance_list(&mut self, socket: &Descriptor, tag: FrameTag) -> io::Result<bool> {
        let count = self.header().descriptors;
        loop {
            // The list needs this many parts, and giving it up takes one more.
            if self.parts > count.div_ceil(socket::MAX_FDS) {
                self.descriptors.clear();
                return Err(io::ErrorKind::InvalidData.into());
            }
            let part = fd_list::try_receive_part(socket)?;
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

    /// Returns the part of the payload that has arrived.
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

    /// Takes the handles that came with the message.
    #[inline]
    pub(crate) fn take_descriptors(&mut self) -> Vec<Attached> {
        mem::take(&mut self.descriptors)
    }

    /// Returns the payload of a complete message.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        if self.large.is_empty() {
            return self.payload().to_vec();
        }
        self.large
    }

    /// Decodes a complete message.
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

/// Reserves memory for a payload of `len` bytes: one step at first, then doubling.
fn reserve(payload: &mut Vec<u8>, len: usize) -> io::Result<()> {
    let more = payload.len().max(READ_STEP).min(len - payload.len());
    let reserved = payload.try_reserve_exact(more);
    reserved.map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// A large payload; the memory itself becomes the value if the type is plain bytes.
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

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }
}
