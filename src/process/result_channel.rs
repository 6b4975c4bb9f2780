//! What becomes of a child: it leaves that in its socket, where it waits for a starter that may
//! never read.
//!
//! A large value lies in shared memory, which only its descriptor waits for. So a result takes no
//! more than two of the starter's descriptors before it is wanted, however many handles are in it.

use super::{
    control::{self, ChildMessage, send_handles},
    start::ExitRecord,
    task_error::TaskError,
};
use crate::shm::{Buffer, Cursor, SPILL, Slab};
use crate::sys::{
    child::WaitStatus,
    crash::{self, OverflowNote},
    poll, socket,
};
use crate::wire::{codec, handle::Attached};
use parking_lot::{Mutex, MutexGuard};
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Messages that are taken in at a time: a child says a few things, and one that goes on talking
/// holds nobody up.
const MOST_MESSAGES: usize = 4096;

/// A child's end.
#[derive(Debug)]
pub(super) struct ResultSender(OwnedFd);

/// That of this process, where the panic hook finds it.
static ABORT_SENDER: Mutex<Option<ResultSender>> = Mutex::new(None);

impl ResultSender {
    /// The child's end of its socket. Its last words go there, and not to that of a process which
    /// this one is a copy of.
    pub(super) fn new(socket: OwnedFd) -> Self {
        // Where a panic unwinds there are none.
        if cfg!(panic = "abort") {
            *ABORT_SENDER.lock() = socket.try_clone().ok().map(Self);
        }
        Self(socket)
    }

    /// Has an overflow of this process's stack left there, too.
    pub(super) fn report_overflow(&self) {
        let byte = ChildMessage::StackOverflow as u8;
        crash::note_overflow(OverflowNote::Message(self.0.as_raw_fd(), byte));
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.0
    }

    /// Leaves the handles in a value, before that.
    pub(super) fn send_handles(&self, handles: &[Attached]) -> io::Result<()> {
        if handles.is_empty() {
            return Ok(());
        }
        // What was sent can be received when this end is closed.
        let (ours, theirs) = socket::pair()?;
        send_handles(&ours, handles)?;
        self.send(&[ChildMessage::Handles as u8], &[theirs.as_fd()])
    }

    /// Leaves a value, the only one in the buffer.
    pub(super) fn send_value(&self, result: &mut Buffer) -> Result<(), String> {
        match result.take_slab() {
            Some((slab, len)) => self.send_shared(ChildMessage::LargeValue, &slab, len),
            None => self.send_payload(
                [ChildMessage::Value, ChildMessage::LargeValue],
                result.private(),
            ),
        }
    }

    /// Leaves why there is no value.
    pub(super) fn send_error(&self, error: &TaskError) {
        let kinds = [ChildMessage::Error, ChildMessage::LargeError];
        if self.send_payload(kinds, &encode_error(error)).is_err() {
            // There is nobody else to tell.
            let _ = self.send_payload(kinds, &encode_error(&error.clone().truncated()));
        }
    }

    /// In a message, or in shared memory where that is too long for one.
    fn send_payload(&self, [small, large]: [ChildMessage; 2], bytes: &[u8]) -> Result<(), String> {
        let send = || self.send(&[&[small as u8], bytes].concat(), &[]);
        if bytes.len() <= SPILL && send().is_ok() {
            return Ok(());
        }
        let slab = Slab::from_bytes(bytes).map_err(|it| it.to_string());
        let sent = slab.and_then(|it| self.send_shared(large, &it, bytes.len()));
        // A socket takes longer ones, up to its limit: where this process can have no shared memory
        // any more, they are tried.
        sent.or_else(|why| send().map_err(|_| why))
    }

    fn send_shared(&self, what: ChildMessage, slab: &Slab, len: usize) -> Result<(), String> {
        let mut message = [what as u8; 9];
        message[1..].copy_from_slice(&(len as u64).to_le_bytes());
        let sent = self.send(&message, &[slab.as_fd()]);
        sent.map_err(|it| it.to_string())
    }

    /// To a starter that is gone, nothing is sent.
    fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match socket::try_send(&self.0, message, fds) {
            Err(error) if socket::is_closed(&error) => Ok(()),
            sent => sent,
        }
    }
}

/// Text in memory cannot fail to encode.
fn encode_error(error: &TaskError) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = codec::encode(error, &mut bytes);
    bytes
}

/// Leaves an error that ends this process before anything else can be said.
pub(super) fn report_before_abort(error: TaskError) {
    if let Some(report) = ABORT_SENDER.lock().take() {
        report.send_error(&error);
    }
}

/// The starter's end, and what has come there.
#[derive(Debug)]
pub(super) struct ResultReceiver {
    socket: OwnedFd,
    received: Mutex<ReceivedMessages>,
}

#[derive(Debug, Default)]
struct ReceivedMessages {
    /// Where the handles in the value lie.
    handles: Option<OwnedFd>,
    result: ChildResult,
    /// How it ended, by the fork server's record.
    exit_status: Option<WaitStatus>,
    has_overflowed: bool,
    /// Whether nothing more comes.
    is_closed: bool,
    /// Why what is there could not be taken in.
    receive_error: Option<String>,
}

/// What a child has left.
#[derive(Debug, Default)]
pub(super) enum ChildResult {
    #[default]
    Missing,
    Value(ResultPayload),
    Error(TaskError),
}

/// The encoding of what was left.
#[derive(Debug)]
pub(super) enum ResultPayload {
    /// Behind the first byte of a message.
    Inline(Vec<u8>),
    /// So many bytes of a slab.
    Shared(OwnedFd, usize),
    /// Why it is not there.
    Lost(String),
}

impl ResultReceiver {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            received: Mutex::default(),
        }
    }

    /// How it ended, by the fork server's record, which may need a moment; none if it does not
    /// come.
    pub(super) fn wait_for_exit_record(&self, limit: Duration) -> Option<WaitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let received = self.poll_messages();
            let left = deadline.saturating_duration_since(Instant::now());
            if received.is_done() || left.is_zero() {
                return received.exit_status;
            }
            drop(received);
            if !poll::is_readable(&self.socket, Some(left)).ok()? {
                return None;
            }
        }
    }

    /// Whether it has left a value so far.
    pub(super) fn has_value(&self) -> bool {
        matches!(self.poll_messages().result, ChildResult::Value(_))
    }

    /// Whether a thread of it has overflowed its stack.
    pub(super) fn has_overflowed(&self) -> bool {
        self.poll_messages().has_overflowed
    }

    /// Takes what it has left, and the handles in that; nothing more comes when it has ended.
    pub(super) fn take(&self) -> (ChildResult, Vec<Attached>) {
        let mut received = self.poll_messages();
        let (left, handles) = (mem::take(&mut received.result), received.handles.take());
        let left = match (left, received.receive_error.take()) {
            (ChildResult::Missing, Some(reason)) => ChildResult::Value(ResultPayload::Lost(reason)),
            (left, _) => left,
        };
        drop(received);
        (left, handles.map(receive_handles).unwrap_or_default())
    }

    /// Takes in what has come.
    fn poll_messages(&self) -> MutexGuard<'_, ReceivedMessages> {
        let mut received = self.received.lock();
        let mut left = MOST_MESSAGES;
        received.receive_error = loop {
            if left == 0 {
                break None;
            }
            left -= 1;
            match socket::try_receive_whole(&self.socket) {
                Ok((message, fds)) if !message.is_empty() => received.add(message, fds),
                Ok(_) => {
                    received.is_closed = true;
                    break None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                // This process has no room for what comes along, say, and may have it later.
                Err(error) => break Some(error.to_string()),
            }
        };
        received
    }
}

/// The descriptors that lie in a socket; those for which this process has no room are missing.
fn receive_handles(socket: OwnedFd) -> Vec<Attached> {
    let received = std::iter::from_fn(|| {
        let mut message = [0; control::LONGEST];
        let (len, fds) = socket::try_receive(&socket, &mut message).ok()?;
        let (_, kinds) = message[..len].split_first()?;
        Some(Attached::received(fds, kinds))
    });
    received.take(MOST_MESSAGES).flatten().collect()
}

impl ReceivedMessages {
    /// Whether there is nothing to wait for.
    fn is_done(&self) -> bool {
        self.is_closed || self.receive_error.is_some() || self.exit_status.is_some()
    }

    fn add(&mut self, message: Vec<u8>, mut fds: Vec<OwnedFd>) {
        let is = |it: ChildMessage| message[0] == it as u8;
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
            self.exit_status = ExitRecord::find(&message).map(|it| it.0);
        }
    }
}

fn decode_error(payload: ResultPayload) -> TaskError {
    let read = payload.read(|mut bytes| codec::decode(&mut bytes));
    let garbled = |_| TaskError::Setup("what the process said cannot be read".to_owned());
    read.and_then(|it| it).unwrap_or_else(garbled)
}

impl ResultPayload {
    fn shared(message: &[u8], fd: Option<OwnedFd>) -> Self {
        let len = message[1..].first_chunk().copied();
        match (fd, len.map(u64::from_le_bytes)) {
            (Some(fd), Some(len)) => Self::Shared(fd, len as usize),
            _ => Self::Lost("its shared memory has not come with it".to_owned()),
        }
    }

    /// Has it read; an error says why it is not there.
    pub(super) fn read<T>(self, read: impl FnOnce(Cursor<'_>) -> T) -> Result<T, String> {
        match self {
            Self::Inline(message) => Ok(read(Cursor::new(&message[1..]))),
            Self::Shared(fd, len) => {
                let slab = Slab::from_fd(0, fd).map_err(|it| it.to_string())?;
                if len > slab.capacity() {
                    return Err("its shared memory is shorter than it says".to_owned());
                }
                Ok(read(slab.read(len)))
            }
            Self::Lost(reason) => Err(reason),
        }
    }
}
