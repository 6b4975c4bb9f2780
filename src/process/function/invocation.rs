//! What a trampoline works on, and why it may give no value.

use crate::error::ErrorKind;
use crate::shm::{Buffer, Cursor};
use crate::wire::{
    Wire, codec,
    handle::{self, Attached},
};
use serde::Serialize;
use std::{any::Any, mem};

/// Why a call gave no value, when it did not panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The argument could not be decoded.
    Decode(codec::CodecErrorText),
    /// The result could not be encoded.
    Encode(codec::CodecErrorText),
    /// An initializer returned this error.
    Initializer(String),
    /// What was called has said no.
    Refused(ErrorKind, String),
}

/// What a trampoline works on.
pub(crate) struct Invocation<'a> {
    /// The encoded argument.
    pub(crate) argument: Cursor<'a>,
    /// The decoded context of a `map_with`.
    pub(crate) context: Option<&'a dyn Any>,
    /// Where the encoded result goes.
    pub(crate) result: &'a mut Buffer,
    /// The handles in argument and result.
    pub(crate) handles: &'a mut CallHandles,
}

/// Descriptors beside a call.
#[derive(Debug, Default)]
pub(crate) struct CallHandles {
    /// Those in its argument.
    pub(crate) received_fds: Vec<Attached>,
    /// Those in its result.
    pub(crate) sent_fds: Vec<Attached>,
    /// For whom the result is, if for somebody special.
    pub(crate) audience: u64,
}

impl Invocation<'_> {
    /// Decodes the argument. The list of handles is there meanwhile, not while the user's function
    /// runs.
    #[inline]
    pub(crate) fn decode<A: Wire>(&mut self) -> Result<A, CallError> {
        let argument = &mut self.argument;
        let decoded = if self.handles.received_fds.is_empty() {
            codec::decode(argument)
        } else {
            let fds = mem::take(&mut self.handles.received_fds);
            handle::provide(fds, || codec::decode(argument))
        };
        decoded.map_err(CallError::Decode)
    }

    /// Encodes the result, or what serde takes for it.
    #[inline]
    pub(crate) fn encode<R: Serialize>(&mut self, value: &R) -> Result<(), CallError> {
        self.encode_by(|result| codec::encode(value, result))
    }

    /// Encodes a slice that is decoded as a `Vec<R>`.
    pub(crate) fn encode_slice<R: Serialize>(&mut self, items: &[R]) -> Result<(), CallError> {
        self.encode_by(|result| codec::encode_slice(items, result))
    }

    /// Encodes a result that is decoded as a `Vec<R>`.
    pub(crate) fn encode_items<'a, R: Serialize + 'a>(
        &mut self,
        items: impl IntoIterator<Item = &'a R>,
    ) -> Result<(), CallError> {
        self.encode_by(|result| codec::encode_items(items, result))
    }

    #[inline]
    fn encode_by(
        &mut self,
        encode: impl FnOnce(&mut Buffer) -> Result<(), codec::CodecErrorText>,
    ) -> Result<(), CallError> {
        let (result, audience) = (&mut *self.result, self.handles.audience);
        let encoded = handle::collect(&mut self.handles.sent_fds, || {
            handle::with_audience(audience, || encode(result))
        });
        encoded.map_err(CallError::Encode)
    }
}

/// An object whose users take turns.
pub(crate) trait Exclusive<T> {
    /// Has one turn.
    fn with<X>(&self, turn: impl FnOnce(&mut T) -> X) -> Result<X, CallError>;
}

/// An object of keys and values, of which some can be dropped.
pub(crate) trait Retain<K, V> {
    /// Drops those that `keep` says no to: all of them, or none if it panics.
    fn retain(&self, keep: impl FnMut(&K, &mut V) -> bool) -> Result<(), CallError>;
}
