//! What all handles have in common: they are cloned, printed, and sent as the object that they refer to.

use crate::shm::{Kind, Object};

/// A handle to an [`Object`], and what this process keeps beside it.
pub(super) trait Handle: Sized {
    const KIND: Kind;

    /// Of the type of what lies in the object.
    fn fingerprint() -> u64 {
        0
    }

    fn object(&self) -> &Object;

    /// Another handle, to an object of this kind and type.
    fn of(object: Object) -> Self;
}

/// Implements for a [`Handle`] what every one is.
macro_rules! handle {
    ($name:ident $(<$item:ident>)?) => {
        /// Another handle to the same.
        impl$(<$item>)? Clone for $name$(<$item>)? {
            fn clone(&self) -> Self {
                Self::of(self.object().clone())
            }
        }

        impl$(<$item>)? serde::Serialize for $name$(<$item>)? {
            fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
                self.object().serialize(serializer)
            }
        }

        impl<'de $(, $item)?> serde::Deserialize<'de> for $name$(<$item>)? {
            fn deserialize<Z: serde::Deserializer<'de>>(deserializer: Z) -> Result<Self, Z::Error> {
                let (kind, fingerprint) = (Self::KIND, Self::fingerprint());
                crate::shm::Object::deserialize(deserializer, kind, fingerprint).map(Self::of)
            }
        }

        impl$(<$item>)? std::fmt::Debug for $name$(<$item>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("fd", self.object()).finish_non_exhaustive()
            }
        }
    };
}
pub(super) use handle;
