//! Connections and queues with messages of any size and kind, shared ends, handles and dead peers.

mod handles;
mod listeners;
mod messages;
mod queue_damage;
mod queue_killed_users;
mod queue_memory;
mod queue_start_methods;
mod queue_steps;
mod queues;
mod shared;
mod signals;
mod start_methods;
mod waiting;

#[test]
#[ignore = "runs what other tests start"]
fn program() {
    common::processes::run(&[("sends_for_ever", listeners::sends_for_ever)]);
}
