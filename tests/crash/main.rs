//! What a panic, a death, a kill or an unusual host program costs: the one task that ran there.

mod contexts;
mod fork_server;
mod forks;
mod host_environment;
mod hostile;
mod initializers;
mod namespaces;
mod orphans;
mod owner;
mod panics;
mod privileges;
mod random_kills;
mod signals;
mod worker_deaths;

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    let lists = [
        forks::PROGRAMS,
        host_environment::PROGRAMS,
        hostile::PROGRAMS,
        namespaces::PROGRAMS,
        owner::PROGRAMS,
        panics::PROGRAMS,
        privileges::PROGRAMS,
        signals::PROGRAMS,
    ];
    common::processes::run(&lists.concat());
}
