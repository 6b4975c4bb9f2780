//! Unix sockets that carry descriptors beside bytes.

use super::fd::{above_stdio, retry};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// Descriptors a message; the kernel takes 253, we never send more than a few.
const MAX_FDS: usize = 8;

/// Two connected sockets that keep the borders of messages.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    Ok((above_stdio(a)?, above_stdio(b)?))
}

/// Sends one message; blocks while the socket's buffer is full.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, bytes, fds, MsgFlags::empty())
}

/// As [`send`], but `WouldBlock` when the socket's buffer is full.
pub(crate) fn try_send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, bytes, fds, MsgFlags::MSG_DONTWAIT)
}

fn send_with(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let (socket, parts) = (socket.as_fd().as_raw_fd(), [IoSlice::new(bytes)]);
    retry(|| {
        sendmsg::<()>(
            socket,
            &parts,
            control,
            flags | MsgFlags::MSG_NOSIGNAL,
            None,
        )
    })?;
    Ok(())
}

/// Whether this is a socket whose first message begins with `start`; the message stays there.
pub(crate) fn begins_with(socket: impl AsFd, start: &[u8]) -> bool {
    let mut buffer = vec![0; start.len()];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let peeked = nix::sys::socket::recv(socket.as_fd().as_raw_fd(), &mut buffer, flags);
    peeked == Ok(start.len()) && buffer == start
}

/// Whether sending failed because the other end is closed.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// Receives one message of at most `buffer.len()` bytes and its descriptors; 0 bytes when the peer is gone.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(socket, buffer, MsgFlags::empty())
}

/// As [`receive`], but `WouldBlock` when no message is there.
pub(crate) fn try_receive(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(socket, buffer, MsgFlags::MSG_DONTWAIT)
}

fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let raw = socket.as_fd().as_raw_fd();
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(raw, &mut parts, Some(&mut control), flags) {
            // Reported once when the peer closed its end with messages unread; what it sent before is still there.
            Err(nix::Error::EINTR | nix::Error::ECONNRESET) => {}
            Err(error) => return Err(error.into()),
            // Descriptors that this process has no room for are lost; the bytes are not.
            Ok(message) => {
                break (
                    message.bytes,
                    message.cmsgs().map(owned_fds).unwrap_or_default(),
                );
            }
        }
    };
    let fds = message.1.into_iter().map(above_stdio);
    Ok((message.0, fds.collect::<io::Result<_>>()?))
}

fn owned_fds(messages: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    for message in messages {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for us, each once.
            fds.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    fds
}
