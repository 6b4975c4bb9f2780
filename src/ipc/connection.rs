//! A connection: both directions in one handle, made by `pipe`, `Listener::accept` or `connect`.

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
/// It is a handle: threads share it by reference, and it can be an argument, a result, or part of a
/// message. Each message arrives whole and exactly once, in the order of sending, even if several
/// threads send and receive. The peer is gone once all copies of the other end are closed or their
/// processes have ended. Messages sent before that can still be received. After them, every call
/// fails with [`ErrorKind::Disconnected`](crate::ErrorKind::Disconnected).
///
/// Over TCP, messages that were sent but not received yet can get lost: when the sender closes its
/// end before it has received all messages sent to it, or when its machine fails. Let the peer
/// confirm messages that must not get lost. A peer machine that stops answering is detected within
/// two minutes if the connection is idle. With unacknowledged data it takes until the system stops
/// retransmitting, typically a quarter of an hour.
///
/// Sending blocks while unreceived messages fill the pipe, which holds at least 4 KiB and typically
/// 64 KiB. Two processes that both send more than that before they receive block each other
/// forever.
///
/// A handle that is sent in a message stays usable in the sender, so two processes can share an
/// end:
///
/// - Over a [`pipe`], both may send values of up to 4088 bytes (4080 with handles) at the same
///   time. Larger ones must not be sent at the same time, or messages mix.
/// - Both may receive at the same time if no message is larger than 56 bytes. One of them may take
///   the handles of a message that the other receives, which then fails with
///   [`ErrorKind::Codec`](crate::ErrorKind::Codec).
/// - If one of them is killed in the middle of a larger message, the connection becomes unusable:
///   the others take later data for the rest of that message, and are not told.
///
/// A forked copy of this process (`StartMethod::Fork`) holds every end that was open, so no end is
/// gone before that copy has ended.
pub struct Connection<S, R> {
    send_half: SendHalf,
    recv_half: RecvHalf,
    types: PhantomData<fn(S) -> R>,
}

/// Creates a connection and returns its two ends, usually one for this process and one for another.
///
/// It uses two pipes and a socket: three descriptors for each end.
///
/// # Errors
///
/// [`ErrorKind::Io`](crate::ErrorKind::Io) if the descriptors cannot be created.
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
    make().map_err(|error| Error::io("failed to create a pipe", error))
}

/// A descriptor of a connection in its encoded form.
type Part = PartOf<{ HandleKind::Connection as u8 }>;

/// The encoded form of a connection.
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
    /// Sends a value. Blocks while the pipe is full, or while the user has too many descriptors in
    /// flight.
    ///
    /// # Errors
    ///
    /// - [`Codec`](crate::ErrorKind::Codec) if the value cannot be encoded.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if it holds a handle and the peer may be on
    ///   another machine.
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput) if it holds more than 65 535 descriptors.
    /// - [`Disconnected`](crate::ErrorKind::Disconnected) if the other end is gone.
    /// - [`Io`](crate::ErrorKind::Io) if the system refuses, for example if too many descriptors
    ///   are in flight and none was received for 10 s. Nothing was sent then.
    pub fn send(&self, value: &S) -> Result<()> {
        self.send_half.send(value)
    }

    /// Receives a value. Blocks until a message arrives.
    ///
    /// # Errors
    ///
    /// - [`Codec`](crate::ErrorKind::Codec) if the message is not an `R`. It is discarded, and the
    ///   next call receives the next message.
    /// - [`Disconnected`](crate::ErrorKind::Disconnected) if the other end is gone and everything
    ///   was received, if it was killed in the middle of a message, or if the peer of a socket
    ///   breaks the protocol.
    pub fn recv(&self) -> Result<R> {
        self.recv_half.recv()
    }

    /// Receives a value if a whole message has arrived. Does not block.
    ///
    /// # Errors
    ///
    /// [`Empty`](crate::ErrorKind::Empty) if no whole message has arrived, or if another thread is
    /// receiving; otherwise like [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<R> {
        self.recv_half.try_recv()
    }

    /// Receives a value. Blocks for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if no whole message has arrived in time. Nothing is
    /// lost: a partly received message is completed by a later call. Otherwise like
    /// [`recv`](Self::recv).
    pub fn recv_timeout(&self, limit: Duration) -> Result<R> {
        self.recv_half.recv_timeout(limit)
    }

    /// Waits for at most `limit`, and returns whether there is something to receive: a message that
    /// has at least begun to arrive, or the end of the connection.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the system refuses.
    pub fn poll(&self, limit: Duration) -> Result<bool> {
        self.recv_half.poll(limit)
    }

    /// Sends bytes without encoding them. Blocks while the pipe is full.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) if the other end is gone.
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

    /// Receives the bytes of one message, which may be empty. Blocks until a message arrives.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected), like [`recv`](Self::recv).
    pub fn recv_bytes(&self) -> Result<Vec<u8>> {
        self.recv_half.recv_bytes()
    }

    /// Receives one message into the start of `buffer`, and returns its length in bytes. Blocks
    /// until a message arrives.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the message is larger than the buffer:
    /// it remains the next message. [`Disconnected`](crate::ErrorKind::Disconnected), like
    /// [`recv`](Self::recv).
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.recv_half.recv_bytes_into(buffer)
    }

    /// Closes this copy of the end, like dropping it.
    pub fn close(self) {
        drop(self);
    }
}

impl<S, R> Connection<S, R> {
    /// Sends the bytes that `encode` appends and the handles in them. Fails if there are more than
    /// `max_len` bytes.
    #[inline]
    pub(crate) fn send_encoded(
        &self,
        max_len: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecErrorText>,
    ) -> Result<()> {
        self.send_half.send_encoded(max_len, encode)
    }

    /// Sends encoded bytes and the handles that they refer to.
    pub(crate) fn send_with(&self, bytes: &[u8], descriptors: &[Attached]) -> Result<()> {
        self.send_half.send_with(bytes, descriptors)
    }

    /// Receives a message of at most `max_len` bytes without decoding it. Returns `None` if it has
    /// not arrived at the deadline. Fails with [`InvalidInput`](crate::ErrorKind::InvalidInput) for
    /// a larger message; the connection is then unusable.
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
