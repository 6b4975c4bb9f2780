//! A manager's objects: what their proxies do in any process, and what happens when a process dies.

mod destructors;
mod hostile;
mod in_flight;
mod killed_clients;
mod leaks;
mod lifetimes;
mod objects;
mod proxies;
mod servers;
mod waiting;

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    common::processes::run(&[lifetimes::PROGRAMS, servers::PROGRAMS].concat());
}
