//! Why a call in another process gave no value, as it travels back.

use crate::error::{Error, ErrorKind, RemotePanic};
use crate::process::function::Failure;
use crate::sys::stack::Calls;
use serde::{Deserialize, Serialize};

/// Why a call gave no value.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Fault {
    Panicked {
        message: String,
        location: Option<String>,
        calls: Calls,
    },
    Decode(String),
    Encode(String),
    Unknown(String),
    Initializer(String),
    Refused(ErrorKind, String),
    /// The process could not be set up, or what it said cannot be read.
    Setup(String),
}

impl Fault {
    /// The same in at most so many bytes a text that it fits its ring.
    pub(crate) fn shortened(self) -> Self {
        match self {
            Self::Panicked {
                message,
                location,
                calls,
            } => Self::Panicked {
                message: shortened(message),
                location,
                calls,
            },
            Self::Decode(reason) => Self::Decode(shortened(reason)),
            Self::Encode(reason) => Self::Encode(shortened(reason)),
            Self::Unknown(reason) => Self::Unknown(shortened(reason)),
            Self::Initializer(reason) => Self::Initializer(shortened(reason)),
            Self::Refused(kind, reason) => Self::Refused(kind, shortened(reason)),
            Self::Setup(reason) => Self::Setup(shortened(reason)),
        }
    }

    /// The caller's error.
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
            Self::Unknown(reason) => Error::new(ErrorKind::UnknownFunction, reason),
            Self::Initializer(reason) | Self::Setup(reason) => {
                Error::new(ErrorKind::StartFailed, reason)
            }
            Self::Refused(kind, reason) => Error::new(kind, reason),
        }
    }
}

/// Bytes of one text that travel.
const LONGEST: usize = 24 << 10;

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Decode(reason) => Self::Decode(reason),
            Failure::Encode(reason) => Self::Encode(reason),
            Failure::Initializer(reason) => Self::Initializer(reason),
            Failure::Refused(kind, reason) => Self::Refused(kind, reason),
        }
    }
}
