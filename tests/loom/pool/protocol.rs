//! Stands for `src/pool/protocol`.

#[path = "../../../src/pool/protocol/region.rs"]
pub(crate) mod region;
