//! The launch data of a child: its setup and its encoded argument. Small data is sent in the
//! request, large data in shared memory.
//!
//! | in the request | in a slab |
//! |---|---|
//! | 8 bytes: the length of the setup | the published numbers: the lengths of the setup and the argument |
//! | setup | argument |
//! | argument | setup |

use super::{
    function::WireFunction, identity::ChildIdentity, start::MAX_INLINE_LEN,
    start_method::StartMethod,
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Buffer, Cursor, Slab};
use crate::wire::codec;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of the length of the setup.
const LEN_PREFIX: usize = 8;

/// The settings of a child.
#[derive(Serialize, Deserialize)]
pub(super) struct ChildSetup {
    pub(super) identity: ChildIdentity,
    /// Whether the child is a fork of its parent; then it inherits the signal handlers.
    pub(super) is_copy: bool,
    /// Whether the child ignores signals that request termination and exits with its owner.
    pub(super) is_service: bool,
    pub(super) method: StartMethod,
    #[serde(with = "serde_bytes")]
    pub(super) environment: Vec<u8>,
    pub(super) function: [u8; WireFunction::SIZE],
    /// The number of descriptors in the socket.
    pub(super) handles: usize,
}

/// A setup and an encoded argument.
pub(super) enum LaunchData {
    Inline(Vec<u8>),
    Shared(Slab),
}

impl LaunchData {
    pub(super) fn pack(mut argument: Buffer, setup: &ChildSetup) -> Result<Self> {
        let mut bytes = vec![0; LEN_PREFIX];
        codec::encode(setup, &mut bytes).map_err(|reason| Error::new(ErrorKind::Codec, reason))?;
        let len = bytes.len() - LEN_PREFIX;
        let slab = argument.take_slab();
        let argument = argument.private();
        if slab.is_none() && bytes.len() + argument.len() <= MAX_INLINE_LEN {
            bytes[..LEN_PREFIX].copy_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(argument);
            return Ok(Self::Inline(bytes));
        }
        let (mut slab, end) = match slab {
            Some(large) => large,
            None => (Slab::from_bytes(argument)?, argument.len()),
        };
        slab.reserve(end + len)?;
        slab.write_at(end, &bytes[LEN_PREFIX..]);
        slab.publish(len as u64, end as u64);
        Ok(Self::Shared(slab))
    }

    /// Returns the bytes to send in the request.
    pub(super) fn inline_bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Shared(_) => &[],
        }
    }

    /// Returns the shared memory to send with the request.
    pub(super) fn shared_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Inline(_) => None,
            Self::Shared(slab) => Some(slab.as_fd()),
        }
    }

    /// Receives the launch data in the child. If the request contained no bytes, the next
    /// descriptor is the shared memory.
    pub(super) fn receive(bytes: Vec<u8>, fds: &mut impl Iterator<Item = OwnedFd>) -> Result<Self> {
        let file = if bytes.is_empty() { fds.next() } else { None };
        Ok(match file {
            None => Self::Inline(bytes),
            Some(file) => Self::Shared(Slab::from_fd(0, file)?),
        })
    }

    /// Decodes the setup; `None` if it cannot be decoded.
    pub(super) fn setup(&self) -> Option<ChildSetup> {
        match self {
            Self::Inline(bytes) => {
                let (_, rest) = bytes.split_first_chunk::<LEN_PREFIX>()?;
                codec::decode(&mut Cursor::new(rest.get(..self.setup_len()?)?)).ok()
            }
            Self::Shared(slab) => {
                let (len, start) = slab.published();
                codec::decode(&mut slab.read_part(start, len)?).ok()
            }
        }
    }

    /// Returns the encoded argument; empty if it cannot be found.
    pub(super) fn argument(&self) -> Cursor<'_> {
        match self {
            Self::Inline(bytes) => {
                let start = self.setup_len().and_then(|len| len.checked_add(LEN_PREFIX));
                let argument = start.and_then(|start| bytes.get(start..));
                Cursor::new(argument.unwrap_or_default())
            }
            Self::Shared(slab) => {
                let argument = slab.read_part(0, slab.published().1);
                argument.unwrap_or_else(|| Cursor::new(&[]))
            }
        }
    }

    fn setup_len(&self) -> Option<usize> {
        let len = self.inline_bytes().first_chunk()?;
        usize::try_from(u64::from_le_bytes(*len)).ok()
    }
}
