//! What a pool can be told to do with tasks and workers: stop, limit, retry, recycle.

#[path = "common/mod.rs"]
mod common;
#[path = "common/processes.rs"]
mod processes;

#[path = "control/crash_matrix.rs"]
mod crash_matrix;
#[path = "control/figures.rs"]
mod figures;
#[path = "control/idle.rs"]
mod idle;
#[path = "control/input.rs"]
mod input;
#[path = "control/kernel.rs"]
mod kernel;
#[path = "control/meetings.rs"]
mod meetings;
#[path = "control/missing.rs"]
mod missing;
#[path = "control/pressure.rs"]
mod pressure;
#[path = "control/priorities.rs"]
mod priorities;
#[path = "control/recycling.rs"]
mod recycling;
#[path = "control/refusals.rs"]
mod refusals;
#[path = "control/retries.rs"]
mod retries;
#[path = "control/reusable.rs"]
mod reusable;
#[path = "control/stopping.rs"]
mod stopping;
#[path = "control/workers.rs"]
mod workers;

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    processes::run(&[input::PROGRAMS, missing::PROGRAMS, refusals::PROGRAMS].concat());
}
