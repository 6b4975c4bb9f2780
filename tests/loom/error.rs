//! Stands for `src/error.rs`.

use std::{fmt::Display, io};

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Disconnected,
    Empty,
    Full,
    InvalidInput,
    Io,
    TimedOut,
    Unsupported,
    WouldBlock,
}

#[derive(Debug)]
pub(crate) struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }

    pub(crate) fn io(message: impl Display, error: io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("{message}: {error}"))
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }
}
