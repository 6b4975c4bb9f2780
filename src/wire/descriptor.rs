//! `Descriptor`: an open descriptor as a serde value.

use super::{handle, kind::ObjectKind};
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// An open descriptor that can be a part of a [`Wire`](crate::Wire) value. Sends a file, a socket
/// or a terminal.
///
/// The receiver of an argument, a result or a message gets a descriptor of the same open file, so
/// both share its position. Encoding it for anything else is an error. Clones share one descriptor,
/// which is closed when the last of them is dropped. In the sending process an argument may keep it
/// open until the task completes or the process has started.
///
/// A `Descriptor` can be received only where a `Descriptor` was sent. Likewise a lock, a queue,
/// shared data or a connection can be received only as its own type. Anything else fails with
/// [`ErrorKind::Codec`](crate::ErrorKind::Codec), and the message names both types.
///
/// ```
/// use procpool::{Descriptor, Process};
/// use std::{fs::File, io::Write};
///
/// fn log(to: Descriptor) -> Option<()> {
///     let mut file = File::from(to.into_fd().ok()?);
///     writeln!(file, "a line from another process").ok()
/// }
///
/// let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("log");
/// let file = File::create(&path).expect("a new file");
/// let process = Process::start(log, Descriptor::from(file))?;
/// assert_eq!(process.result()?, Some(()));
/// assert_eq!(std::fs::read_to_string(path).expect("the log"), "a line from another process\n");
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Descriptor(Arc<OwnedFd>);

/// Two descriptors are equal if they are clones of each other.
impl PartialEq for Descriptor {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Descriptor {}

impl Descriptor {
    /// Creates a descriptor that others already share.
    pub(crate) fn shared(fd: Arc<OwnedFd>) -> Self {
        Self(fd)
    }

    pub(crate) fn into_shared(self) -> Arc<OwnedFd> {
        self.0
    }

    /// Returns the descriptor as an [`OwnedFd`], to turn it into a [`File`](std::fs::File), a
    /// socket or another type. Returns a duplicate if clones share the descriptor.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if this process has too many open files for a
    /// duplicate.
    pub fn into_fd(self) -> Result<OwnedFd> {
        let shared = match Arc::try_unwrap(self.0) {
            Ok(fd) => return Ok(fd),
            Err(shared) => shared,
        };
        let duplicate = shared.as_fd().try_clone_to_owned();
        duplicate.map_err(|error| Error::io("failed to duplicate a descriptor", error))
    }
}

impl<T: Into<OwnedFd>> From<T> for Descriptor {
    fn from(owner: T) -> Self {
        Self(Arc::new(owner.into()))
    }
}

impl AsFd for Descriptor {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize_as(ObjectKind::Descriptor as u8, self, serializer)
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        handle::deserialize_as(ObjectKind::Descriptor as u8, deserializer)
    }
}
