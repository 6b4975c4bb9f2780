//! What travels between a client and the server: greetings, requests, replies, and values in parts.
//!
//! | message | bytes |
//! |---|---|
//! | greeting of a client | name and version of this protocol: 8; build of the program: 8 |
//! | request | object: 8; [`WireMethod`]: 9, or 33 outside of the program; argument |
//! | reply, also to the greeting | 1: [`VALUE`] or [`ERROR`]; the encoded result, or a [`TaskError`] |
//!
//! A value that may be bytes stands last in its message, so that it is one copy.

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

/// What a handler gives back when it has left its result.
pub(super) type HandlerResult = Result<(), CallError>;

/// Begins a reply with a result.
pub(super) const VALUE: u8 = 0;
/// Begins a reply with why there is none.
pub(super) const ERROR: u8 = 1;

/// The object that every server has: itself.
pub(super) const ROOT: u64 = 0;

/// The name of the protocol, and its version.
const NAME: [u8; 8] = *b"procmgr1";

/// What a client says first.
pub(super) struct Hello;

impl Hello {
    pub(super) const SIZE: usize = 16;

    pub(super) fn bytes() -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&NAME);
        bytes[8..].copy_from_slice(&modules::build().to_le_bytes());
        bytes
    }

    /// Whether such a client can be served, whose functions must lie where this program's do.
    pub(super) fn check(bytes: &[u8]) -> Result<(), TaskError> {
        let refused = |why: &str| Err(TaskError::Refused(ErrorKind::Unsupported, why.to_owned()));
        let ours = Self::bytes();
        if bytes.len() != Self::SIZE || bytes[..8] != ours[..8] {
            return refused("the client does not speak the manager's protocol, or another version");
        }
        if bytes[8..] != ours[8..] {
            return refused(
                "the client is another build of the program than the manager's server: both must run the same file",
            );
        }
        Ok(())
    }
}

/// What the server answers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Tells this server from every other, also from one that had the same address before.
    pub(super) server: u64,
    /// Bytes of the largest request.
    pub(super) message_limit: u64,
}

/// What a server lets its clients do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct ServerLimits {
    /// Connections at once.
    pub(super) clients: usize,
    /// Bytes of a request.
    pub(super) message: usize,
}

/// A request, taken apart.
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

/// The caller's error, in words about the server.
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

/// Puts bytes that something follows.
pub(super) fn put_len_prefixed(bytes: &[u8], output: &mut impl ByteSink) {
    output.put(&(bytes.len() as u64).to_le_bytes());
    output.put(bytes);
}

/// Takes what [`put_len_prefixed`] has put.
pub(super) fn take_len_prefixed(input: &mut Cursor<'_>) -> Result<Vec<u8>, CodecErrorText> {
    let mut len = [0; 8];
    let has_len = input.take(&mut len);
    let len = u64::from_le_bytes(len);
    if !has_len || len > input.left() as u64 {
        return Err("the message ends too early".to_owned());
    }
    let mut bytes = vec![0; len as usize];
    input.take(&mut bytes);
    Ok(bytes)
}

/// Leaves a result that may be none.
pub(super) fn encode_option<T: Serialize>(
    value: Option<&T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    call.result.put(&[u8::from(value.is_some())]);
    value.map_or(Ok(()), |it| call.encode(it))
}

/// Reads what [`encode_option`] has left.
pub(super) fn decode_option<T: Wire>(reply: &mut Cursor<'_>) -> Result<Option<T>, CodecErrorText> {
    let mut is_some = [0];
    reply.take(&mut is_some);
    match is_some {
        [0] => Ok(None),
        _ => codec::decode(reply).map(Some),
    }
}

/// An encoded key: keys are compared by their bytes.
pub(super) fn encode_key<K: Wire>(key: &K) -> Result<Vec<u8>, CodecErrorText> {
    let mut bytes = Vec::new();
    codec::encode(key, &mut bytes)?;
    Ok(bytes)
}
