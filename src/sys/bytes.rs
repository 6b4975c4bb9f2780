//! Telling `Vec<u8>` from every other type: serde hands out its elements one by one, where one copy
//! would do.

use std::{
    any::TypeId,
    mem::{self, ManuallyDrop},
    slice,
};

/// Whether `T` is `Vec<u8>`. `T` may have lifetimes in it, which the comparison does not see;
/// `Vec<u8>` has none, so that no other type is taken for it.
#[inline]
pub(crate) fn is_bytes<T>() -> bool {
    typeid::of::<T>() == TypeId::of::<Vec<u8>>()
}

/// The value, if it is bytes.
#[inline]
pub(crate) fn as_bytes<T>(value: &T) -> Option<&Vec<u8>> {
    // SAFETY: `T` is `Vec<u8>`, as is checked just now.
    is_bytes::<T>().then(|| unsafe { &*std::ptr::from_ref(value).cast::<Vec<u8>>() })
}

/// The items, if each is a byte.
#[inline]
pub(crate) fn slice_as_bytes<T>(items: &[T]) -> Option<&[u8]> {
    let is_byte = typeid::of::<T>() == TypeId::of::<u8>();
    // SAFETY: `T` is `u8`, as is checked just now: the same items at the same place.
    is_byte.then(|| unsafe { slice::from_raw_parts(items.as_ptr().cast::<u8>(), items.len()) })
}

/// The bytes as a `T`, which must be what [`is_bytes`] says yes to.
#[inline]
pub(crate) fn from_bytes<T>(bytes: Vec<u8>) -> T {
    assert!(is_bytes::<T>(), "only bytes are made of bytes");
    let bytes = ManuallyDrop::new(bytes);
    // SAFETY: `T` is `Vec<u8>`, as was just checked, and this is the only copy that is dropped.
    unsafe { mem::transmute_copy::<ManuallyDrop<Vec<u8>>, T>(&bytes) }
}
