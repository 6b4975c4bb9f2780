//! The address of a listener.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The address of a [`Listener`](crate::Listener). Being plain data, it can be sent to another
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
    /// The path of a Unix socket, which is a file. It connects processes of one machine, and its
    /// messages can hold handles. A path of more than 107 bytes, the limit of a socket address, is
    /// reached through its folder; its last component then has at most 82 bytes.
    Unix(PathBuf),
    /// A TCP socket, which connects processes of any machines. Port 0 lets the system choose a free
    /// port.
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
