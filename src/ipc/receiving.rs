//! The end of a line that receives: whole messages, one after the other, to whichever thread asks.

use super::line::{BLOCK, HEADER, INLINE, Line};
use super::lists::Lists;
use super::message::Message;
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

/// One process's end of a line that receives.
#[derive(Debug)]
pub(super) struct ReceivingEnd {
    line: Line,
    /// Locked by the thread whose turn it is to receive, also while it waits.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The next message, as far as it has come.
    next: Message,
    lists: Lists,
    spin: Spin,
}

impl ReceivingEnd {
    pub(super) fn new(line: Line) -> Self {
        Self {
            line,
            state: Mutex::default(),
        }
    }

    /// Where it receives from; none while a message is half received, whose other half would get lost elsewhere.
    pub(super) fn line(&self) -> Option<&Line> {
        let is_between_messages = self.state.try_lock().is_none_or(|it| it.next.is_empty());
        is_between_messages.then_some(&self.line)
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
        poll::readable(&self.line, Some(limit)).map_err(failed)
    }

    pub(super) fn recv_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.next()?.into_bytes())
    }

    pub(super) fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut state = self.state.lock();
        // Of a message that may not fit, something must stay where it is, so that the descriptor stays readable.
        if buffer.len() < INLINE {
            state.wait_for(&self.line, |next, line, _| next.advance_block(line, HEADER))?;
        } else {
            state.wait_for(&self.line, Message::advance_start)?;
        }
        let length = state.next.length().unwrap_or_default();
        let room = buffer.len();
        let buffer = buffer.get_mut(..length);
        let buffer = buffer.ok_or_else(|| does_not_fit(length, room))?;
        state.wait_for(&self.line, Message::advance_start)?;
        let start = mem::take(&mut state.next);
        state.read_rest(&self.line, start.payload(), buffer)?;
        Ok(length)
    }

    /// The next message, undecoded; none when it has not all come at the deadline, an error when it is larger than `most` bytes:
    /// then nothing more can be received.
    #[inline]
    pub(super) fn recv_message(
        &self,
        most: usize,
        deadline: Option<Instant>,
    ) -> Result<Option<Message>> {
        let Some(mut state) = self.turn(deadline) else {
            return Ok(None);
        };
        let mut is_too_large = false;
        let has_come = state.wait_until(&self.line, deadline, |next, line, lists| {
            next.advance_block(line, BLOCK)?;
            is_too_large = next.length().is_some_and(|it| it > most);
            if is_too_large {
                return Ok(());
            }
            next.advance(line, lists)
        })?;
        if is_too_large {
            let message = format!("a message is larger than the {most} bytes that are allowed");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(has_come.then(|| mem::take(&mut state.next)))
    }

    #[inline]
    fn next(&self) -> Result<Message> {
        let message = self.next_until(None)?;
        Ok(message.expect("a wait without a limit ends with a message"))
    }

    /// The next message; none when it has not all come at the deadline.
    #[inline]
    fn next_until(&self, deadline: Option<Instant>) -> Result<Option<Message>> {
        let Some(mut state) = self.turn(deadline) else {
            return Ok(None);
        };
        let has_come = state.wait_until(&self.line, deadline, Message::advance)?;
        Ok(has_come.then(|| mem::take(&mut state.next)))
    }

    fn turn(&self, deadline: Option<Instant>) -> Option<MutexGuard<'_, State>> {
        match deadline {
            None => Some(self.state.lock()),
            Some(deadline) => self.state.try_lock_until(deadline),
        }
    }
}

impl State {
    fn wait_for(
        &mut self,
        line: &Line,
        step: impl FnMut(&mut Message, &Line, &mut Lists) -> io::Result<()>,
    ) -> Result<()> {
        self.wait_until(line, None, step).map(drop)
    }

    /// Fills `buffer` with a payload of which `start` has come.
    fn read_rest(&mut self, line: &Line, start: &[u8], buffer: &mut [u8]) -> Result<()> {
        buffer[..start.len()].copy_from_slice(start);
        let mut filled = start.len();
        while filled < buffer.len() {
            self.wait_for(line, |_, line, _| {
                match line.try_read(&mut buffer[filled..])? {
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

    /// Repeats a step that would block until it does not; false when it still would at the deadline.
    #[inline]
    fn wait_until(
        &mut self,
        line: &Line,
        deadline: Option<Instant>,
        mut step: impl FnMut(&mut Message, &Line, &mut Lists) -> io::Result<()>,
    ) -> Result<bool> {
        let Self { next, lists, spin } = self;
        loop {
            let (mut outcome, before) = (Ok(()), next.received());
            // A part is as good a reason to go on asking as the whole.
            let mut has_moved = || {
                outcome = step(next, line, lists);
                !would_block(&outcome) || next.received() > before
            };
            let limit = deadline.map(|it| it.saturating_duration_since(Instant::now()));
            let has_moved = match limit {
                Some(Duration::ZERO) => has_moved(),
                _ => spin.until(has_moved),
            };
            if !would_block(&outcome) {
                return outcome.map(|()| true).map_err(failed);
            }
            if has_moved {
                continue;
            }
            if !poll::readable(line, limit).map_err(failed)? {
                return Ok(false);
            }
        }
    }
}

fn would_block(outcome: &io::Result<()>) -> bool {
    matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cold]
fn failed(error: io::Error) -> Error {
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
fn does_not_fit(length: usize, room: usize) -> Error {
    let message = format!("a message of {length} bytes does not fit into {room}");
    Error::new(ErrorKind::InvalidInput, message)
}

impl AsFd for ReceivingEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}
