//! What waits for events and permits.

#[path = "../../../src/sync/bell.rs"]
pub(crate) mod bell;
#[path = "../../../src/sync/event.rs"]
mod event;
#[path = "../../../src/sync/handle.rs"]
mod handle;
mod models;
#[path = "../../../src/sync/semaphore.rs"]
mod semaphore;
