//! The queue of bytes under every queue of values.

#[path = "../../../../src/ipc/queue/block.rs"]
mod block;
#[path = "../../../../src/ipc/queue/corrupted.rs"]
mod corrupted;
#[path = "../../../../src/ipc/queue/memory.rs"]
mod memory;
mod models;
#[path = "../../../../src/ipc/queue/placement.rs"]
mod placement;
#[path = "../../../../src/ipc/queue/position.rs"]
mod position;
#[path = "../../../../src/ipc/queue/reader.rs"]
mod reader;
#[path = "../../../../src/ipc/queue/record.rs"]
mod record;
#[path = "../../../../src/ipc/queue/ring.rs"]
mod ring;
#[path = "../../../../src/ipc/queue/writer.rs"]
mod writer;
