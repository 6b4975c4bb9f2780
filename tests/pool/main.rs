//! What a pool does with tasks, maps, values of every size and kind, and its workers.

#[path = "../common/mod.rs"]
mod common;

mod codec;
mod lazy;
mod maps;
mod nested;
mod payload;
mod submit;
mod workers;
