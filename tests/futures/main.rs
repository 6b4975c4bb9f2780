//! What a future of a pool says, when it is cancelled, whom it tells, and how it is waited for.

#[path = "../common/mod.rs"]
mod common;

mod callbacks;
mod cancel;
mod polling;
mod states;
mod streams;
mod waiting;
