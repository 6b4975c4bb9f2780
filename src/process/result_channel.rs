//! The result of a child: the child sends it into its socket and never waits for its parent to read
//! it.
//!
//! A large value stays in shared memory, and only its descriptor is sent. So an unread result takes
//! at most two of the parent's descriptors, however many handles it contains.

use super::{
    control::{self, ChildMessage, send_handles},
    start::ExitRecord,
    task_error::TaskError,
};
use crate::shm::{Buffer, Cursor, SPILL, Slab};
use crate::sys::{
    crash::{self, OverflowNote},
    pidfd::WaitStatus,
    poll, socket,
};
use crate::wire::{codec, handle::Attached};
use parking_lot::{Mutex, MutexGuard};
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// The number of messages that one call reads. A child sends a few. A child that keeps sending does
/// not block its parent.
const MAX_MESSAGES: usize = 4096;

/// The child's end of the socket.
#[derive(Debug)]
pub(super) struct ResultSender(OwnedFd);

/// The sender of this process for the panic hook. Set only in programs built with
/// `panic = "abort"`.
static ABORT_SENDER: Mutex<Option<ResultSender>> = Mutex::new(None);

impl ResultSender {
    /// Creates the sender. The panic hook of this process reports to it from now on, and not to the
    /// sender inherited by a fork.
    pub(super) fn new(socket: OwnedFd) -> Self {
        // A panic that unwinds is caught and sent by `child_main`.
        if cfg!(panic = "abort") {
            *ABORT_SENDER.lock() = socket.try_clone().ok().map(Self);
        }
        Self(socket)
    }

    /// Makes the signal handler for stack overflows report to this socket.
    pub(super) fn report_overflow(&self) {
        let byte = ChildMessage::StackOverflow as u8;
        crash::note_overflow(OverflowNote::Message(self.0.as_raw_fd(), byte));
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.0
    }

    /// Sends the handles in a value. Must be called before `send_value`.
    pub(super) fn send_handles(&self, handles: &[Attached]) -> io::Result<()> {
        if handles.is_empty() {
            return Ok(());
        }
        // Messages that were sent can be received after this end is closed.
        let (ours, theirs) = socket::pair()?;
        send_handles(&ours, handles)?;
        self.send(&[ChildMessage::Handles as u8], &[theirs.as_fd()])
    }

    /// Sends the value in the buffer.
    pub(super) fn send_value(&self, result: &mut Buffer) -> Result<(), String> {
        match result.take_slab() {
            Some((slab, len)) => self.send_shared(ChildMessage::LargeValue, &slab, len),
            None => self.send_payload(
                [ChildMessage::Value, ChildMessage::LargeValue],
                result.private(),
            ),
        }
    }

    /// Sends an error instead of a value.
    pub(super) fn send_error(&self, error: &TaskError) {
        let kinds = [ChildMessage::Error, ChildMessage::LargeError];
        if self.send_payload(kinds, &encode_error(error)).is_err() {
            // If this fails too, the parent sees only the exit of this process.
            let _ = self.send_payload(kinds, &encode_error(&error.clone().truncated()));
        }
    }

    /// Sends bytes in a message, or in shared memory if they are too long for one.
    fn send_payload(&self, [small, large]: [ChildMessage; 2], bytes: &[u8]) -> Result<(), String> {
        let send = || self.send(&[&[small as u8], bytes].concat(), &[]);
        if bytes.len() <= SPILL && send().is_ok() {
            return Ok(());
        }
        let slab = Slab::from_bytes(bytes).map_err(|error| error.to_string());
        let sent = slab.and_then(|slab| self.send_shared(large, &slab, bytes.len()));
        // If this process cannot create shared memory, a longer message is tried: the socket takes
        // it up to its own limit.
        sent.or_else(|reason| send().map_err(|_| reason))
    }

    fn send_shared(&self, kind: ChildMessage, slab: &Slab, len: usize) -> Result<(), String> {
        let mut message = [kind as u8; 9];
        message[1..].copy_from_slice(&(len as u64).to_le_bytes());
        let sent = self.send(&message, &[slab.as_fd()]);
        sent.map_err(|error| error.to_string())
    }

    /// Sends a message. Does nothing if the parent has closed its end.
    fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match socket::try_send(&self.0, message, fds) {
            Err(error) if socket::is_closed(&error) => Ok(()),
            result => result,
        }
    }
}

/// Encodes an error. Encoding text into memory cannot fail.
fn encode_error(error: &TaskError) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = codec::encode(error, &mut bytes);
    bytes
}

/// Sends an error from the panic hook of a process that is about to abort.
pub(super) fn report_before_abort(error: TaskError) {
    if let Some(sender) = ABORT_SENDER.lock().take() {
        sender.send_error(&error);
    }
}

/// The parent's end of the socket, and the messages received so far.
#[derive(Debug)]
pub(super) struct ResultReceiver {
    socket: OwnedFd,
    received: Mutex<ReceivedMessages>,
}

#[derive(Debug, Default)]
struct ReceivedMessages {
    /// The socket that contains the handles in the value.
    handles: Option<OwnedFd>,
    result: ChildResult,
    /// The exit status, from the fork server's record.
    exit_status: Option<WaitStatus>,
    has_overflowed: bool,
    /// Whether the child's end is closed, so that no message follows.
    is_closed: bool,
    /// The error of the last attempt to receive a message.
    receive_error: Option<String>,
}

/// The result of a child.
#[derive(Debug, Default)]
pub(super) enum ChildResult {
    #[default]
    Missing,
    Value(ResultPayload),
    Error(TaskError),
}

/// The encoding of a result.
#[derive(Debug)]
pub(super) enum ResultPayload {
    /// A message; the encoding follows its first byte.
    Inline(Vec<u8>),
    /// The slab and the length of the encoding in bytes.
    Shared(OwnedFd, usize),
    /// The reason why the encoding was lost.
    Lost(String),
}

impl ResultReceiver {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            received: Mutex::default(),
        }
    }

    /// Waits for the fork server's record and returns the exit status. Returns `None` if the record
    /// does not arrive within `limit`.
    pub(super) fn wait_for_exit_record(&self, limit: Duration) -> Option<WaitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let received = self.poll_messages();
            let remaining = deadline.saturating_duration_since(Instant::now());
            if received.is_done() || remaining.is_zero() {
                return received.exit_status;
            }
            drop(received);
            if !poll::is_readable(&self.socket, Some(remaining)).ok()? {
                return None;
            }
        }
    }

    /// Whether the child has sent a value.
    pub(super) fn has_value(&self) -> bool {
        matches!(self.poll_messages().result, ChildResult::Value(_))
    }

    /// Whether a thread of the child has overflowed its stack.
    pub(super) fn has_overflowed(&self) -> bool {
        self.poll_messages().has_overflowed
    }

    /// Takes the result and the handles in it. Called after the child has exited.
    pub(super) fn take(&self) -> (ChildResult, Vec<Attached>) {
        let mut received = self.poll_messages();
        let result = mem::take(&mut received.result);
        let handles = received.handles.take();
        let result = match (result, received.receive_error.take()) {
            (ChildResult::Missing, Some(reason)) => ChildResult::Value(ResultPayload::Lost(reason)),
            (result, _) => result,
        };
        drop(received);
        (result, handles.map(receive_handles).unwrap_or_default())
    }

    /// Receives the messages that have arrived.
    fn poll_messages(&self) -> MutexGuard<'_, ReceivedMessages> {
        let mut received = self.received.lock();
        let mut remaining = MAX_MESSAGES;
        received.receive_error = loop {
            if remaining == 0 {
                break None;
            }
            remaining -= 1;
            match socket::try_receive_whole(&self.socket) {
                Ok((message, fds)) if !message.is_empty() => received.add(message, fds),
                Ok(_) => {
                    received.is_closed = true;
                    break None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                // For example, this process has too many descriptors now, and fewer later.
                Err(error) => break Some(error.to_string()),
            }
        };
        received
    }
}

/// Receives the descriptors in a socket. Those for which this process has no room are missing.
fn receive_handles(socket: OwnedFd) -> Vec<Attached> {
    let received = std::iter::from_fn(|| {
        let mut message = [0; control::MAX_MESSAGE_LEN];
        let (len, fds) = socket::try_receive(&socket, &mut message).ok()?;
        let (_, kinds) = message[..len].split_first()?;
        Some(Attached::received(fds, kinds))
    });
    received.take(MAX_MESSAGES).flatten().collect()
}

impl ReceivedMessages {
    /// Whether the exit record has arrived or cannot arrive.
    fn is_done(&self) -> bool {
        self.is_closed || self.receive_error.is_some() || self.exit_status.is_some()
    }

    fn add(&mut self, message: Vec<u8>, mut fds: Vec<OwnedFd>) {
        let is = |kind: ChildMessage| message[0] == kind as u8;
        if is(ChildMessage::Handles) {
            self.handles = fds.pop();
        } else if is(ChildMessage::Value) {
            self.result = ChildResult::Value(ResultPayload::Inline(message));
        } else if is(ChildMessage::Error) {
            self.result = ChildResult::Error(decode_error(ResultPayload::Inline(message)));
        } else if is(ChildMessage::LargeValue) {
            self.result = ChildResult::Value(ResultPayload::shared(&message, fds.pop()));
        } else if is(ChildMessage::LargeError) {
            self.result =
                ChildResult::Error(decode_error(ResultPayload::shared(&message, fds.pop())));
        } else if is(ChildMessage::StackOverflow) {
            self.has_overflowed = true;
        } else if message[0] == ExitRecord::MARK {
            self.exit_status = ExitRecord::find(&message).map(|record| record.0);
        }
    }
}

fn decode_error(payload: ResultPayload) -> TaskError {
    let decoded = payload.read(|mut bytes| codec::decode(&mut bytes));
    let garbled = |_| TaskError::Setup("the error of the process cannot be decoded".to_owned());
    decoded.and_then(|error| error).unwrap_or_else(garbled)
}

impl ResultPayload {
    fn shared(message: &[u8], fd: Option<OwnedFd>) -> Self {
        let len = message[1..].first_chunk().copied();
        match (fd, len.map(u64::from_le_bytes)) {
            (Some(fd), Some(len)) => Self::Shared(fd, len as usize),
            _ => Self::Lost("its shared memory was not received".to_owned()),
        }
    }

    /// Calls `read` with the encoding. Fails with the reason why the encoding is unavailable.
    pub(super) fn read<T>(self, read: impl FnOnce(Cursor<'_>) -> T) -> Result<T, String> {
        match self {
            Self::Inline(message) => Ok(read(Cursor::new(&message[1..]))),
            Self::Shared(fd, len) => {
                let slab = Slab::from_fd(0, fd).map_err(|error| error.to_string())?;
                if len > slab.capacity() {
                    return Err("its shared memory is shorter than its length".to_owned());
                }
                Ok(read(slab.read(len)))
            }
            Self::Lost(reason) => Err(reason),
        }
    }
}
