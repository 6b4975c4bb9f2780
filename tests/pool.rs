//! What a pool does with tasks, maps, values of every size and kind, and its workers.

mod common;

#[path = "pool/codec.rs"]
mod codec;
#[path = "pool/feed.rs"]
mod feed;
#[path = "pool/lazy.rs"]
mod lazy;
#[path = "pool/maps.rs"]
mod maps;
#[path = "pool/nested.rs"]
mod nested;
#[path = "pool/payload.rs"]
mod payload;
#[path = "pool/slow_inputs.rs"]
mod slow_inputs;
#[path = "pool/stress.rs"]
mod stress;
#[path = "pool/submit.rs"]
mod submit;
#[path = "pool/workers.rs"]
mod workers;
