//! The protocol between pool and worker: request frames in the pipe, and the contents of reply
//! records.

pub(crate) mod fds;
pub(crate) mod region;

use crate::pool::{
    limits::ResourceLimits,
    stdio::{Input, Output},
};
use crate::process::{encoded_call::EncodedCall, function::WireFunction, identity::ChildIdentity};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Become a worker: a [`WorkerSetup`] follows.
    Setup = 1,
    /// Run items: the bytes of a single item, or several items with a length (u32) before each.
    Items = 2,
    /// Decode and keep a context: its loader (16 bytes) and its bytes follow.
    Context = 3,
    /// Drop a context.
    DropContext = 4,
    /// Unmap a slab.
    DropSlab = 5,
    /// Receive descriptors from the socket, for handles in the next frame.
    Fds = 6,
    /// Exit. The pool closes the pipe, too, but a process that was forked from the pool's may hold
    /// it open.
    Shutdown = 7,
}

impl RequestKind {
    fn from_bits(bits: u32) -> Option<Self> {
        let all = [
            Self::Setup,
            Self::Items,
            Self::Context,
            Self::DropContext,
            Self::DropSlab,
            Self::Fds,
            Self::Shutdown,
        ];
        all.into_iter().find(|kind| *kind as u32 == bits)
    }
}

/// The header of a request. Its bytes follow it in the pipe, or are in a slab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestHeader {
    pub(crate) kind: RequestKind,
    /// Bytes that follow in the pipe.
    pub(crate) length: u32,
    /// The number of the first item, or the index of the first descriptor in its list.
    pub(crate) item: u32,
    /// The number of items or descriptors.
    pub(crate) count: u32,
    /// The slab with the bytes, or 0.
    pub(crate) slab: u32,
    /// The context of the items, or 0.
    pub(crate) context: u32,
    /// Bytes in the slab.
    pub(crate) slab_length: u64,
    /// When the items were submitted, by [`clock::now`](crate::sys::clock::now).
    pub(crate) submitted: u64,
    /// Whether the argument of the item holds handles. Their descriptors were sent before.
    pub(crate) has_handles: bool,
    /// The number of the attempt at the item, from 1, or 0 if attempts are not counted.
    pub(crate) attempt: u16,
    pub(crate) function: Option<WireFunction>,
}

impl RequestHeader {
    pub(crate) const SIZE: usize = 40 + WireFunction::SIZE;
    /// The largest attempt that its 15 bits in the header hold.
    pub(crate) const MAX_ATTEMPTS: u16 = (1 << 15) - 1;

    pub(crate) fn new(kind: RequestKind) -> Self {
        Self {
            kind,
            length: 0,
            item: 0,
            count: 0,
            slab: 0,
            context: 0,
            slab_length: 0,
            submitted: 0,
            has_handles: false,
            attempt: 0,
            function: None,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let words = [
            self.kind as u32,
            self.length,
            self.item,
            self.count,
            self.slab,
            self.context,
        ];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let attempt = u64::from(self.attempt & Self::MAX_ATTEMPTS);
        let word = self.slab_length << 16 | attempt << 1 | u64::from(self.has_handles);
        bytes[24..32].copy_from_slice(&word.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.submitted.to_le_bytes());
        if let Some(function) = self.function {
            bytes[40..].copy_from_slice(&function.to_bytes());
        }
        bytes
    }

    /// Returns `None` if the kind is unknown.
    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let word =
            |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("inside the head"));
        let long =
            |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the head"));
        let last = long(24);
        let kind = RequestKind::from_bits(word(0))?;
        let function = bytes[40..].first_chunk().expect("inside the head");
        let function = (kind == RequestKind::Items).then(|| WireFunction::from_bytes(function));
        Some(Self {
            kind,
            // One by one: `map` over an array of offsets is a call of its own for each frame.
            length: word(4),
            item: word(8),
            count: word(12),
            slab: word(16),
            context: word(20),
            slab_length: last >> 16,
            submitted: long(32),
            has_handles: last & 1 != 0,
            attempt: (last >> 1) as u16 & Self::MAX_ATTEMPTS,
            function,
        })
    }
}

/// The settings that make a process a worker.
#[derive(Serialize, Deserialize)]
pub(crate) struct WorkerSetup {
    pub(crate) worker: usize,
    pub(crate) identity: ChildIdentity,
    /// In one block, which is the format of `environment::replace`.
    #[serde(with = "serde_bytes")]
    pub(crate) environment: Vec<u8>,
    pub(crate) initializer: Option<EncodedCall>,
    pub(crate) limits: Option<ResourceLimits>,
    pub(crate) is_pinned: bool,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) max_memory: Option<u64>,
}

/// The slab that holds a large result.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SlabRef {
    pub(crate) slab: u32,
    pub(crate) length: u64,
}
