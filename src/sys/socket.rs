//! Unix sockets that carry descriptors beside bytes.

use super::fd::{above_stdio, retry};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
    },
};
use std::{
    io::{self, IoSlice},
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    slice,
};

/// Descriptors a message; the kernel takes 253, we never send more than a few.
const MAX_FDS: usize = 8;

/// Bytes of control data with as many descriptors.
const CONTROL_BYTES: usize = {
    let descriptors = (MAX_FDS * size_of::<RawFd>()) as u32;
    // SAFETY: it computes with plain numbers.
    (unsafe { libc::CMSG_SPACE(descriptors) }) as usize
};

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

/// Receives one message of at most `buffer.len()` bytes; 0 bytes when the peer is gone.
///
/// Its descriptors come all or, where this process has no room for them, not at all: whoever expects some knows by that.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(socket, buffer, 0)
}

/// As [`receive`], but `WouldBlock` when no message is there.
pub(crate) fn try_receive(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(socket, buffer, libc::MSG_DONTWAIT)
}

/// By libc: nix keeps the descriptors of a message to itself that not all were taken in of, and they stay open for ever.
fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = [0u64; CONTROL_BYTES / 8];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zeros are a message without a name, parts and control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let (socket, flags) = (socket.as_fd().as_raw_fd(), flags | libc::MSG_CMSG_CLOEXEC);
    let length = retry(|| {
        // SAFETY: the message names two locals of ours, with their lengths.
        let received = unsafe { libc::recvmsg(socket, &raw mut message, flags) };
        match Errno::result(received) {
            // Reported once when the peer closed its end with messages unread; what it sent before is still there.
            Err(Errno::ECONNRESET) => Err(Errno::EINTR),
            received => received,
        }
    })?;
    // SAFETY: recvmsg has filled in the message just now.
    let mut fds = unsafe { take_fds(&message) };
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        fds.clear();
    }
    let fds: io::Result<_> = fds.into_iter().map(above_stdio).collect();
    Ok((length.cast_unsigned(), fds.unwrap_or_default()))
}

/// Takes over the descriptors that came with a message.
///
/// # Safety
///
/// `recvmsg` must have filled in the message, with control data that is still there and of which nobody has taken any.
unsafe fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    // SAFETY: null, or the one header that there is room for, says the caller.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: as above; the buffer is aligned for it.
    let Some(header) = (unsafe { first.as_ref() }) else {
        return Vec::new();
    };
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
        return Vec::new();
    }
    // SAFETY: the data of a header follows it.
    let numbers = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
    // Its type differs between C libraries.
    let length = header.cmsg_len as u64 as usize;
    let bytes = length - (numbers.addr() - first.addr());
    // SAFETY: the kernel has written so many bytes of descriptors there, behind a header of a multiple of their size.
    let numbers = unsafe { slice::from_raw_parts(numbers, bytes / size_of::<RawFd>()) };
    // SAFETY: the kernel has just made these descriptors for us, each once.
    let own = |fd: &RawFd| unsafe { OwnedFd::from_raw_fd(*fd) };
    numbers.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{pipe, poll};
    use std::time::Duration;

    #[test]
    fn descriptors_come_with_their_message() {
        let (a, b) = pair().expect("sockets");
        let (reader, writer) = pipe::pipe().expect("a pipe");
        send(&a, b"two", &[reader.as_fd(), writer.as_fd()]).expect("a message");
        send(&a, b"none", &[]).expect("a message");
        let mut buffer = [0; 8];
        let (length, fds) = receive(&b, &mut buffer).expect("a message");
        assert_eq!((&buffer[..length], fds.len()), (&b"two"[..], 2));
        pipe::write(&fds[1], b"x").expect("the pipe's end");
        assert_eq!(pipe::read(&reader, &mut [0; 2]).expect("the pipe"), 1);
        let (length, fds) = receive(&b, &mut buffer).expect("a message");
        assert_eq!((&buffer[..length], fds.len()), (&b"none"[..], 0));
    }

    #[test]
    fn descriptors_of_which_not_all_have_room_are_closed() {
        let (a, b) = pair().expect("sockets");
        let (reader, writer) = pipe::pipe().expect("a pipe");
        send(&a, b"many", &[writer.as_fd(); MAX_FDS + 1]).expect("a message");
        drop(writer);
        let (length, fds) = receive(&b, &mut [0; 8]).expect("a message");
        assert_eq!((length, fds.len()), (4, 0));
        // Behind the last end that writes comes the end of file.
        assert!(poll::readable(&reader, Some(Duration::ZERO)).expect("a pipe"));
    }
}
