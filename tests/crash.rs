//! What a panic, a death, a kill or an unusual host program costs: the one task that ran there, and nothing else.

#[path = "common/mod.rs"]
mod common;
#[path = "common/processes.rs"]
mod processes;

#[path = "crash/contexts.rs"]
mod contexts;
#[path = "crash/deaths.rs"]
mod deaths;
#[path = "crash/forks.rs"]
mod forks;
#[path = "crash/hostile.rs"]
mod hostile;
#[path = "crash/hosts.rs"]
mod hosts;
#[path = "crash/initializers.rs"]
mod initializers;
#[path = "crash/namespaces.rs"]
mod namespaces;
#[path = "crash/orphans.rs"]
mod orphans;
#[path = "crash/owner.rs"]
mod owner;
#[path = "crash/panics.rs"]
mod panics;
#[path = "crash/privileges.rs"]
mod privileges;
#[path = "crash/races.rs"]
mod races;
#[path = "crash/server.rs"]
mod server;
#[path = "crash/signals.rs"]
mod signals;

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    let lists = [
        forks::PROGRAMS,
        hosts::PROGRAMS,
        namespaces::PROGRAMS,
        owner::PROGRAMS,
        panics::PROGRAMS,
        privileges::PROGRAMS,
        signals::PROGRAMS,
    ];
    processes::run(&lists.concat());
}
