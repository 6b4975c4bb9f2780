//! Stands for `src/pool/worker`.

#[path = "../../../src/pool/worker/reply_writer.rs"]
pub(crate) mod reply_writer;
#[path = "../../../src/pool/worker/stopwatch.rs"]
pub(crate) mod stopwatch;
