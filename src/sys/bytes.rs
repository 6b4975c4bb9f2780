//! Distinguishes `Vec<u8>` from every other type: serde would handle its elements one by one
//! instead of with one copy.

use std::{
    any::TypeId,
    mem::{self, ManuallyDrop},
    slice,
};

/// Whether `T` is `Vec<u8>`. The comparison ignores lifetimes in `T`; `Vec<u8>` has none, so no
/// other type matches.
#[inline]
pub(crate) fn is_bytes<T>() -> bool {
    typeid::of::<T>() == TypeId::of::<Vec<u8>>()
}

/// Returns the value if it is a `Vec<u8>`.
#[inline]
pub(crate) fn as_bytes<T>(value: &T) -> Option<&Vec<u8>> {
    // SAFETY: `T` is `Vec<u8>`, as was just checked.
    is_bytes::<T>().then(|| unsafe { &*std::ptr::from_ref(value).cast::<Vec<u8>>() })
}

/// Returns the items if they are bytes.
#[inline]
pub(crate) fn slice_as_bytes<T>(items: &[T]) -> Option<&[u8]> {
    let is_byte = typeid::of::<T>() == TypeId::of::<u8>();
    // SAFETY: `T` is `u8`, as was just checked: the same items at the same address.
    is_byte.then(|| unsafe { slice::from_raw_parts(items.as_ptr().cast::<u8>(), items.len()) })
}

/// Returns the bytes as a `T`. `T` must satisfy [`is_bytes`].
#[inline]
pub(crate) fn from_bytes<T>(bytes: Vec<u8>) -> T {
    assert!(is_bytes::<T>(), "`T` must be `Vec<u8>`");
    let bytes = ManuallyDrop::new(bytes);
    // SAFETY: `T` is `Vec<u8>`, as was just checked, and this is the only copy that is dropped.
    unsafe { mem::transmute_copy::<ManuallyDrop<Vec<u8>>, T>(&bytes) }
}
