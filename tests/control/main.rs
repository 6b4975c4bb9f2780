//! What a pool can be told to do with tasks and workers: stop, limit, retry, recycle.

mod crash_matrix;
mod idle;
mod input;
mod kernel;
mod missing;
mod pressure;
mod priorities;
mod races;
mod recycling;
mod retries;
mod reusable;
mod stats;
mod stopping;
mod syscall_failures;
mod worker_settings;

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    common::processes::run(
        &[
            input::PROGRAMS,
            missing::PROGRAMS,
            syscall_failures::PROGRAMS,
        ]
        .concat(),
    );
}
