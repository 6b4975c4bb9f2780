//! What becomes of a child: it leaves that in its socket, where it waits for a starter that may never read.
//!
//! A large value lies in shared memory, which only its descriptor waits for. So a result takes no more than two of the
//! starter's descriptors before it is wanted, however many handles are in it.

use super::{
    fault::Fault,
    start::ExitRecord,
    words::{self, Said, send_handles},
};
use crate::shm::{Buffer, Cursor, SPILL, Slab};
use crate::sys::{
    child::WaitStatus,
    crash::{self, Note},
    poll, socket,
};
use crate::wire::{codec, handle::Attached};
use parking_lot::{Mutex, MutexGuard};
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Messages that are taken in at a time: a child says a few things, and one that goes on talking holds nobody up.
const MOST_MESSAGES: usize = 4096;

/// A child's end.
#[derive(Debug)]
pub(super) struct Report(OwnedFd);

/// That of this process, where the panic hook finds it.
static OWN: Mutex<Option<Report>> = Mutex::new(None);

impl Report {
    /// The child's end of its socket. Its last words go there, and not to that of a process which this one is a copy of.
    pub(super) fn new(socket: OwnedFd) -> Self {
        // Where a panic unwinds there are none.
        if cfg!(panic = "abort") {
            *OWN.lock() = socket.try_clone().ok().map(Self);
        }
        Self(socket)
    }

    /// Has an overflow of this process's stack left there, too.
    pub(super) fn note_overflow(&self) {
        let byte = Said::StackOverflow as u8;
        crash::note_overflow(Note::Message(self.0.as_raw_fd(), byte));
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.0
    }

    /// Leaves the handles in a value, before that.
    pub(super) fn handles(&self, handles: &[Attached]) -> io::Result<()> {
        if handles.is_empty() {
            return Ok(());
        }
        // What was sent can be received when this end is closed.
        let (ours, theirs) = socket::pair()?;
        send_handles(&ours, handles)?;
        self.send(&[Said::Handles as u8], &[theirs.as_fd()])
    }

    /// Leaves a value, the only one in the buffer.
    pub(super) fn value(&self, result: &mut Buffer) -> Result<(), String> {
        match result.take_slab() {
            Some((slab, length)) => self.say_large(Said::LargeValue, &slab, length),
            None => self.say([Said::Value, Said::LargeValue], result.private()),
        }
    }

    /// Leaves why there is no value.
    pub(super) fn fault(&self, fault: &Fault) {
        let kinds = [Said::Fault, Said::LargeFault];
        if self.say(kinds, &encoded(fault)).is_err() {
            // There is nobody else to tell.
            let _ = self.say(kinds, &encoded(&fault.clone().shortened()));
        }
    }

    /// In a message, or in shared memory where that is too long for one.
    fn say(&self, [small, large]: [Said; 2], bytes: &[u8]) -> Result<(), String> {
        let send = || self.send(&[&[small as u8], bytes].concat(), &[]);
        if bytes.len() <= SPILL && send().is_ok() {
            return Ok(());
        }
        let slab = Slab::holding(bytes).map_err(|it| it.to_string());
        let said = slab.and_then(|it| self.say_large(large, &it, bytes.len()));
        // A socket takes longer ones, up to its limit: where this process can have no shared memory any more, they are tried.
        said.or_else(|why| send().map_err(|_| why))
    }

    fn say_large(&self, what: Said, slab: &Slab, length: usize) -> Result<(), String> {
        let mut message = [what as u8; 9];
        message[1..].copy_from_slice(&(length as u64).to_le_bytes());
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
fn encoded(fault: &Fault) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = codec::encode(fault, &mut bytes);
    bytes
}

/// Leaves a fault that ends this process before anything else can be said.
pub(super) fn last_words(fault: Fault) {
    if let Some(report) = OWN.lock().take() {
        report.fault(&fault);
    }
}

/// The starter's end, and what has come there.
#[derive(Debug)]
pub(super) struct Outcome {
    socket: OwnedFd,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    /// Where the handles in the value lie.
    handles: Option<OwnedFd>,
    left: Left,
    /// How it ended, by the fork server's record.
    status: Option<WaitStatus>,
    has_overflowed: bool,
    /// Whether nothing more comes.
    is_over: bool,
    /// Why what is there could not be taken in.
    stopped: Option<String>,
}

/// What a child has left.
#[derive(Debug, Default)]
pub(super) enum Left {
    #[default]
    Nothing,
    Value(Payload),
    Fault(Fault),
}

/// The encoding of what was left.
#[derive(Debug)]
pub(super) enum Payload {
    /// Behind the first byte of a message.
    Message(Vec<u8>),
    /// So many bytes of a slab.
    Shared(OwnedFd, usize),
    /// Why it is not there.
    Lost(String),
}

impl Outcome {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            heard: Mutex::default(),
        }
    }

    /// How it ended, by the fork server's record, which may need a moment; none if it does not come.
    pub(super) fn record(&self, limit: Duration) -> Option<WaitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let heard = self.hear();
            let left = deadline.saturating_duration_since(Instant::now());
            if heard.is_done() || left.is_zero() {
                return heard.status;
            }
            drop(heard);
            if !poll::readable(&self.socket, Some(left)).ok()? {
                return None;
            }
        }
    }

    /// Whether it has left a value so far.
    pub(super) fn has_value(&self) -> bool {
        matches!(self.hear().left, Left::Value(_))
    }

    /// Whether a thread of it has overflowed its stack.
    pub(super) fn has_overflowed(&self) -> bool {
        self.hear().has_overflowed
    }

    /// Takes what it has left, and the handles in that; nothing more comes when it has ended.
    pub(super) fn take(&self) -> (Left, Vec<Attached>) {
        let mut heard = self.hear();
        let (left, handles) = (mem::take(&mut heard.left), heard.handles.take());
        let left = match (left, heard.stopped.take()) {
            (Left::Nothing, Some(reason)) => Left::Value(Payload::Lost(reason)),
            (left, _) => left,
        };
        drop(heard);
        (left, handles.map(receive_handles).unwrap_or_default())
    }

    /// Takes in what has come.
    fn hear(&self) -> MutexGuard<'_, Heard> {
        let mut heard = self.heard.lock();
        let mut left = MOST_MESSAGES;
        heard.stopped = loop {
            if left == 0 {
                break None;
            }
            left -= 1;
            match socket::try_receive_whole(&self.socket) {
                Ok((message, fds)) if !message.is_empty() => heard.add(message, fds),
                Ok(_) => {
                    heard.is_over = true;
                    break None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                // This process has no room for what comes along, say, and may have it later.
                Err(error) => break Some(error.to_string()),
            }
        };
        heard
    }
}

/// The descriptors that lie in a socket; those for which this process has no room are missing.
fn receive_handles(socket: OwnedFd) -> Vec<Attached> {
    let received = std::iter::from_fn(|| {
        let mut message = [0; words::LONGEST];
        let (length, fds) = socket::try_receive(&socket, &mut message).ok()?;
        let (_, kinds) = message[..length].split_first()?;
        Some(Attached::received(fds, kinds))
    });
    received.take(MOST_MESSAGES).flatten().collect()
}

impl Heard {
    /// Whether there is nothing to wait for.
    fn is_done(&self) -> bool {
        self.is_over || self.stopped.is_some() || self.status.is_some()
    }

    fn add(&mut self, message: Vec<u8>, mut fds: Vec<OwnedFd>) {
        let is = |it: Said| message[0] == it as u8;
        if is(Said::Handles) {
            self.handles = fds.pop();
        } else if is(Said::Value) {
            self.left = Left::Value(Payload::Message(message));
        } else if is(Said::Fault) {
            self.left = Left::Fault(fault(Payload::Message(message)));
        } else if is(Said::LargeValue) {
            self.left = Left::Value(Payload::shared(&message, fds.pop()));
        } else if is(Said::LargeFault) {
            self.left = Left::Fault(fault(Payload::shared(&message, fds.pop())));
        } else if is(Said::StackOverflow) {
            self.has_overflowed = true;
        } else if message[0] == ExitRecord::MARK {
            self.status = ExitRecord::find(&message).map(|it| it.0);
        }
    }
}

fn fault(payload: Payload) -> Fault {
    let read = payload.read(|mut bytes| codec::decode(&mut bytes));
    let garbled = |_| Fault::Setup("what the process said cannot be read".to_owned());
    read.and_then(|it| it).unwrap_or_else(garbled)
}

impl Payload {
    fn shared(message: &[u8], fd: Option<OwnedFd>) -> Self {
        let length = message[1..].first_chunk().copied();
        match (fd, length.map(u64::from_le_bytes)) {
            (Some(fd), Some(length)) => Self::Shared(fd, length as usize),
            _ => Self::Lost("its shared memory has not come with it".to_owned()),
        }
    }

    /// Has it read; an error says why it is not there.
    pub(super) fn read<T>(self, read: impl FnOnce(Cursor<'_>) -> T) -> Result<T, String> {
        match self {
            Self::Message(message) => Ok(read(Cursor::new(&message[1..]))),
            Self::Shared(fd, length) => {
                let slab = Slab::from_fd(0, fd).map_err(|it| it.to_string())?;
                if length > slab.capacity() {
                    return Err("its shared memory is shorter than it says".to_owned());
                }
                Ok(read(slab.read(length)))
            }
            Self::Lost(reason) => Err(reason),
        }
    }
}
