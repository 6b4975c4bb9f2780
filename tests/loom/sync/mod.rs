//! What waits for events and permits.

#[path = "../../../src/sync/event.rs"]
mod event;
#[path = "../../../src/sync/event_count.rs"]
pub(crate) mod event_count;
#[path = "../../../src/sync/handle.rs"]
mod handle;
mod models;
#[path = "../../../src/sync/semaphore.rs"]
mod semaphore;
