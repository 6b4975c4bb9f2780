//! Unix sockets that carry bytes and descriptors.

use super::fd::{above_stdio, append, retry};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        socket::{
            AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, accept4,
            getsockopt, recvmsg, sendmsg, setsockopt, socketpair, sockopt,
        },
        stat::Mode,
        time::{TimeVal, TimeValLike},
    },
};
use std::{
    io::{self, IoSlice},
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    ptr, slice,
    time::Duration,
};

/// Maximum number of descriptors in a message; the kernel refuses more (`SCM_MAX_FD`).
pub(crate) const MAX_FDS: usize = 253;

/// The size of control data with as many descriptors, in words.
const CONTROL_WORDS: usize = control_words(MAX_FDS);

const fn control_words(fds: usize) -> usize {
    // SAFETY: it computes with plain numbers.
    let bytes = unsafe { libc::CMSG_SPACE((fds * size_of::<RawFd>()) as u32) };
    (bytes as usize).div_ceil(size_of::<u64>())
}

/// Creates two connected sockets that preserve message boundaries.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    Ok((above_stdio(a)?, above_stdio(b)?))
}

/// Maximum length of a socket's file name in any directory, in bytes: the size of an address
/// without `/proc/self/fd/<number>/`.
pub(crate) const MAX_NAME_LEN: usize = 107 - 14 - 10 - 1;

/// Returns the address of a path. An address has room for 107 bytes; a longer path is addressed
/// through its directory, which must stay open while the address is used.
fn unix_address(path: &Path) -> io::Result<(UnixAddr, Option<OwnedFd>)> {
    match UnixAddr::new(path) {
        Err(Errno::ENAMETOOLONG) => {}
        address => return Ok((address?, None)),
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::ENAMETOOLONG.into());
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = above_stdio(nix::fcntl::open(folder, flags, Mode::empty())?)?;
    let short = format!("/proc/self/fd/{}", folder.as_raw_fd());
    Ok((UnixAddr::new(&Path::new(&short).join(name))?, Some(folder)))
}

/// Creates a Unix socket that listens at a path. Only its owner can access the file.
pub(crate) fn listen_unix(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let socket = above_stdio(socket)?;
    // The file gets the socket's mode. The umask is not used, since all threads of the process
    // share it.
    nix::sys::stat::fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let (address, _folder) = unix_address(path)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &address)?;
    nix::sys::socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

/// Connects to a Unix socket that listens at a path. Fails with `WouldBlock` if its queue has no
/// room within `limit`.
pub(crate) fn connect_unix(path: &Path, limit: Duration) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let socket = above_stdio(socket)?;
    // A nonblocking socket would fail at once if the queue is full, without an event to poll
    // for.
    let micros = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX).max(1);
    setsockopt(
        &socket,
        sockopt::SendTimeout,
        &TimeVal::microseconds(micros),
    )?;
    let (address, _folder) = unix_address(path)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &address)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::zero())?;
    Ok(socket)
}

/// Accepts the next connection of a nonblocking listening socket. Fails with `WouldBlock` if no
/// connection waits.
pub(crate) fn try_accept(socket: impl AsFd) -> io::Result<OwnedFd> {
    let socket = socket.as_fd().as_raw_fd();
    let accepted = retry(|| match accept4(socket, SockFlag::SOCK_CLOEXEC) {
        // The connection failed before it was accepted. The loop tries the next one.
        Err(Errno::ECONNABORTED | Errno::EPROTO | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {
            Err(Errno::EINTR)
        }
        accepted => accepted,
    })?;
    // SAFETY: accept has just returned this descriptor, which has no other owner.
    above_stdio(unsafe { OwnedFd::from_raw_fd(accepted) })
}

/// Makes a TCP socket send each message at once. Also enables keepalive probes after a minute of
/// silence; the peer counts as dead after another minute.
///
/// `TCP_USER_TIMEOUT` is not set: it would also end a connection whose peer is alive but does not
/// receive for a while.
pub(crate) fn set_up_tcp(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &60)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &10)?;
    setsockopt(&socket, sockopt::TcpKeepCount, &6)?;
    Ok(setsockopt(&socket, sockopt::KeepAlive, &true)?)
}

/// Returns the process at the other end of a Unix socket, as it was when it connected, or `None` if
/// it is unknown.
pub(crate) fn peer(socket: impl AsFd) -> Option<u32> {
    let (pid, _) = maker(socket).ok()?;
    Some(pid).filter(|pid| *pid > 0)
}

/// Returns the process at the other end of a Unix socket, like [`peer`], and its effective user.
/// For a [`pair`] these are of the process that created it. The process is 0 if it is in a pid
/// namespace that is not visible here.
pub(crate) fn maker(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok((credentials.pid().cast_unsigned(), credentials.uid()))
}

/// Shuts a connection down for every process that has a copy of this end.
pub(crate) fn shut_down(socket: impl AsFd) {
    // It fails only for a connection that has already ended.
    let _ = nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both);
}

/// Sends one message. Blocks while the socket's buffer is full.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, bytes, fds, MsgFlags::empty())
}

/// Like [`send`], but fails with `WouldBlock` if the socket's buffer is full.
pub(crate) fn try_send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, bytes, fds, MsgFlags::MSG_DONTWAIT)
}

/// Sends with libc: nix builds the control data on the heap, which costs a process that was just
/// forked a page fault for each page.
fn send_with(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> io::Result<()> {
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = [0; CONTROL_WORDS];
    // SAFETY: all zeros are a message without a name, parts and control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    if !fds.is_empty() {
        put_fds(&mut message, &mut control, fds)?;
    }
    let socket = socket.as_fd().as_raw_fd();
    let flags = (flags | MsgFlags::MSG_NOSIGNAL).bits();
    // SAFETY: the message refers to locals and a slice that is only read, with their lengths.
    retry(|| Errno::result(unsafe { libc::sendmsg(socket, &raw const message, flags) }))?;
    Ok(())
}

/// Puts descriptors into control data, and the control data into a message. Fails if they are more
/// than a message can carry.
fn put_fds(
    message: &mut libc::msghdr,
    control: &mut [u64; CONTROL_WORDS],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = size_of_val(fds) as u32;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = (control_words(fds.len()) * size_of::<u64>()) as _;
    // SAFETY: the message has control data with room for a header.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: as above; the buffer is aligned for it, and all its bytes are zeros.
    let header = unsafe { &mut *first };
    (header.cmsg_level, header.cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    // SAFETY: it computes with plain numbers.
    header.cmsg_len = unsafe { libc::CMSG_LEN(bytes) } as _;
    // SAFETY: the data of a header follows it.
    let numbers = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: `BorrowedFd` has the layout of its number (`repr(transparent)`), and `CONTROL_WORDS`
    // have room for `MAX_FDS` of them, which was checked above.
    unsafe { ptr::copy_nonoverlapping(fds.as_ptr().cast(), numbers, size_of_val(fds)) };
    Ok(())
}

/// Sends as much of two parts as fits, at least one byte.
pub(crate) fn send_parts(socket: impl AsFd, parts: [&[u8]; 2]) -> io::Result<usize> {
    let (socket, parts) = (socket.as_fd().as_raw_fd(), parts.map(IoSlice::new));
    retry(|| sendmsg::<()>(socket, &parts, &[], MsgFlags::MSG_NOSIGNAL, None))
}

/// Receives the available bytes, at least one; 0 at the end. Fails with `WouldBlock` if there are
/// none yet.
pub(crate) fn try_read(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let socket = socket.as_fd().as_raw_fd();
    retry(|| nix::sys::socket::recv(socket, buffer, MsgFlags::MSG_DONTWAIT))
}

/// Like [`try_read`], but appends to a vector, which must have the capacity for `most` more bytes.
pub(crate) fn try_append(socket: impl AsFd, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let socket = socket.as_fd().as_raw_fd();
    append(into, most, |start, length| {
        // SAFETY: `append` names spare capacity of a vector.
        unsafe { libc::recv(socket, start, length, libc::MSG_DONTWAIT) }
    })
}

/// Whether this is a socket whose first message begins with `start`. The message stays there.
pub(crate) fn begins_with(socket: impl AsFd, start: &[u8]) -> bool {
    let mut buffer = vec![0; start.len()];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let peeked = nix::sys::socket::recv(socket.as_fd().as_raw_fd(), &mut buffer, flags);
    peeked == Ok(start.len()) && buffer == start
}

/// Whether sending failed for lack of room: in the socket, or for descriptors in transit, which the
/// kernel limits.
pub(crate) fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ETOOMANYREFS)
}

/// Whether sending failed because the descriptor is not a socket.
pub(crate) fn is_no_socket(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTSOCK)
}

/// Whether sending or receiving failed because the other end is closed or its machine is
/// unreachable.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// Receives one message of at most `buffer.len()` bytes. Returns 0 bytes if the peer has closed its
/// end.
///
/// Returns either all of its descriptors, or no descriptors if this process has no room for them. A
/// receiver that expects descriptors detects this by their number.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(socket, buffer, 0, &mut [0; CONTROL_WORDS])
}

/// Like [`receive`], but fails with `WouldBlock` if no message is queued.
pub(crate) fn try_receive(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(socket, buffer, libc::MSG_DONTWAIT, &mut [0; CONTROL_WORDS])
}

/// Like [`try_receive`], for messages of any length. Fails, without taking the message, if
/// this process has no room for a descriptor in it.
pub(crate) fn try_receive_whole(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
    let number = socket.as_fd().as_raw_fd();
    let (length, flags) = retry(|| match recvmsg::<()>(number, &mut [], None, flags) {
        // As in `receive_with`.
        Err(Errno::ECONNRESET) => Err(Errno::EINTR),
        peeked => peeked.map(|message| (message.bytes, message.flags)),
    })?;
    if flags.contains(MsgFlags::MSG_CTRUNC) {
        // The message has a descriptor. The duplicate checks that there is a free number for it.
        drop(socket.as_fd().try_clone_to_owned()?);
    }
    let mut message = vec![0; length];
    let (length, fds) = try_receive(socket, &mut message)?;
    message.truncate(length);
    Ok((message, fds))
}

/// Receives with libc: if a process has no room for all descriptors of a message, nix leaks those
/// that arrived.
fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: libc::c_int,
    control: &mut [u64],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zeros are a message without a name, parts and control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control) as _;
    let (socket, flags) = (socket.as_fd().as_raw_fd(), flags | libc::MSG_CMSG_CLOEXEC);
    let length = retry(|| {
        // SAFETY: the message refers to a local and a slice, with their lengths.
        let received = unsafe { libc::recvmsg(socket, &raw mut message, flags) };
        match Errno::result(received) {
            // Reported once if the peer closed its end with unread messages; its earlier messages
            // can still be received.
            Err(Errno::ECONNRESET) => Err(Errno::EINTR),
            received => received,
        }
    })?;
    // SAFETY: recvmsg has just filled in the message.
    let mut fds = unsafe { take_fds(&message) };
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        fds.clear();
    }
    let fds: io::Result<_> = fds.into_iter().map(above_stdio).collect();
    Ok((length.cast_unsigned(), fds.unwrap_or_default()))
}

/// Takes ownership of the descriptors in a message.
///
/// # Safety
///
/// `recvmsg` must have filled in the message. Its control data must still be there, with all of its
/// descriptors.
unsafe fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    // SAFETY: null, or the only header that there is room for, by the caller's contract.
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
    // SAFETY: the kernel has written `bytes` bytes of descriptors there, after a header whose size
    // is a multiple of theirs.
    let numbers = unsafe { slice::from_raw_parts(numbers, bytes / size_of::<RawFd>()) };
    // SAFETY: the kernel has just created each of these descriptors for this process.
    let own = |fd: &RawFd| unsafe { OwnedFd::from_raw_fd(*fd) };
    numbers.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{pipe, poll};
    use nix::sys::socket::getsockopt;

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
    fn a_peer_whose_machine_is_gone_is_closed() {
        for errno in [
            Errno::EPIPE,
            Errno::ECONNRESET,
            Errno::ETIMEDOUT,
            Errno::EHOSTUNREACH,
            Errno::ENETUNREACH,
        ] {
            assert!(is_closed(&errno.into()), "{errno}");
        }
        assert!(!is_closed(&Errno::ENOBUFS.into()));
    }

    #[test]
    fn silence_of_a_tcp_peer_is_asked_about() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a port");
        let socket = std::net::TcpStream::connect(address).expect("a listener");
        set_up_tcp(&socket).expect("a TCP socket");
        assert_eq!(getsockopt(&socket, sockopt::KeepAlive), Ok(true));
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepIdle), Ok(60));
    }

    #[test]
    fn descriptors_of_which_not_all_have_room_are_closed() {
        let (a, b) = pair().expect("sockets");
        let (reader, writer) = pipe::pipe().expect("a pipe");
        send(&a, b"many", &[writer.as_fd(); 9]).expect("a message");
        drop(writer);
        let mut control = [0; control_words(8)];
        let (length, fds) = receive_with(&b, &mut [0; 8], 0, &mut control).expect("a message");
        assert_eq!((length, fds.len()), (4, 0));
        // After the last writer has closed its end, the reader sees the end of file.
        assert!(poll::is_readable(&reader, Some(Duration::ZERO)).expect("a pipe"));
    }
}
