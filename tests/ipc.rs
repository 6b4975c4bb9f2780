//! What connections and queues do with messages of every size and kind, shared ends, handles and peers that are gone.

mod common;
#[path = "common/processes.rs"]
mod processes;

#[path = "ipc/handles.rs"]
mod handles;
#[path = "ipc/listeners.rs"]
mod listeners;
#[path = "ipc/messages.rs"]
mod messages;
#[path = "ipc/queue_damage.rs"]
mod queue_damage;
#[path = "ipc/queue_deaths.rs"]
mod queue_deaths;
#[path = "ipc/queue_memory.rs"]
mod queue_memory;
#[path = "ipc/queue_relatives.rs"]
mod queue_relatives;
#[path = "ipc/queue_steps.rs"]
mod queue_steps;
#[path = "ipc/queues.rs"]
mod queues;
#[path = "ipc/relatives.rs"]
mod relatives;
#[path = "ipc/shared.rs"]
mod shared;
#[path = "ipc/signals.rs"]
mod signals;
#[path = "ipc/waiting.rs"]
mod waiting;

#[test]
#[ignore = "runs what other tests start"]
fn program() {
    processes::run(&[("sends_for_ever", listeners::sends_for_ever)]);
}
