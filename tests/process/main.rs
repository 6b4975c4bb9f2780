//! Processes: started by every method, waited for, signalled, and what becomes of their results.

mod ended;
mod fork_maps;
mod handle_kinds;
mod handles;
mod lifetimes;
mod methods;
mod overflows;
mod pool_handles;
mod pools;
mod results;
mod started;

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    common::processes::run(lifetimes::PROGRAMS);
}
