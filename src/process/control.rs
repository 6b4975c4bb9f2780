//! What a child and its starter say to each other, in the socket between them.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | [`ParentMessage::CallHandles`] and their kinds | the starter | descriptors in the argument come with it |
//! | [`ParentMessage::Go`], [`ParentMessage::Stop`] | the starter | the child runs, or ends |
//! | [`ChildMessage::CallHandles`] | the child | a socket comes with it, in which the descriptors in its result lie |
//! | [`ChildMessage::Value`], [`ChildMessage::LargeValue`] | the child | what its function has returned |
//! | [`ChildMessage::TaskError`], [`ChildMessage::LargeError`] | the child | why there is no value |
//! | [`ChildMessage::StackOverflow`] | the child's handler of that | the child ends, and why |
//! | an [`ExitRecord`] | the fork server | how the child has ended; nothing follows |

use super::start::ExitRecord;
use crate::sys::socket;
use crate::wire::handle::Attached;
use std::{io, os::fd::OwnedFd};

/// What a message to a child says.
///
/// A child runs nothing before its starter has it: else its function might run although the start
/// has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParentMessage {
    Handles = 0,
    /// The starter has the process.
    Go = 1,
    /// The start has failed. The end of the socket says the same, but a copy of the starter may
    /// hold that open.
    Stop = 2,
}

impl ParentMessage {
    /// Tells a child, whose socket always has room for it. It can be told before it exists.
    pub(super) fn send(self, socket: &OwnedFd) -> io::Result<()> {
        socket::try_send(socket, &[self as u8], &[])
    }
}

/// What a message of a child says, in its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChildMessage {
    Handles = ExitRecord::MARK as isize + 1,
    /// Followed by its encoding.
    Value,
    Error,
    /// Followed by the length of its encoding, which lies in a slab that comes along.
    LargeValue,
    LargeError,
    /// A thread has overflowed its stack.
    StackOverflow,
}

/// Sends handles into a socket, where they wait. An error if they are more than it takes.
pub(super) fn send_handles(socket: &OwnedFd, handles: &[Attached]) -> io::Result<()> {
    for batch in handles.chunks(socket::MAX_FDS) {
        let (fds, kinds) = Attached::split(batch);
        let message = [&[ParentMessage::Handles as u8], &kinds[..]].concat();
        socket::try_send(socket, &message, &fds)?;
    }
    Ok(())
}

/// Bytes of the longest message with handles: a word, and the kind of each.
pub(super) const LONGEST: usize = 1 + socket::MAX_FDS;
