//! `TaskError`: the error of a call in another process, in the form that is sent back.

use crate::error::{Error, ErrorKind, RemotePanic};
use crate::process::function::CallError;
use crate::sys::stack::Frames;
use serde::{Deserialize, Serialize};

/// The reason why a call returned no value.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum TaskError {
    Panicked {
        message: String,
        location: Option<String>,
        calls: Frames,
    },
    Decode(String),
    Encode(String),
    UnknownFunction(String),
    Initializer(String),
    Refused(ErrorKind, String),
    /// The process could not be set up, or its error cannot be decoded.
    Setup(String),
}

impl TaskError {
    /// Truncates each text to [`MAX_TEXT_LEN`], so that the error fits the worker's ring.
    pub(crate) fn truncated(self) -> Self {
        match self {
            Self::Panicked {
                message,
                location,
                calls,
            } => Self::Panicked {
                message: truncate_text(message),
                location,
                calls,
            },
            Self::Decode(reason) => Self::Decode(truncate_text(reason)),
            Self::Encode(reason) => Self::Encode(truncate_text(reason)),
            Self::UnknownFunction(reason) => Self::UnknownFunction(truncate_text(reason)),
            Self::Initializer(reason) => Self::Initializer(truncate_text(reason)),
            Self::Refused(kind, reason) => Self::Refused(kind, truncate_text(reason)),
            Self::Setup(reason) => Self::Setup(truncate_text(reason)),
        }
    }

    /// Converts it into the caller's error.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Panicked {
                message,
                location,
                calls,
            } => Error::panicked(RemotePanic::new(message, location, calls)),
            Self::Decode(reason) => Error::new(
                ErrorKind::Codec,
                format!("the worker failed to decode the argument: {reason}"),
            ),
            Self::Encode(reason) => Error::new(
                ErrorKind::Codec,
                format!("the worker failed to encode the result: {reason}"),
            ),
            Self::UnknownFunction(reason) => Error::new(ErrorKind::UnknownFunction, reason),
            Self::Initializer(reason) | Self::Setup(reason) => {
                Error::new(ErrorKind::StartFailed, reason)
            }
            Self::Refused(kind, reason) => Error::new(kind, reason),
        }
    }
}

/// Bytes of one text in an error.
const MAX_TEXT_LEN: usize = 24 << 10;

fn truncate_text(mut text: String) -> String {
    if text.len() > MAX_TEXT_LEN {
        let end = (0..=MAX_TEXT_LEN)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

impl From<CallError> for TaskError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Decode(reason) => Self::Decode(reason),
            CallError::Encode(reason) => Self::Encode(reason),
            CallError::Initializer(reason) => Self::Initializer(reason),
            CallError::Refused(kind, reason) => Self::Refused(kind, reason),
        }
    }
}
