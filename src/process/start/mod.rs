//! The common part of the start methods.
//!
//! Relies on: the fork server (`fork_server`), whose children may execute the program again
//! (`exec`); or a fork of this process (`fork`), which may serve as the fork server of a pool
//! (`Template`).
//!
//! Invariant: a start method decides only how the process is created. Its function, its
//! descriptors, and how its exit is watched and reported are the same for all.

pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod fork_server;
pub(crate) mod spawner;
mod start_error;

use crate::error::Result;
use crate::process::function::{ChildArgs, ChildMain, CodeLocation};
use crate::sys::{
    child, fd,
    pidfd::{PidFd, WaitStatus},
    pipe,
    signal::IgnoredSignals,
    socket,
};
use start_error::start_error;
use std::{
    fs::File,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

/// The arguments of a new child.
///
/// The first descriptor is the writing end of a pipe, or one end of a socket. The fork server keeps
/// a copy of it, and writes an [`ExitRecord`] there after it has reaped the child.
pub(crate) struct SpawnArgs<'a> {
    pub(crate) main: ChildMain,
    pub(crate) passed: &'a [BorrowedFd<'a>],
    /// At most [`MAX_INLINE_LEN`] bytes.
    pub(crate) bytes: &'a [u8],
    pub(crate) flags: SpawnFlags,
}

/// Opens the directory in which a child of this process starts: the working directory, or the root
/// if that cannot be opened.
pub(crate) fn open_working_directory() -> Result<OwnedFd> {
    let root = |_| fd::above_stdio(File::open("/")?.into());
    let directory = child::working_directory().or_else(root);
    directory.map_err(|error| start_error("failed to open the working directory", error))
}

/// Bytes of launch data in a request. A message of a socket may have several times as many; larger
/// data is cheaper to send in shared memory.
pub(crate) const MAX_INLINE_LEN: usize = 32 << 10;

/// How the lifetime and the memory of a child differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpawnFlags {
    /// Whether the child dies with the program that started it. Any other child runs until its
    /// function returns.
    pub(crate) is_daemon: bool,
    /// Whether the child executes the program again, which discards the fork server's memory.
    pub(crate) executes: bool,
}

impl SpawnFlags {
    /// Adds the mark that tells the fork server not to kill this child as an orphan, if it is not a
    /// daemon.
    fn add_run_on_mark(self, args: &mut ChildArgs) -> io::Result<()> {
        if !self.is_daemon {
            args.fds.push(child::run_on_mark()?);
        }
        Ok(())
    }
}

/// The fixed part of a request; the bytes of [`SpawnArgs`] follow it, and its descriptors are
/// attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpawnHeader {
    /// Distinguishes the reply from late replies to earlier requests.
    pub(crate) number: u32,
    pub(crate) main: CodeLocation,
    pub(crate) flags: SpawnFlags,
    /// The signals that the owner ignores now; the child ignores them too.
    pub(crate) ignored: IgnoredSignals,
}

impl SpawnHeader {
    pub(crate) const SIZE: usize = CodeLocation::SIZE + 13;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let flags = u8::from(self.flags.is_daemon) | u8::from(self.flags.executes) << 1;
        let (main, rest) = bytes.split_at_mut(CodeLocation::SIZE);
        main.copy_from_slice(&self.main.to_bytes());
        rest[0] = flags;
        rest[1..5].copy_from_slice(&self.number.to_le_bytes());
        rest[5..].copy_from_slice(&self.ignored.to_bits().to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (main, rest) = bytes.split_first_chunk().expect("it is longer");
        let (flags, rest) = rest.split_first_chunk::<1>().expect("it is longer");
        let (number, ignored) = rest.split_first_chunk().expect("it is longer");
        let flags = SpawnFlags {
            is_daemon: flags[0] & 1 != 0,
            executes: flags[0] & 2 != 0,
        };
        let ignored = ignored.first_chunk().expect("the rest");
        Self {
            number: u32::from_le_bytes(*number),
            main: CodeLocation::from_bytes(main),
            flags,
            ignored: IgnoredSignals::from_bits(u64::from_le_bytes(*ignored)),
        }
    }
}

/// A request to send a signal to a child, whose pidfd is attached. The server is the child's
/// parent, so it may send a signal that a sandbox forbids to the owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignalRequest {
    /// Like [`SpawnHeader::number`].
    pub(crate) number: u32,
    pub(crate) pid: u32,
    pub(crate) signal: i32,
}

impl SignalRequest {
    /// Less than [`SpawnHeader::SIZE`]: the server tells the two requests apart by their length.
    pub(crate) const SIZE: usize = 12;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.pid.to_le_bytes());
        bytes[8..].copy_from_slice(&self.signal.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let field = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a field"));
        Self {
            number: field(0),
            pid: field(4),
            signal: field(8).cast_signed(),
        }
    }
}

/// A child that has been started.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) pidfd: PidFd,
}

/// The exit status of a child, as the fork server writes it to the child's pipe or socket: a byte
/// with which no message of the child begins, then the status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExitRecord(pub(crate) WaitStatus);

impl ExitRecord {
    /// A byte that a worker writes to its pipe: its owner must check the shared memory.
    pub(crate) const WAKEUP: u8 = 0;
    pub(crate) const MARK: u8 = 1;
    /// A byte that a worker writes once, after its setup.
    pub(crate) const READY: u8 = 2;
    pub(crate) const SIZE: usize = 5;

    /// Writes the record without blocking. The owner may be dead.
    fn write_to(self, place: &OwnedFd) {
        let bytes = self.to_bytes();
        // The pipe of a worker always has room. A process may have filled its own socket; then the
        // record is lost.
        let sent = socket::try_send(place, &bytes, &[]);
        if sent.is_err_and(|error| socket::is_no_socket(&error)) {
            let _ = pipe::write(place, &bytes);
        }
    }

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = self.0.0.to_le_bytes();
        [Self::MARK, a, b, c, d]
    }

    /// Finds the record after any number of wake-up bytes. It is written in one piece, so it is
    /// either complete or absent.
    pub(crate) fn find(bytes: &[u8]) -> Option<Self> {
        let at = bytes.iter().position(|byte| *byte == Self::MARK)?;
        let status = bytes.get(at + 1..)?.first_chunk()?;
        Some(Self(WaitStatus(i32::from_le_bytes(*status))))
    }
}
