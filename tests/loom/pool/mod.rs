//! What the worker and the pool do with the memory that they share.

#[path = "../../../src/pool/histogram.rs"]
mod histogram;
mod models;
mod protocol;
mod worker;
mod worker_handle;
