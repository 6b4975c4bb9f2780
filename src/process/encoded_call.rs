//! An encoded call for a process that is being started.

use crate::process::function::WireFunction;
use crate::wire::handle::Attached;
use serde::{Deserialize, Serialize};

/// A function and its encoded argument.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct EncodedCall {
    pub(crate) function: [u8; WireFunction::SIZE],
    #[serde(with = "bytes")]
    pub(crate) argument: Vec<u8>,
    /// The descriptors of the handles in the argument, which are sent next to the call.
    #[serde(skip)]
    pub(crate) descriptors: Vec<Attached>,
}

/// Serializes a `Vec<u8>` field as bytes; serde would serialize each element.
pub(crate) mod bytes {
    use serde::{Deserializer, Serializer, de::Visitor};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}
