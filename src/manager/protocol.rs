//! The messages between a client and the server: greetings, requests, replies, and values in parts.
//!
//! | message | bytes |
//! |---|---|
//! | greeting of a client | name and version of this protocol: 8; build of the program: 8 |
//! | request | object: 8; [`WireMethod`]: 9, or 33 outside of the program; argument |
//! | reply, also to the greeting | 1: [`VALUE`] or [`ERROR`]; the encoded result or [`TaskError`] |
//!
//! A value that may be bytes is last in its message, so that it is copied only once.

use crate::error::{Error, ErrorKind};
use crate::process::{
    function::{CallError, Invocation, WireMethod},
    task_error::TaskError,
};
use crate::shm::Cursor;
use crate::sys::modules;
use crate::wire::{
    Wire,
    codec::{self, ByteSink, ByteSource, CodecErrorText},
};
use serde::{Deserialize, Serialize};

/// The outcome of a handler that has written its result to the call.
pub(super) type HandlerResult = Result<(), CallError>;

/// The first byte of a reply with a result.
pub(super) const VALUE: u8 = 0;
/// The first byte of a reply with an error.
pub(super) const ERROR: u8 = 1;

/// The id of the server itself as an object.
pub(super) const ROOT: u64 = 0;

/// The name and version of the protocol.
const NAME: [u8; 8] = *b"procmgr1";

/// The greeting of a client.
pub(super) struct Hello;

impl Hello {
    pub(super) const SIZE: usize = 16;

    pub(super) fn bytes() -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&NAME);
        bytes[8..].copy_from_slice(&modules::build().to_le_bytes());
        bytes
    }

    /// Checks a greeting. The client's functions must have the same places as those of this
    /// program.
    pub(super) fn check(bytes: &[u8]) -> Result<(), TaskError> {
        let refused = |why: &str| Err(TaskError::Refused(ErrorKind::Unsupported, why.to_owned()));
        let ours = Self::bytes();
        if bytes.len() != Self::SIZE || bytes[..8] != ours[..8] {
            return refused("the client does not use this version of the manager's protocol");
        }
        if bytes[8..] != ours[8..] {
            return refused(
                "the client is another build of the program than the manager's server: both must run \
                 the same file",
            );
        }
        Ok(())
    }
}

/// The server's reply to a greeting.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Identifies this server, also among servers that had the same address before.
    pub(super) server: u64,
    /// Maximum size of a request, in bytes.
    pub(super) message_limit: u64,
}

/// The limits that a server sets for its clients.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct ServerLimits {
    /// Maximum number of connections.
    pub(super) clients: usize,
    /// Maximum size of a request, in bytes.
    pub(super) message: usize,
}

/// A parsed request.
pub(super) struct CallRequest<'a> {
    pub(super) target: u64,
    pub(super) method: WireMethod,
    pub(super) argument: &'a [u8],
}

impl<'a> CallRequest<'a> {
    pub(super) fn write_header(target: u64, method: WireMethod, message: &mut Vec<u8>) {
        message.extend_from_slice(&target.to_le_bytes());
        method.put(message);
    }

    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (target, rest) = bytes.split_first_chunk()?;
        let (method, argument) = WireMethod::split_off(rest)?;
        Some(Self {
            target: u64::from_le_bytes(*target),
            method,
            argument,
        })
    }
}

/// Converts an error to the caller's error, and names the server in its message.
pub(super) fn into_error(error: TaskError) -> Error {
    let codec = |what, reason| {
        let message = format!("the manager's server failed to {what}: {reason}");
        Error::new(ErrorKind::Codec, message)
    };
    match error {
        TaskError::Decode(reason) => codec("decode the argument", reason),
        TaskError::Encode(reason) => codec("encode the result", reason),
        error => error.into_error(),
    }
}

/// Writes the length of `bytes`, then `bytes`, so that more values can follow.
pub(super) fn put_len_prefixed(bytes: &[u8], output: &mut impl ByteSink) {
    output.put(&(bytes.len() as u64).to_le_bytes());
    output.put(bytes);
}

/// Reads bytes that [`put_len_prefixed`] has written.
pub(super) fn take_len_prefixed(input: &mut Cursor<'_>) -> Result<Vec<u8>, CodecErrorText> {
    let mut len = [0; 8];
    let has_len = input.take(&mut len);
    let len = u64::from_le_bytes(len);
    if !has_len || len > input.remaining() as u64 {
        return Err("the message ends too early".to_owned());
    }
    let mut bytes = vec![0; len as usize];
    input.take(&mut bytes);
    Ok(bytes)
}

/// Writes an optional result.
pub(super) fn encode_option<T: Serialize>(
    value: Option<&T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    call.result.put(&[u8::from(value.is_some())]);
    value.map_or(Ok(()), |it| call.encode(it))
}

/// Reads a result that [`encode_option`] has written.
pub(super) fn decode_option<T: Wire>(reply: &mut Cursor<'_>) -> Result<Option<T>, CodecErrorText> {
    let mut is_some = [0];
    reply.take(&mut is_some);
    match is_some {
        [0] => Ok(None),
        _ => codec::decode(reply).map(Some),
    }
}

/// Encodes a key. Keys are compared by their bytes.
pub(super) fn encode_key<K: Wire>(key: &K) -> Result<Vec<u8>, CodecErrorText> {
    let mut bytes = Vec::new();
    codec::encode(key, &mut bytes)?;
    Ok(bytes)
}
