//! The messages between a child and its parent, on the socket between them.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | [`ParentMessage::Handles`] and their kinds | the parent | descriptors in the argument are attached |
//! | [`ParentMessage::Go`], [`ParentMessage::Stop`] | the parent | the child runs its function, or exits |
//! | [`ChildMessage::Handles`] | the child | a socket that contains the descriptors in its result is attached |
//! | [`ChildMessage::Value`], [`ChildMessage::LargeValue`] | the child | the return value of its function |
//! | [`ChildMessage::Error`], [`ChildMessage::LargeError`] | the child | the error that it has instead of a value |
//! | [`ChildMessage::StackOverflow`] | the child's signal handler | the child is about to die of a stack overflow |
//! | an [`ExitRecord`] | the fork server | the exit status of the child; nothing follows |

use super::start::ExitRecord;
use crate::sys::socket;
use crate::wire::handle::Attached;
use std::{io, os::fd::OwnedFd};

/// The kinds of messages to a child.
///
/// A child runs its function only after `Go`. Otherwise: 1. The child starts. 2. The start fails in
/// the parent, for example because its pidfd is lost. 3. The function runs although its caller got
/// an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParentMessage {
    Handles = 0,
    /// The start succeeded.
    Go = 1,
    /// The start failed. The end of the socket means the same, but a fork of the parent may hold
    /// the socket open.
    Stop = 2,
}

impl ParentMessage {
    /// Sends the message, which always fits the socket. It may be sent before the child exists.
    pub(super) fn send(self, socket: &OwnedFd) -> io::Result<()> {
        socket::try_send(socket, &[self as u8], &[])
    }
}

/// The kinds of messages from a child; the first byte of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChildMessage {
    Handles = ExitRecord::MARK as isize + 1,
    /// The encoded value follows.
    Value,
    Error,
    /// The length of the encoding follows; the encoding is in an attached slab.
    LargeValue,
    LargeError,
    /// A thread has overflowed its stack.
    StackOverflow,
}

/// Sends handles into a socket without blocking. Fails if the socket has no room for all of them.
pub(super) fn send_handles(socket: &OwnedFd, handles: &[Attached]) -> io::Result<()> {
    for batch in handles.chunks(socket::MAX_FDS) {
        let (fds, kinds) = Attached::split(batch);
        let message = [&[ParentMessage::Handles as u8], &kinds[..]].concat();
        socket::try_send(socket, &message, &fds)?;
    }
    Ok(())
}

/// Bytes of the longest message with handles: the kind of the message, and a byte for each handle.
pub(super) const MAX_MESSAGE_LEN: usize = 1 + socket::MAX_FDS;
