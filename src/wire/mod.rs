//! Values as bytes: which values can be sent between processes, and their encoding.
//!
//! Relies on: serde; bincode, only in `codec.rs`.
//!
//! Invariant: this layer does not know where the bytes are stored or which process reads them.

mod attribute;
pub(crate) mod codec;
mod decoder;
pub(crate) mod depth;
mod descriptor;
mod encoder;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub(crate) mod handle;
pub(crate) mod kind;

use serde::{Serialize, de::DeserializeOwned};

/// A value that can be sent to another process: anything that serde can turn into bytes and back.
///
/// Implemented for every type that implements both serde traits and owns its contents. The encoding
/// is not self-describing. A type with a serde attribute that inspects the data first (`flatten`,
/// `untagged`, `tag`, `tag` with `content`) fails with
/// [`ErrorKind::Codec`](crate::ErrorKind::Codec), and so does a type that omits fields
/// (`skip_serializing_if`). The message names the type and the attribute. A field with only one of
/// `skip_serializing` and `skip_deserializing` is the same error, and so is a value nested deeper
/// than [`max_depth`](crate::max_depth) levels.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent to another process",
    label = "does not implement `serde::Serialize` and `serde::de::DeserializeOwned`",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it, and send owned values instead of references",
    note = "of what is not yours: a `File` or a socket travels as a `procpool::Descriptor`, an error as its text"
)]
pub trait Wire: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Wire for T {}
