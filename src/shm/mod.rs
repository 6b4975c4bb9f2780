//! Memory that processes share: segments, and the only ways to touch what lies in them.
//!
//! Relies on: anonymous files (`memfd`), sealed against becoming shorter, so that a mapping never faults; the kernel frees
//! them with their last user.
//!
//! Invariant: nothing outside of `view.rs` turns shared bytes into references, and no byte that another process can change
//! is looked at twice: it is copied out first.

mod buffer;
#[allow(dead_code, reason = "what stands on it follows")]
mod object;
mod segment;
mod slab;
mod view;

pub(crate) use buffer::{Buffer, SPILL, Slabs};
#[allow(unused_imports, reason = "what stands on it follows")]
pub(crate) use object::{Kind, Object, fingerprint};
pub(crate) use segment::Segment;
pub(crate) use slab::{Life, Slab};
pub(crate) use view::{Cursor, View};
