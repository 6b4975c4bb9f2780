//! Atomics and fences of the protocols between threads and processes.
//!
//! The models of `tests/loom` replace them by loom's.

pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence, fence,
};
