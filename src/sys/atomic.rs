//! What orders accesses in the protocols between threads and processes.
//!
//! Code that the models of `tests/loom` run names these: there they are loom's.

pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence, fence,
};
