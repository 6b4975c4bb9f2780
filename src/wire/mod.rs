//! Values as bytes: what may travel between processes, and how it is encoded.
//!
//! Relies on: serde; bincode, in `codec.rs` and nowhere else.
//!
//! Invariant: knows neither where the bytes lie nor who reads them.

mod attribute;
pub(crate) mod codec;
mod decoder;
pub(crate) mod depth;
mod encoder;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub(crate) mod handle;
pub(crate) mod kind;

use serde::{Serialize, de::DeserializeOwned};

/// A value that can be sent to another process: anything that serde can turn into bytes and back.
///
/// Implemented for every type that has both serde traits, owns what it holds, and therefore can be
/// rebuilt elsewhere. The encoding is not self-describing, so a type with a serde attribute that
/// looks at the data first (`flatten`, `untagged`, `tag`, `tag` with `content`), or that leaves
/// fields out (`skip_serializing_if`), is an error of
/// [`ErrorKind::Codec`](crate::ErrorKind::Codec), which names the type and the attribute. A field
/// with only one of `skip_serializing` and `skip_deserializing` is the same error, and so is a
/// value that is nested deeper than [`max_depth`](crate::max_depth) levels.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent to another process",
    label = "does not implement `serde::Serialize` and `serde::de::DeserializeOwned`",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it, and send owned values instead of references",
    note = "of what is not yours: a `File` or a socket travels as a `procpool::Descriptor`, an error as its text"
)]
pub trait Wire: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Wire for T {}
