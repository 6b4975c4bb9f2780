//! How a child comes to exist: the part that is the same for every start method.
//!
//! Relies on: the fork server (`fork_server`), whose children may execute the program again
//! (`exec`); or on a copy of this process (`fork`), which may itself serve as a pool's fork server
//! (`Template`).
//!
//! Invariant: a start method decides only how the process is made. What it runs, which descriptors
//! it gets, who watches it and who reports its end are the same.

pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod fork_server;
pub(crate) mod spawner;
mod start_error;

use crate::error::Result;
use crate::process::function::{ChildArgs, ChildMain, CodeLocation};
use crate::sys::{
    child::{self, PidFd, WaitStatus},
    fd, pipe,
    signal::IgnoredSignals,
    socket,
};
use start_error::start_error;
use std::{
    fs::File,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

/// What a child is to be given.
///
/// The first descriptor is the writing end of a pipe, or an end of a socket, of which the fork
/// server keeps a copy: when the child has ended, an [`ExitRecord`] is left there.
pub(crate) struct SpawnArgs<'a> {
    pub(crate) main: ChildMain,
    pub(crate) passed: &'a [BorrowedFd<'a>],
    /// At most [`MAX_INLINE_LEN`].
    pub(crate) bytes: &'a [u8],
    pub(crate) flags: SpawnFlags,
}

/// Opens the directory in which a child of this process starts: the root where the working
/// directory cannot be opened.
pub(crate) fn open_working_directory() -> Result<OwnedFd> {
    let root = |_| fd::above_stdio(File::open("/")?.into());
    let directory = child::working_directory().or_else(root);
    directory.map_err(|it| start_error("failed to open the working directory", it))
}

/// Bytes beside a request: a message of a socket holds several times as much, and what is larger
/// costs less in shared memory.
pub(crate) const MAX_INLINE_LEN: usize = 32 << 10;

/// How a child of the fork server is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpawnFlags {
    /// Whether it ends with the program that started it; otherwise it runs on to its end, whoever
    /// dies.
    pub(crate) is_daemon: bool,
    /// Whether it executes the program again, so that nothing of the fork server's memory is left.
    pub(crate) executes: bool,
}

impl SpawnFlags {
    /// Marks a child that is about to be forked, if it is one that runs on.
    fn add_run_on_mark(self, args: &mut ChildArgs) -> io::Result<()> {
        if !self.is_daemon {
            args.fds.push(child::run_on_mark()?);
        }
        Ok(())
    }
}

/// A [`SpawnArgs`] as it travels before its bytes and beside its descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpawnHeader {
    /// Tells the answer from those to earlier requests, which came too late.
    pub(crate) number: u32,
    pub(crate) main: CodeLocation,
    pub(crate) flags: SpawnFlags,
    /// What the child is to ignore: what its owner does at this moment.
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

/// A signal that the fork server is to send to a child, whose pidfd travels beside it: the server
/// is its parent, and may where its owner may not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignalRequest {
    /// As a [`SpawnHeader`]'s.
    pub(crate) number: u32,
    pub(crate) pid: u32,
    pub(crate) signal: i32,
}

impl SignalRequest {
    /// Less than a [`SpawnHeader`]'s, by which the two are told apart.
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

/// A child that was started.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) pidfd: PidFd,
}

/// How a child ended, as it is left in its pipe or socket: a byte that the child itself never
/// begins with, then the status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExitRecord(pub(crate) WaitStatus);

impl ExitRecord {
    /// What a worker itself may write to its pipe: a call to look at its shared memory.
    pub(crate) const WAKEUP: u8 = 0;
    pub(crate) const MARK: u8 = 1;
    /// What a worker writes once, when its setup is done.
    pub(crate) const READY: u8 = 2;
    pub(crate) const SIZE: usize = 5;

    /// Leaves it, without waiting, for a starter that may be gone.
    fn write_to(self, place: &OwnedFd) {
        let bytes = self.to_bytes();
        // Nobody fills the pipe of a worker. A process may fill its own socket: then there is no
        // record.
        if socket::try_send(place, &bytes, &[]).is_err_and(|it| socket::is_no_socket(&it)) {
            let _ = pipe::write(place, &bytes);
        }
    }

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = self.0.0.to_le_bytes();
        [Self::MARK, a, b, c, d]
    }

    /// Looks for a record behind any number of bells. It is written in one piece, so it is there
    /// whole or not at all.
    pub(crate) fn find(bytes: &[u8]) -> Option<Self> {
        let at = bytes.iter().position(|it| *it == Self::MARK)?;
        let status = bytes.get(at + 1..)?.first_chunk()?;
        Some(Self(WaitStatus(i32::from_le_bytes(*status))))
    }
}
