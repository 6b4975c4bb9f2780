//! The end of a stream that receives: whole messages, one after the other, to whichever thread
//! asks.

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

/// Why such an end cannot be sent elsewhere.
pub(super) const HALF_RECEIVED: &str =
    "a connection cannot travel while a message is half received from it";

/// One process's end of a stream that receives.
#[derive(Debug)]
pub(super) struct RecvHalf {
    stream: ByteStream,
    /// Locked by the thread whose turn it is to receive, also while it waits.
    state: Mutex<RecvState>,
}

#[derive(Debug, Default)]
struct RecvState {
    /// The next message, as far as it has come.
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

    /// Where it receives from; none while a message is half received, whose other half would get
    /// lost elsewhere.
    pub(super) fn stream(&self) -> Option<&ByteStream> {
        let is_between_messages = self.state.try_lock().is_none_or(|it| it.next.is_empty());
        is_between_messages.then_some(&self.stream)
    }

    #[inline]
    pub(super) fn recv<T: Wire>(&self) -> Result<T> {
        self.next()?.decode()
    }

    pub(super) fn try_recv<T: Wire>(&self) -> Result<T> {
        let message = self.next_until(Some(Instant::now()))?;
        let message = message.ok_or_else(|| Error::new(ErrorKind::Empty, "no message is there"));
        message?.decode()
    }

    pub(super) fn recv_timeout<T: Wire>(&self, limit: Duration) -> Result<T> {
        let message = self.next_until(Instant::now().checked_add(limit))?;
        let message = message.ok_or_else(|| {
            let message = format!("no message has come within {limit:?}");
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
        // Of a message that may not fit, something must stay where it is, so that the descriptor
        // stays readable.
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

    /// The next message, undecoded; none when it has not all come at the deadline, an error when it
    /// is larger than `max_len` bytes: then nothing more can be received.
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
            is_too_large = next.payload_len().is_some_and(|it| it > max_len);
            if is_too_large {
                return Ok(());
            }
            next.advance(stream, fd_lists)
        })?;
        if is_too_large {
            let message = format!("a message is larger than the {max_len} bytes that are allowed");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(has_come.then(|| mem::take(&mut state.next)))
    }

    #[inline]
    fn next(&self) -> Result<IncomingMessage> {
        let message = self.next_until(None)?;
        Ok(message.expect("a wait without a limit ends with a message"))
    }

    /// The next message; none when it has not all come at the deadline.
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

    /// Fills `buffer` with a payload of which `payload_offset` has come.
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

    /// Repeats a step that would block until it does not; false when it still would at the
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
            let (mut outcome, before) = (Ok(()), next.received_len());
            // A part is as good a reason to go on asking as the whole.
            let mut has_moved = || {
                outcome = step(next, stream, fd_lists);
                !would_block(&outcome) || next.received_len() > before
            };
            let limit = deadline.map(|it| it.saturating_duration_since(Instant::now()));
            let has_moved = match limit {
                Some(Duration::ZERO) => has_moved(),
                _ => spin.spin_until(has_moved),
            };
            if !would_block(&outcome) {
                return outcome.map(|()| true).map_err(recv_error);
            }
            if has_moved {
                continue;
            }
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
            "failed to receive a message: what the other end sends is none",
        ),
        _ => Error::io("failed to receive a message", error),
    }
}

#[cold]
fn err_buffer_too_small(len: usize, room: usize) -> Error {
    let message = format!("a message of {len} bytes does not fit into {room}");
    Error::new(ErrorKind::InvalidInput, message)
}

impl AsFd for RecvHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
