//! What a child is told and given before it runs: it travels beside the request where it is small, else in shared memory.
//!
//! | beside the request | in a slab |
//! |---|---|
//! | 8 bytes: the setup's length | the published numbers: lengths of setup and argument |
//! | setup | argument |
//! | argument | setup |

use super::{bootstrap::Setup, start::MOST_BESIDE};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Buffer, Cursor, Slab};
use crate::wire::codec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes that say how long the setup is.
const LENGTH: usize = 8;

/// A setup and an encoded argument.
pub(super) enum Luggage {
    Beside(Vec<u8>),
    Shared(Slab),
}

impl Luggage {
    pub(super) fn pack(mut argument: Buffer, setup: &Setup) -> Result<Self> {
        let mut bytes = vec![0; LENGTH];
        codec::encode(setup, &mut bytes).map_err(|it| Error::new(ErrorKind::Codec, it))?;
        let length = bytes.len() - LENGTH;
        let slab = argument.take_slab();
        let argument = argument.private();
        if slab.is_none() && bytes.len() + argument.len() <= MOST_BESIDE {
            bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(argument);
            return Ok(Self::Beside(bytes));
        }
        let (mut slab, end) = match slab {
            Some(large) => large,
            None => (Slab::holding(argument)?, argument.len()),
        };
        slab.reserve(end + length)?;
        slab.write_at(end, &bytes[LENGTH..]);
        slab.publish(length as u64, end as u64);
        Ok(Self::Shared(slab))
    }

    /// What goes beside the request.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Beside(bytes) => bytes,
            Self::Shared(_) => &[],
        }
    }

    /// The shared memory that goes along.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Beside(_) => None,
            Self::Shared(slab) => Some(slab.as_fd()),
        }
    }

    /// From what has come in the child: the next descriptor where nothing was beside the request.
    pub(super) fn received(
        bytes: Vec<u8>,
        fds: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<Self> {
        let file = if bytes.is_empty() { fds.next() } else { None };
        Ok(match file {
            None => Self::Beside(bytes),
            Some(file) => Self::Shared(Slab::from_fd(0, file)?),
        })
    }

    /// None if it cannot be read.
    pub(super) fn setup(&self) -> Option<Setup> {
        match self {
            Self::Beside(bytes) => {
                let (_, rest) = bytes.split_first_chunk::<LENGTH>()?;
                codec::decode(&mut Cursor::new(rest.get(..self.setup_length()?)?)).ok()
            }
            Self::Shared(slab) => {
                let (length, start) = slab.published();
                codec::decode(&mut slab.read_part(start, length)?).ok()
            }
        }
    }

    /// The encoded argument; nothing if there is no setup.
    pub(super) fn argument(&self) -> Cursor<'_> {
        match self {
            Self::Beside(bytes) => {
                let start = self.setup_length().and_then(|it| it.checked_add(LENGTH));
                Cursor::new(start.and_then(|it| bytes.get(it..)).unwrap_or_default())
            }
            Self::Shared(slab) => {
                let argument = slab.read_part(0, slab.published().1);
                argument.unwrap_or_else(|| Cursor::new(&[]))
            }
        }
    }

    fn setup_length(&self) -> Option<usize> {
        let length = self.bytes().first_chunk()?;
        usize::try_from(u64::from_le_bytes(*length)).ok()
    }
}
