//! What a pool does with tasks, maps, values of every size and kind, and its workers.

mod codec;
mod feed;
mod lazy;
mod maps;
mod nested;
mod payload;
mod slow_inputs;
mod stress;
mod submit;
mod worker_start;
