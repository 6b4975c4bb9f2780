//! What pool and worker say to each other: request frames on the pipe, and the contents of reply
//! records.

pub(crate) mod fds;
pub(crate) mod region;

use super::{
    limits::ResourceLimits,
    stdio::{Input, Output},
};
use crate::process::{encoded_call::EncodedCall, function::WireFunction, identity::ChildIdentity};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Become a worker: a [`WorkerSetup`] follows.
    Setup = 1,
    /// Run items. One item is its bytes; more are each preceded by their length (u32).
    Items = 2,
    /// Decode and keep a context: its loader (16 bytes) and its bytes follow.
    Context = 3,
    /// Drop a context.
    DropContext = 4,
    /// Unmap a slab.
    DropSlab = 5,
    /// Take descriptors from the socket: some of the handles in what follows.
    Fds = 6,
    /// End. The pipe is closed besides, but a process that was forked from the pool's may hold it
    /// open.
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
        all.into_iter().find(|it| *it as u32 == bits)
    }
}

/// The head of a request; the bytes it announces follow it in the pipe, or lie in a slab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestHeader {
    pub(crate) kind: RequestKind,
    /// Bytes that follow in the pipe.
    pub(crate) length: u32,
    /// The number of the first item; of the first descriptor in its list.
    pub(crate) item: u32,
    /// How many items, or descriptors.
    pub(crate) count: u32,
    /// The slab with the bytes, or 0.
    pub(crate) slab: u32,
    /// The context the items need, or 0.
    pub(crate) context: u32,
    /// Bytes in the slab.
    pub(crate) slab_length: u64,
    /// When the items were submitted, by [`clock::now`](crate::sys::clock::now).
    pub(crate) submitted: u64,
    /// Whether the item's argument holds handles, whose descriptors came before.
    pub(crate) has_handles: bool,
    /// Which try of the item this is, from 1; 0 where that is not counted.
    pub(crate) attempt: u16,
    pub(crate) function: Option<WireFunction>,
}

impl RequestHeader {
    pub(crate) const SIZE: usize = 40 + WireFunction::SIZE;
    /// Its bits in the head.
    pub(crate) const MOST_ATTEMPTS: u16 = (1 << 15) - 1;

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
        let attempt = u64::from(self.attempt & Self::MOST_ATTEMPTS);
        let word = self.slab_length << 16 | attempt << 1 | u64::from(self.has_handles);
        bytes[24..32].copy_from_slice(&word.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.submitted.to_le_bytes());
        if let Some(function) = self.function {
            bytes[40..].copy_from_slice(&function.to_bytes());
        }
        bytes
    }

    /// None for a kind that this crate does not write.
    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let word =
            |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("inside the head"));
        let long =
            |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the head"));
        let last = long(24);
        let kind = RequestKind::from_bits(word(0))?;
        let function = bytes[40..].first_chunk().expect("inside the head");
        let function = (kind == RequestKind::Items).then(|| WireFunction::from_bytes(function));
        let [length, item, count, slab, context] = [4, 8, 12, 16, 20].map(word);
        Some(Self {
            kind,
            length,
            item,
            count,
            slab,
            context,
            slab_length: last >> 16,
            submitted: long(32),
            has_handles: last & 1 != 0,
            attempt: (last >> 1) as u16 & Self::MOST_ATTEMPTS,
            function,
        })
    }
}

/// What a process needs to become a worker.
#[derive(Serialize, Deserialize)]
pub(crate) struct WorkerSetup {
    pub(crate) worker: usize,
    pub(crate) identity: ChildIdentity,
    /// In one piece, which is what `environment::apply` takes.
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

/// Where a large result lies.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SlabRef {
    pub(crate) slab: u32,
    pub(crate) length: u64,
}
