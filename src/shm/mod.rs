//! Memory that processes share: segments, and the only ways to touch what lies in them.
//!
//! Relies on: anonymous files (`memfd`), sealed against becoming shorter, so that a mapping never faults; the kernel frees
//! them with their last user.
//!
//! Invariant: nothing outside of `view.rs` turns shared bytes into references, and no byte that another process can change
//! is looked at twice: it is copied out first.

mod buffer;
mod object;
mod segment;
mod shared_memory;
mod slab;
mod view;

pub(crate) use buffer::{Buffer, FreshSlabs, SPILL, Slabs};
pub(crate) use object::{Kind, Object, fingerprint};
pub(crate) use segment::Segment;
pub use shared_memory::SharedMemory;
pub(crate) use slab::{Life, Slab};
pub(crate) use view::{Cells, CellsGuard, Cursor, NoCells, View, Word};
