//! A worker's place in the pool.

use crate::pool::link::Link;
use std::time::Instant;

/// A worker's place in the pool.
#[derive(Debug)]
pub(in crate::pool) enum Slot {
    Running(Box<Link>),
    /// To be filled at this time.
    Vacant(Instant),
    /// Being filled, by whoever has the number.
    Starting,
    /// Not to be filled again.
    Retired,
}

impl Slot {
    pub(in crate::pool) fn link(&self) -> Option<&Link> {
        match self {
            Self::Running(link) => Some(link),
            _ => None,
        }
    }

    /// Whether a worker is there that stays, or one comes.
    pub(super) fn stays(&self) -> bool {
        match self {
            Self::Running(link) => !link.is_leaving,
            Self::Vacant(_) | Self::Starting => true,
            Self::Retired => false,
        }
    }

    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        match self {
            Self::Running(link) => Some(link),
            _ => None,
        }
    }
}
