//! Stands for `src/pool/worker_handle`.

#[path = "../../../src/pool/worker_handle/checked_region.rs"]
pub(crate) mod checked_region;
