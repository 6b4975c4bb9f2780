//! A connection in one direction: a sending handle and a receiving handle.

use super::framing::{ByteStream, StreamKind};
use super::recv_half::{HALF_RECEIVED, RecvHalf};
use super::send_half::SendHalf;
use crate::error::{Error, Result};
use crate::sys;
use crate::wire::{
    Wire,
    handle::{Descriptor, PartOf},
    kind::ObjectKind as HandleKind,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error as _};
use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

/// The sending end of [`one_way`].
///
/// It works like the sending half of a [`Connection`](crate::Connection), with the same rules for
/// the threads and processes that share it.
pub struct Sender<T> {
    end: SendHalf,
    types: PhantomData<fn(T)>,
}

/// The receiving end of [`one_way`].
///
/// It works like the receiving half of a [`Connection`](crate::Connection), with the same rules for
/// the threads and processes that share it.
pub struct Receiver<T> {
    end: RecvHalf,
    types: PhantomData<fn() -> T>,
}

/// Creates a connection in one direction. It uses two descriptors for each end.
///
/// # Errors
///
/// [`ErrorKind::Io`](crate::ErrorKind::Io) if the descriptors cannot be created.
///
/// # Examples
///
/// ```
/// let (receiver, sender) = procpool::one_way()?;
/// std::thread::spawn(move || (0..3).try_for_each(|n| sender.send(&n)));
/// let mut received = Vec::new();
/// while let Ok(n) = receiver.recv() {
///     received.push(n);
/// }
/// assert_eq!(received, [0, 1, 2]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub fn one_way<T: Wire>() -> Result<(Receiver<T>, Sender<T>)> {
    let make = || -> io::Result<_> {
        let (reader, writer) = sys::pipe::polled()?;
        let (ours, theirs) = sys::socket::pair()?;
        let reader = ReceiverEnd::new(reader, ours);
        let writer = SenderEnd::new(writer, theirs);
        Ok((reader.into(), writer.into()))
    };
    make().map_err(|error| Error::io("failed to create a pipe", error))
}

/// The encoded form of an end: its pipe, and the socket for descriptors.
#[derive(Serialize, Deserialize)]
struct WireEnd<const KIND: u8>(PartOf<KIND>, PartOf<KIND>);

type SenderEnd = WireEnd<{ HandleKind::Sender as u8 }>;
type ReceiverEnd = WireEnd<{ HandleKind::Receiver as u8 }>;

impl<const KIND: u8> WireEnd<KIND> {
    fn new(data: impl Into<Descriptor>, fd_socket: impl Into<Descriptor>) -> Self {
        Self(data.into().into(), fd_socket.into().into())
    }
}

impl<const KIND: u8> From<&ByteStream> for WireEnd<KIND> {
    fn from(stream: &ByteStream) -> Self {
        let fd_socket = stream.fd_socket.clone();
        let fd_socket = fd_socket.expect("a line of one way is made of both");
        Self::new(stream.data.clone(), fd_socket)
    }
}

impl<const KIND: u8> From<WireEnd<KIND>> for ByteStream {
    fn from(WireEnd(data, fd_socket): WireEnd<KIND>) -> Self {
        Self {
            kind: StreamKind::Pipe,
            data: data.into(),
            fd_socket: Some(fd_socket.into()),
        }
    }
}

impl<T> From<SenderEnd> for Sender<T> {
    fn from(end: SenderEnd) -> Self {
        Self {
            end: SendHalf::new(end.into()),
            types: PhantomData,
        }
    }
}

impl<T> From<ReceiverEnd> for Receiver<T> {
    fn from(end: ReceiverEnd) -> Self {
        Self {
            end: RecvHalf::new(end.into()),
            types: PhantomData,
        }
    }
}

impl<T: Wire> Sender<T> {
    /// Sends a value, like [`Connection::send`](crate::Connection::send).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn send(&self, value: &T) -> Result<()> {
        self.end.send(value)
    }

    /// Sends bytes, like [`Connection::send_bytes`](crate::Connection::send_bytes).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.end.send_bytes(bytes)
    }

    /// Closes this copy of the end, like dropping it.
    pub fn close(self) {
        drop(self);
    }
}

impl<T: Wire> Receiver<T> {
    /// Receives a value, like [`Connection::recv`](crate::Connection::recv).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn recv(&self) -> Result<T> {
        self.end.recv()
    }

    /// Receives a value without blocking, like
    /// [`Connection::try_recv`](crate::Connection::try_recv).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn try_recv(&self) -> Result<T> {
        self.end.try_recv()
    }

    /// Receives a value within `limit`, like
    /// [`Connection::recv_timeout`](crate::Connection::recv_timeout).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T> {
        self.end.recv_timeout(limit)
    }

    /// Waits until there is something to receive, like
    /// [`Connection::poll`](crate::Connection::poll).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn poll(&self, limit: Duration) -> Result<bool> {
        self.end.poll(limit)
    }

    /// Receives bytes, like [`Connection::recv_bytes`](crate::Connection::recv_bytes).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn recv_bytes(&self) -> Result<Vec<u8>> {
        self.end.recv_bytes()
    }

    /// Receives bytes into a buffer, like
    /// [`Connection::recv_bytes_into`](crate::Connection::recv_bytes_into).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize> {
        self.end.recv_bytes_into(buffer)
    }

    /// Closes this copy of the end, like dropping it.
    pub fn close(self) {
        drop(self);
    }
}

/// Readable when the receiving end is gone.
impl<T> AsFd for Sender<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// Readable when there is something to receive.
impl<T> AsFd for Receiver<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl<T> Serialize for Sender<T> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        SenderEnd::from(self.end.stream()).serialize(serializer)
    }
}

impl<T> Serialize for Receiver<T> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let stream = self.end.stream();
        let stream = stream.ok_or_else(|| Z::Error::custom(HALF_RECEIVED))?;
        ReceiverEnd::from(stream).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Sender<T> {
    fn deserialize<Z: Deserializer<'de>>(deserializer: Z) -> Result<Self, Z::Error> {
        SenderEnd::deserialize(deserializer).map(Self::from)
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<Z: Deserializer<'de>>(deserializer: Z) -> Result<Self, Z::Error> {
        ReceiverEnd::deserialize(deserializer).map(Self::from)
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("fd", &self.as_fd().as_raw_fd())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("fd", &self.as_fd().as_raw_fd())
            .finish_non_exhaustive()
    }
}
