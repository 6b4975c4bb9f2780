//! Where a listener is to be found.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The address of a [`Listener`](crate::Listener). It is a value that can be sent to another
/// process.
///
/// # Examples
///
/// ```
/// use procpool::Address;
///
/// let file = Address::from(std::path::Path::new("/run/service.sock"));
/// assert_eq!(file.to_string(), "/run/service.sock");
/// let port = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 4711)));
/// assert_eq!(port.to_string(), "127.0.0.1:4711");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    /// A Unix socket, which is a file: for processes of this machine, and for handles in messages.
    /// A path of more than 107 bytes, which are all that the address of a socket has room for, is
    /// reached through its folder; its last part has at most 82 bytes.
    Unix(PathBuf),
    /// A TCP socket: for processes of any machine. Port 0 stands for one that is free.
    Tcp(SocketAddr),
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}
