//! Both directions in one handle: what `pipe` makes, and `Listener::accept` and `connect`.

use super::framing::{ByteStream, StreamKind};
use super::message::IncomingMessage;
use super::recv_half::RecvHalf;
use super::send_half::SendHalf;
use crate::error::{Error, Result};
use crate::sys;
use crate::wire::{
    Wire,
    codec::CodecErrorText,
    handle::{Attached, Descriptor, PartOf},
    kind::ObjectKind as HandleKind,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error as _};
use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

/// One end of a connection that sends `S` and receives `R`: typed messages, or raw bytes.
///
/// It is a handle: threads share it by reference, and it can itself be an argument, a result, or a
/// part of a message. Each message arrives whole and once, in the order of sending, whatever number
/// of threads send and receive. When all copies of the other end are gone, closed or with the
/// process that had them, what was sent before can still be received; then every call is an error
/// of [`ErrorKind::Disconnected`](crate::ErrorKind::Disconnected).
///
/// Over TCP, an end that is closed while messages to it are unread, or on a machine that has died,
/// takes with it what it has sent and the other end has not received yet: have the other end
/// confirm what must not get lost. A machine that answers nothing any more is noticed within two
/// minutes; if something sent to it is on its way, when the system gives up sending it again,
/// mostly after a quarter of an hour.
///
/// Sending blocks while what the other end has not received yet fills the pipe (at least 4 KiB,
/// mostly 64 KiB), so two processes that send each other much before either receives wait for each
/// other for ever.
///
/// A handle that is sent in a message stays usable here: then two processes hold the same end.
/// Through a [`pipe`], both may send at once values that take up to 4088 bytes (with handles 4080),
/// and receive at once where none takes more than 56; beyond that, it must be one of them at a
/// time, or messages mix. Of two that receive at once, one may take the handles of the other's
/// message, which is an error of [`ErrorKind::Codec`](crate::ErrorKind::Codec) then. When one of
/// several processes that share an end is killed in the middle of a longer message, the others do
/// not learn of it, and what they send or receive next is taken for the rest of it: nobody can use
/// that connection any more. A copy of this process (`StartMethod::Fork`) has every end that was
/// open, too, so that none is gone before it has ended.
pub struct Connection<S, R> {
    send_half: SendHalf,
    recv_half: RecvHalf,
    types: PhantomData<fn(S) -> R>,
}

/// Makes a connection and gives its two ends, usually one for this process and one for another.
///
/// It costs two pipes and a socket, three descriptors an end.
///
/// # Errors
///
/// [`ErrorKind::Io`](crate::ErrorKind::Io) when this process has no room for the descriptors.
///
/// # Examples
///
/// ```
/// let (parent, child) = procpool::pipe::<u32, String>()?;
/// std::thread::spawn(move || {
///     while let Ok(number) = child.recv() {
///         child.send(&format!("<{number}>"))?;
///     }
///     Ok::<(), procpool::Error>(())
/// });
/// parent.send(&7)?;
/// assert_eq!(parent.recv()?, "<7>");
/// # Ok::<(), procpool::Error>(())
/// ```
pub fn pipe<S: Wire, R: Wire>() -> Result<(Connection<S, R>, Connection<R, S>)> {
    let make = || -> io::Result<_> {
        let (there, back) = (sys::pipe::polled()?, sys::pipe::polled()?);
        let (ours, theirs) = sys::socket::pair()?;
        let ours = WireConnection::pipes(back.0, there.1, ours);
        let theirs = WireConnection::pipes(there.0, back.1, theirs);
        Ok((ours.into(), theirs.into()))
    };
    make().map_err(|it| Error::io("failed to make a pipe", it))
}

/// A descriptor of a connection as it travels.
type Part = PartOf<{ HandleKind::Connection as u8 }>;

/// A connection as it travels.
#[derive(Serialize, Deserialize)]
pub(super) enum WireConnection {
    Pipes {
        reader: Part,
        writer: Part,
        fd_socket: Part,
    },
    Socket {
        socket: Part,
        carries_descriptors: bool,
    },
}

impl WireConnection {
    fn pipes(
        reader: impl Into<Descriptor>,
        writer: impl Into<Descriptor>,
        fd_socket: impl Into<Descriptor>,
    ) -> Self {
        Self::Pipes {
            reader: reader.into().into(),
            writer: writer.into().into(),
            fd_socket: fd_socket.into().into(),
        }
    }
}

impl<S, R> From<WireConnection> for Connection<S, R> {
    fn from(ends: WireConnection) -> Self {
        let (recv_half, send_half, kind, fd_socket) = match ends {
            WireConnection::Pipes {
                reader,
                writer,
                fd_socket,
            } => (
                reader.into(),
                writer.into(),
                StreamKind::Pipe,
                Some(fd_socket.into()),
            ),
            WireConnection::Socket {
                socket,
                carries_descriptors,
            } => {
                let socket = Descriptor::from(socket);
                let fd_socket = carries_descriptors.then(|| socket.clone());
                (socket.clone(), socket, StreamKind::Socket, fd_socket)
            }
        };
        let stream = |data, fd_socket| ByteStream {
            kind,
            data,
            fd_socket,
        };
        Self {
            recv_half: RecvHalf::new(stream(recv_half, fd_socket.clone())),
            send_half: SendHalf::new(stream(send_half, fd_socket)),
            types: PhantomData,
        }
    }
}

impl<S, R> Connection<S, R> {
    fn to_wire(&self) -> Option<WireConnection> {
        let (recv_half, send_half) = (self.recv_half.stream()?, self.send_half.stream());
        Some(match (recv_half.kind, &recv_half.fd_socket) {
            (StreamKind::Pipe, Some(fd_socket)) => WireConnection::pipes(
                recv_half.data.clone(),
                send_half.data.clone(),
                fd_socket.clone(),
            ),
            (_, fd_socket) => WireConnection::Socket {
                socket: recv_half.data.clone().into(),
                carries_descriptors: fd_socket.is_some(),
            },
        })
    }
}

impl<S: Wire, R: Wire> Connection<S, R> {
    /// Sends a value. Blocks while the pipe is full, or more descriptors are on their way than the
    /// user may have.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) when the value cannot be encoded,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when it holds a handle and the other end may
    /// be on another machine, [`InvalidInput`](crate::ErrorKind::InvalidInput) when it holds more
    /// than 65 535 descriptors, [`Io`](crate::ErrorKind::Io) when the system refuses, as it does
    /// with descriptors after 10 s in which nobody has received any of too many: nothing was sent
    /// then. [`Disconnected`](crate::ErrorKind::Disconnected) when the other end is gone.
    pub fn send(&self, value: &S) -> Result<()> {
        self.send_half.send(value)
    }

    /// Receives a value. Blocks until one has come.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) when the message is no `R`: it is gone, the next call
    /// gets the next one. [`Disconnected`](crate::ErrorKind::Disconnected) when everything was
    /// received and the other end is gone, or it died in the middle of a message, or sends through
    /// a socket what is none.
    pub fn recv(&self) -> Result<R> {
        self.recv_half.recv()
    }

    /// Receives a value if a whole one is there, without blocking.
    ///
    /// # Errors
    ///
    /// [`Empty`](crate::ErrorKind::Empty) when none is, or another thread is receiving; else as
    /// [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<R> {
        self.recv_half.try_recv()
    }

    /// Receives a value. Blocks for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) when none has come: nothing is lost, a message that
    /// was on its way is received later. Else as [`recv`](Self::recv).
    pub fn recv_timeout(&self, limit: Duration) -> Result<R> {
        self.recv_half.recv_timeout(limit)
    }

    /// Waits for at most `limit` until there is something to receive, and says whether there is: a
    /// message that comes, or the news that the other end is gone.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) when the system refuses.
    pub fn poll(&self, limit: Duration) -> Result<bool> {
        self.recv_half.poll(limit)
    }

    /// Sends bytes as they are. Blocks while the pipe is full.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) when the other end is gone.
    ///
    /// # Examples
    ///
    /// ```
    /// let (a, b) = procpool::pipe::<(), ()>()?;
    /// a.send_bytes(b"some bytes")?;
    /// assert_eq!(b.recv_bytes()?, b"some bytes");
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.send_half.send_bytes(bytes)
    }

    /// Receives the bytes of one message, which may be none. Blocks until one has come.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) as [`recv`](Self::recv).
    pub fn recv_bytes(&self) -> Result<Vec<u8>> {
        self.recv_half.recv_bytes()
    }

    /// Receives the bytes of one message to the start of `buffer`, and says how many. Blocks until
    /// one has come.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the message is larger than the buffer:
    /// it stays the next one. [`Disconnected`](crate::ErrorKind::Disconnected) as
    /// [`recv`](Self::recv).
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.recv_half.recv_bytes_into(buffer)
    }

    /// Closes this copy of the end, as dropping it does.
    pub fn close(self) {
        drop(self);
    }
}

impl<S, R> Connection<S, R> {
    /// Sends what `encode` appends, with the handles in it, if that is at most so many bytes.
    #[inline]
    pub(crate) fn send_encoded(
        &self,
        max_len: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecErrorText>,
    ) -> Result<()> {
        self.send_half.send_encoded(max_len, encode)
    }

    /// Sends bytes, and the handles whose places are in them.
    pub(crate) fn send_with(&self, bytes: &[u8], descriptors: &[Attached]) -> Result<()> {
        self.send_half.send_with(bytes, descriptors)
    }

    /// Receives a message of at most so many bytes, undecoded; none when it has not come at the
    /// deadline. After an error of [`InvalidInput`](crate::ErrorKind::InvalidInput), for a larger
    /// one, the connection is of no use any more.
    #[inline]
    pub(crate) fn recv_message(
        &self,
        max_len: usize,
        deadline: Option<Instant>,
    ) -> Result<Option<IncomingMessage>> {
        self.recv_half.recv_message(max_len, deadline)
    }
}

/// Readable when there is something to receive.
impl<S, R> AsFd for Connection<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.recv_half.as_fd()
    }
}

impl<S, R> Serialize for Connection<S, R> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let ends = self.to_wire();
        let ends = ends.ok_or_else(|| Z::Error::custom(super::recv_half::HALF_RECEIVED))?;
        ends.serialize(serializer)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<Z: Deserializer<'de>>(deserializer: Z) -> Result<Self, Z::Error> {
        WireConnection::deserialize(deserializer).map(Self::from)
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("fd", &self.as_fd().as_raw_fd())
            .finish_non_exhaustive()
    }
}
