//! What a future of a pool says, when it is cancelled, whom it tells, and how it is waited for.

mod common;

#[path = "futures/callbacks.rs"]
mod callbacks;
#[path = "futures/cancel.rs"]
mod cancel;
#[path = "futures/polling.rs"]
mod polling;
#[path = "futures/states.rs"]
mod states;
#[path = "futures/stream_inputs.rs"]
mod stream_inputs;
#[path = "futures/streams.rs"]
mod streams;
#[path = "futures/waiting.rs"]
mod waiting;
