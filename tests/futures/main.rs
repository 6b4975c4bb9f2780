//! What a future of a pool says, when it is cancelled, whom it tells, and how it is waited for.

mod callbacks;
mod cancel;
mod polling;
mod states;
mod stream_inputs;
mod streams;
mod waiting;
