//! What becomes of a child: messages in the socket that its starter has the other end of. Large values lie in shared memory,
//! so that a child never waits for a parent that does not read.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | `Handles`, and descriptors | the child | they belong to the value that follows |
//! | `Value` | the child | what its function has returned |
//! | `Fault` | the child | why there is no value |
//! | an [`ExitRecord`] | the fork server | how it has ended; nothing follows |

use super::{fault::Fault, start::ExitRecord};
use crate::error::Result;
use crate::shm::{Buffer, Cursor, SPILL, Slab, Slabs};
use crate::sys::{child::WaitStatus, poll, socket};
use crate::wire::{codec, handle::Descriptor};
use parking_lot::{Mutex, MutexGuard};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

/// What a message of a child is, in its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Handles = ExitRecord::MARK as isize + 1,
    /// Followed by its encoding.
    Value,
    Fault,
    /// Followed by the length of its encoding, which lies in a slab that comes along.
    LargeValue,
    LargeFault,
}

/// A child's end.
#[derive(Debug)]
pub(super) struct Report(OwnedFd);

/// That of this process, where the panic hook finds it.
static OWN: Mutex<Option<Report>> = Mutex::new(None);

/// Makes a slab for each large value.
pub(super) struct FreshSlabs;

impl Slabs for FreshSlabs {
    fn take(&self, bytes: usize) -> Option<Slab> {
        Slab::new(0, bytes).ok()
    }

    fn give_back(&self, _slab: Slab) {}
}

impl Report {
    /// The child's end of its socket. Its last words go there, and not to that of a process which this one is a copy of.
    pub(super) fn new(socket: OwnedFd) -> Self {
        // Where a panic unwinds there are none.
        if cfg!(panic = "abort") {
            *OWN.lock() = socket.try_clone().ok().map(Self);
        }
        Self(socket)
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.0
    }

    /// Leaves the handles in a value, before that.
    pub(super) fn handles(&self, handles: &[Descriptor]) -> io::Result<()> {
        send(&self.0, Said::Handles as u8, handles)
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
        let mut bytes = Vec::new();
        // Text in memory cannot fail to encode; and there is nobody else to tell.
        let _ = codec::encode(fault, &mut bytes);
        let _ = self.say([Said::Fault, Said::LargeFault], &bytes);
    }

    /// In a message, or in shared memory where that is too long for one.
    fn say(&self, [small, large]: [Said; 2], bytes: &[u8]) -> Result<(), String> {
        let message = || [&[small as u8], bytes].concat();
        if bytes.len() <= SPILL && socket::try_send(&self.0, &message(), &[]).is_ok() {
            return Ok(());
        }
        let slab = Slab::holding(bytes).map_err(|it| it.to_string())?;
        self.say_large(large, &slab, bytes.len())
    }

    fn say_large(&self, what: Said, slab: &Slab, length: usize) -> Result<(), String> {
        let mut message = [what as u8; 9];
        message[1..].copy_from_slice(&(length as u64).to_le_bytes());
        match socket::try_send(&self.0, &message, &[slab.as_fd()]) {
            // Nobody wants to know any more.
            Err(error) if !socket::is_closed(&error) => Err(error.to_string()),
            _ => Ok(()),
        }
    }
}

/// Leaves a fault that ends this process before anything else can be said.
pub(super) fn last_words(fault: Fault) {
    if let Some(report) = OWN.lock().take() {
        report.fault(&fault);
    }
}

/// Sends descriptors into a socket, where they wait, in messages of this byte. An error if they are more than it takes.
pub(super) fn send(socket: &OwnedFd, word: u8, handles: &[Descriptor]) -> io::Result<()> {
    for batch in handles.chunks(socket::MAX_FDS) {
        let fds: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
        socket::try_send(socket, &[word], &fds)?;
    }
    Ok(())
}

/// The parent's end, and what has come there.
#[derive(Debug)]
pub(super) struct Outcome {
    socket: OwnedFd,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    handles: Vec<OwnedFd>,
    left: Left,
    /// How it ended, by the fork server's record.
    status: Option<WaitStatus>,
    is_over: bool,
}

/// What a child has left.
#[derive(Debug, Default)]
pub(super) enum Left {
    #[default]
    Nothing,
    Value(Payload),
    Fault(Fault),
}

/// The encoding of a value.
#[derive(Debug)]
pub(super) enum Payload {
    Message(Vec<u8>),
    Shared(OwnedFd, usize),
    /// Its shared memory has found no room among this process's descriptors.
    Lost,
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
            if heard.is_over || heard.status.is_some() {
                return heard.status;
            }
            drop(heard);
            let left = deadline.saturating_duration_since(Instant::now());
            if !poll::readable(&self.socket, Some(left)).ok()? {
                return None;
            }
        }
    }

    /// Whether it has left a value so far.
    pub(super) fn has_value(&self) -> bool {
        matches!(self.hear().left, Left::Value(_))
    }

    /// Takes what it has left, and the handles in that; nothing more comes when it has ended.
    pub(super) fn take(&self) -> (Left, Vec<OwnedFd>) {
        let mut heard = self.hear();
        (
            std::mem::take(&mut heard.left),
            std::mem::take(&mut heard.handles),
        )
    }

    /// Takes in what has come.
    fn hear(&self) -> MutexGuard<'_, Heard> {
        let mut heard = self.heard.lock();
        // Another error means as little as that nothing more is there.
        while let Ok((message, fds)) = socket::try_receive_whole(&self.socket) {
            if message.is_empty() {
                heard.is_over = true;
                break;
            }
            heard.add(message, fds);
        }
        heard
    }
}

impl Heard {
    fn add(&mut self, message: Vec<u8>, mut fds: Vec<OwnedFd>) {
        let is = |it: Said| message[0] == it as u8;
        if is(Said::Handles) {
            self.handles.append(&mut fds);
        } else if is(Said::Value) {
            self.left = Left::Value(Payload::Message(message));
        } else if is(Said::Fault) {
            self.left = Left::Fault(fault(&Payload::Message(message)));
        } else if is(Said::LargeValue) {
            self.left = Left::Value(Payload::shared(&message, fds.pop()));
        } else if is(Said::LargeFault) {
            self.left = Left::Fault(fault(&Payload::shared(&message, fds.pop())));
        } else if let Some(ExitRecord(status)) = ExitRecord::find(&message) {
            self.status = Some(status);
        }
    }
}

fn fault(payload: &Payload) -> Fault {
    let read = payload.read(|mut bytes| codec::decode(&mut bytes));
    let garbled = |_| Fault::Setup("what the process said cannot be read".to_owned());
    read.and_then(|it| it).unwrap_or_else(garbled)
}

impl Payload {
    fn shared(message: &[u8], fd: Option<OwnedFd>) -> Self {
        let length = message[1..].first_chunk().copied();
        match (fd, length.map(u64::from_le_bytes)) {
            (Some(fd), Some(length)) => Self::Shared(fd, length as usize),
            _ => Self::Lost,
        }
    }

    /// Has it read; an error says why it is not there.
    pub(super) fn read<T>(&self, read: impl FnOnce(Cursor<'_>) -> T) -> Result<T, String> {
        match self {
            Self::Message(message) => Ok(read(Cursor::new(&message[1..]))),
            Self::Shared(fd, length) => {
                let file = fd.try_clone().map_err(|it| it.to_string())?;
                let slab = Slab::from_fd(0, file).map_err(|it| it.to_string())?;
                if *length > slab.capacity() {
                    return Err("its shared memory is shorter than it says".to_owned());
                }
                Ok(read(slab.read(*length)))
            }
            Self::Lost => Err("no descriptor was left for its shared memory".to_owned()),
        }
    }
}
