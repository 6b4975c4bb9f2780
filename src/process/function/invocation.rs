//! The input and output of a trampoline, and its errors.

use crate::error::ErrorKind;
use crate::shm::{Buffer, Cursor};
use crate::wire::{
    Wire, codec,
    handle::{self, Attached},
};
use serde::Serialize;
use std::{any::Any, mem};

/// The reason why a call returned no value, if it did not panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The argument could not be decoded.
    Decode(codec::CodecErrorText),
    /// The result could not be encoded.
    Encode(codec::CodecErrorText),
    /// An initializer returned this error.
    Initializer(String),
    /// The called object refused the call.
    Refused(ErrorKind, String),
}

/// The input and output of a trampoline.
pub(crate) struct Invocation<'a> {
    /// The encoded argument.
    pub(crate) argument: Cursor<'a>,
    /// The decoded context of a `map_with`.
    pub(crate) context: Option<&'a dyn Any>,
    /// Where the encoded result goes.
    pub(crate) result: &'a mut Buffer,
    /// The handles in the argument and the result.
    pub(crate) handles: &'a mut CallHandles,
}

/// The handles that are sent next to a call and its result.
#[derive(Debug, Default)]
pub(crate) struct CallHandles {
    /// The handles in the argument.
    pub(crate) received_fds: Vec<Attached>,
    /// The handles in the result.
    pub(crate) sent_fds: Vec<Attached>,
    /// The receiver of the result, if it is a special one.
    pub(crate) audience: u64,
}

impl Invocation<'_> {
    /// Decodes the argument. The list of handles exists during decoding only, not while the user's
    /// function runs.
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

    /// Encodes the result, or a value that serde encodes the same way.
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
        let audience = self.handles.audience;
        let result = &mut *self.result;
        let encoded = handle::collect(&mut self.handles.sent_fds, || {
            handle::with_audience(audience, || encode(result))
        });
        encoded.map_err(CallError::Encode)
    }
}

/// An object with exclusive access.
pub(crate) trait Exclusive<T> {
    /// Runs `f` with exclusive access to the value.
    fn with<X>(&self, f: impl FnOnce(&mut T) -> X) -> Result<X, CallError>;
}

/// A collection of keys and values that can drop some of them.
pub(crate) trait Retain<K, V> {
    /// Drops the entries for which `keep` returns false. Drops nothing if `keep` panics.
    fn retain(&self, keep: impl FnMut(&K, &mut V) -> bool) -> Result<(), CallError>;
}
