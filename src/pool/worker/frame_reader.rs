//! The worker's end of the request pipe: bytes into frames.

use crate::pool::protocol::RequestHeader;
use crate::sys::{pipe, poll};
use std::{io, ops::Range, os::fd::OwnedFd, time::Duration};

/// Bytes; a pipe's default capacity is the most that one read returns.
const MAX_READ: usize = 64 << 10;

/// Bytes to begin with: an idle worker touches no more.
const MIN_BUFFER: usize = 8 << 10;

/// Reads as much as is there, and hands out whole frames one by one.
#[derive(Debug)]
pub(crate) struct FrameReader {
    pipe: OwnedFd,
    buffer: Vec<u8>,
    /// What was read and not handed out.
    unread: Range<usize>,
    /// The bytes behind the head handed out last.
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

    /// The next frame that has been read whole.
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

    /// The bytes that came with the head handed out last.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.buffer[self.payload.clone()]
    }

    /// Waits for a while; false if nothing came.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        // A failure is reported by the read that follows.
        poll::is_readable(&self.pipe, Some(limit)).unwrap_or(true)
    }

    /// Gives back what the buffer took beyond its first size, if nothing lies in it.
    pub(crate) fn shrink(&mut self) {
        if self.unread.is_empty() {
            self.buffer.truncate(MIN_BUFFER);
            self.buffer.shrink_to_fit();
            (self.unread, self.payload) = (0..0, 0..0);
        }
    }

    /// Waits for more bytes; false at the end of file, or when what was read is not a frame.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        let Some(wanted) = self.wanted() else {
            return Ok(false);
        };
        self.make_room(wanted);
        let count = pipe::read(&self.pipe, &mut self.buffer[self.unread.end..])?;
        self.unread.end += count;
        Ok(count > 0)
    }

    /// Bytes of the frame that is not yet whole; none if its head is nonsense.
    fn wanted(&self) -> Option<usize> {
        let unread = &self.buffer[self.unread.clone()];
        let Some(header) = unread.first_chunk() else {
            return Some(RequestHeader::SIZE);
        };
        Some(RequestHeader::SIZE + RequestHeader::from_bytes(header)?.length as usize)
    }

    /// Moves what is unread to the front, and makes the buffer as large as the frame and as what
    /// one read may bring.
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
