//! The receiving half of a stream: delivers whole messages in order to any thread that asks.

use super::fd_lists::FdLists;
use super::framing::{BLOCK_LEN, ByteStream, HEADER_LEN, MAX_INLINE_LEN};
use super::message::IncomingMessage;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{poll, socket, spin::Spin};
use crate::wire::Wire;
use parking_lot::{Mutex, MutexGuard};
use std::{
    io, mem,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// Why such an end cannot be sent.
pub(super) const HALF_RECEIVED: &str =
    "a connection cannot be sent while a message is partly received";

/// The receiving half of a stream in one process.
#[derive(Debug)]
pub(super) struct RecvHalf {
    stream: ByteStream,
    /// Locked by the receiving thread, also while it waits.
    state: Mutex<RecvState>,
}

#[derive(Debug, Default)]
struct RecvState {
    /// The next message, as received so far.
    next: IncomingMessage,
    fd_lists: FdLists,
    spin: Spin,
}

impl RecvHalf {
    pub(super) fn new(stream: ByteStream) -> Self {
        Self {
            stream,
            state: Mutex::default(),
        }
    }

    /// Returns the stream; `None` while a message is partly received, as its rest would get lost in
    /// another process.
    pub(super) fn stream(&self) -> Option<&ByteStream> {
        let is_between_messages = self
            .state
            .try_lock()
            .is_none_or(|state| state.next.is_empty());
        is_between_messages.then_some(&self.stream)
    }

    #[inline]
    pub(super) fn recv<T: Wire>(&self) -> Result<T> {
        self.next()?.decode()
    }

    pub(super) fn try_recv<T: Wire>(&self) -> Result<T> {
        let message = self.next_until(Some(Instant::now()))?;
        let message = message.ok_or_else(|| Error::new(ErrorKind::Empty, "no message has arrived"));
        message?.decode()
    }

    pub(super) fn recv_timeout<T: Wire>(&self, limit: Duration) -> Result<T> {
        let message = self.next_until(Instant::now().checked_add(limit))?;
        let message = message.ok_or_else(|| {
            let message = format!("no message arrived within {limit:?}");
            Error::new(ErrorKind::TimedOut, message)
        });
        message?.decode()
    }

    pub(super) fn poll(&self, limit: Duration) -> Result<bool> {
        poll::is_readable(&self.stream, Some(limit)).map_err(recv_error)
    }

    pub(super) fn recv_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.next()?.into_bytes())
    }

    pub(super) fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut state = self.state.lock();
        // Leave at least a byte of a message that may not fit, so that the descriptor stays
        // readable.
        if buffer.len() < MAX_INLINE_LEN {
            state.wait_for(&self.stream, |next, stream, _| {
                next.advance_block(stream, HEADER_LEN)
            })?;
        } else {
            state.wait_for(&self.stream, IncomingMessage::advance_start)?;
        }
        let len = state.next.payload_len().unwrap_or_default();
        let room = buffer.len();
        let buffer = buffer.get_mut(..len);
        let buffer = buffer.ok_or_else(|| err_buffer_too_small(len, room))?;
        state.wait_for(&self.stream, IncomingMessage::advance_start)?;
        let start = mem::take(&mut state.next);
        state.read_rest(&self.stream, start.payload(), buffer)?;
        Ok(len)
    }

    /// Receives the next message without decoding it. Returns `None` at the deadline. Fails if the
    /// message is larger than `max_len` bytes; nothing can be received after that.
    #[inline]
    pub(super) fn recv_message(
        &self,
        max_len: usize,
        deadline: Option<Instant>,
    ) -> Result<Option<IncomingMessage>> {
        let Some(mut state) = self.lock_state(deadline) else {
            return Ok(None);
        };
        let mut is_too_large = false;
        let has_come = state.wait_until(&self.stream, deadline, |next, stream, fd_lists| {
            next.advance_block(stream, BLOCK_LEN)?;
            is_too_large = next.payload_len().is_some_and(|len| len > max_len);
            if is_too_large {
                return Ok(());
            }
            next.advance(stream, fd_lists)
        })?;
        if is_too_large {
            let message = format!("a message exceeds the limit of {max_len} bytes");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(has_come.then(|| mem::take(&mut state.next)))
    }

    #[inline]
    fn next(&self) -> Result<IncomingMessage> {
        let message = self.next_until(None)?;
        Ok(message.expect("a wait without a deadline ends with a message"))
    }

    /// Receives the next message. Returns `None` if it is incomplete at the deadline.
    #[inline]
    fn next_until(&self, deadline: Option<Instant>) -> Result<Option<IncomingMessage>> {
        let Some(mut state) = self.lock_state(deadline) else {
            return Ok(None);
        };
        let has_come = state.wait_until(&self.stream, deadline, IncomingMessage::advance)?;
        Ok(has_come.then(|| mem::take(&mut state.next)))
    }

    fn lock_state(&self, deadline: Option<Instant>) -> Option<MutexGuard<'_, RecvState>> {
        match deadline {
            None => Some(self.state.lock()),
            Some(deadline) => self.state.try_lock_until(deadline),
        }
    }
}

impl RecvState {
    fn wait_for(
        &mut self,
        stream: &ByteStream,
        step: impl FnMut(&mut IncomingMessage, &ByteStream, &mut FdLists) -> io::Result<()>,
    ) -> Result<()> {
        self.wait_until(stream, None, step).map(drop)
    }

    /// Fills `buffer` with a payload whose beginning, `start`, has arrived already.
    fn read_rest(&mut self, stream: &ByteStream, start: &[u8], buffer: &mut [u8]) -> Result<()> {
        buffer[..start.len()].copy_from_slice(start);
        let mut filled = start.len();
        while filled < buffer.len() {
            self.wait_for(stream, |_, stream, _| {
                match stream.try_read(&mut buffer[filled..])? {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    count => {
                        filled += count;
                        Ok(())
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Repeats a step until it no longer would block. Returns false if it still would at the
    /// deadline.
    #[inline]
    fn wait_until(
        &mut self,
        stream: &ByteStream,
        deadline: Option<Instant>,
        mut step: impl FnMut(&mut IncomingMessage, &ByteStream, &mut FdLists) -> io::Result<()>,
    ) -> Result<bool> {
        let Self {
            next,
            fd_lists,
            spin,
        } = self;
        loop {
            let before = next.received_len();
            let mut outcome = Ok(());
            // Progress is a reason to keep spinning, even if the message is incomplete.
            let mut try_step = || {
                outcome = step(next, stream, fd_lists);
                !would_block(&outcome) || next.received_len() > before
            };
            let limit = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let has_moved = match limit {
                // A call that must not wait tries once and does not spin.
                Some(Duration::ZERO) => try_step(),
                _ => spin.spin_until(try_step),
            };
            if !would_block(&outcome) {
                return outcome.map(|()| true).map_err(recv_error);
            }
            if has_moved {
                continue;
            }
            // Between the last step and this call the message may arrive, or another process that
            // shares the end may take it: `poll` returns at once, or the next step would block
            // again and the loop comes back here.
            if !poll::is_readable(stream, limit).map_err(recv_error)? {
                return Ok(false);
            }
        }
    }
}

fn would_block(outcome: &io::Result<()>) -> bool {
    matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cold]
fn recv_error(error: io::Error) -> Error {
    match error.kind() {
        kind if kind == io::ErrorKind::UnexpectedEof || socket::is_closed(&error) => Error::new(
            ErrorKind::Disconnected,
            "failed to receive a message: the other end is gone",
        ),
        io::ErrorKind::InvalidData => Error::new(
            ErrorKind::Disconnected,
            "failed to receive a message: the other end breaks the protocol",
        ),
        _ => Error::io("failed to receive a message", error),
    }
}

#[cold]
fn err_buffer_too_small(len: usize, room: usize) -> Error {
    let message = format!("a message of {len} bytes does not fit into a buffer of {room}");
    Error::new(ErrorKind::InvalidInput, message)
}

impl AsFd for RecvHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
