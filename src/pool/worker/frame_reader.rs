//! Reads the request pipe and splits the bytes into frames.

use crate::pool::protocol::RequestHeader;
use crate::sys::{pipe, poll};
use std::{io, ops::Range, os::fd::OwnedFd, time::Duration};

/// Bytes; the default capacity of a pipe, which bounds a single read.
const MAX_READ: usize = 64 << 10;

/// Bytes; the initial size of the buffer, and all of it that an idle worker touches.
const MIN_BUFFER: usize = 8 << 10;

/// Reads all available bytes and returns complete frames one by one.
#[derive(Debug)]
pub(crate) struct FrameReader {
    pipe: OwnedFd,
    buffer: Vec<u8>,
    /// The bytes that were read and not returned.
    unread: Range<usize>,
    /// The payload of the frame that was returned last.
    payload: Range<usize>,
}

impl FrameReader {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe,
            buffer: vec![0; MIN_BUFFER],
            unread: 0..0,
            payload: 0..0,
        }
    }

    /// Returns the next frame that was read completely.
    pub(crate) fn buffered(&mut self) -> Option<RequestHeader> {
        let bytes = &self.buffer[self.unread.clone()];
        let header = RequestHeader::from_bytes(bytes.first_chunk()?)?;
        let length = RequestHeader::SIZE + header.length as usize;
        if bytes.len() < length {
            return None;
        }
        let end = self.unread.start + length;
        self.payload = self.unread.start + RequestHeader::SIZE..end;
        self.unread.start = end;
        Some(header)
    }

    /// Returns the payload of the frame that was returned last.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.buffer[self.payload.clone()]
    }

    /// Waits for bytes. Returns false if none arrived within `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        // The next read reports the error.
        poll::is_readable(&self.pipe, Some(limit)).unwrap_or(true)
    }

    /// Shrinks the buffer to its initial size if it is empty.
    pub(crate) fn shrink(&mut self) {
        if self.unread.is_empty() {
            self.buffer.truncate(MIN_BUFFER);
            self.buffer.shrink_to_fit();
            self.unread = 0..0;
            self.payload = 0..0;
        }
    }

    /// Waits for more bytes. Returns false at the end of file, or if the bytes are not a frame.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        let Some(wanted) = self.wanted() else {
            return Ok(false);
        };
        self.make_room(wanted);
        let count = pipe::read(&self.pipe, &mut self.buffer[self.unread.end..])?;
        self.unread.end += count;
        Ok(count > 0)
    }

    /// Returns the size of the incomplete frame. `None` if its header is invalid.
    fn wanted(&self) -> Option<usize> {
        let unread = &self.buffer[self.unread.clone()];
        let Some(header) = unread.first_chunk() else {
            return Some(RequestHeader::SIZE);
        };
        Some(RequestHeader::SIZE + RequestHeader::from_bytes(header)?.length as usize)
    }

    /// Moves the unread bytes to the front, and grows the buffer for the whole frame and a full
    /// read.
    fn make_room(&mut self, wanted: usize) {
        let was_full = self.unread.end == self.buffer.len();
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        self.payload = 0..0;
        let grown = if was_full {
            (self.buffer.len() * 2).min(MAX_READ)
        } else {
            0
        };
        let needed = wanted.max(grown).max(self.unread.end + 1);
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        }
    }
}
