//! Shared memory as bytes, with or without a name.
//!
//! [`Value`](crate::sync::Value), [`Array`](crate::sync::Array) and [`Atomic`](crate::sync::Atomic)
//! are shared memory with a type.
//!
//! The kernel frees unnamed memory with its last handle. A name stays in `/dev/shm` until it is
//! unlinked, even if the process that created it was killed.

// Relies on: anonymous files (`memfd`), sealed against shrinking, so that a mapping never faults.
// The kernel frees them with their last user.
//
// Invariant: only `view.rs` turns shared bytes into references. Bytes that another process can
// change are copied out before they are examined, and are not read twice.

mod buffer;
mod lent;
mod object;
mod segment;
mod shared_memory;
mod slab;
mod view;

pub(crate) use crate::wire::kind::ObjectKind;
pub(crate) use buffer::{Buffer, FreshSlabs, SPILL, SlabSource};
pub(crate) use lent::guards;
pub(crate) use object::{Object, fingerprint};
pub(crate) use segment::Segment;
pub use shared_memory::SharedMemory;
pub(crate) use slab::{LivenessToken, Slab};
pub(crate) use view::{AtomicWord, Cells, CellsError, CellsGuard, Cursor, View};
