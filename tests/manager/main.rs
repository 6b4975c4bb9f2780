//! A manager's objects: what their proxies do, wherever they are, and what becomes of them when somebody dies.

mod destructors;
mod hostile;
mod killed_clients;
mod leaks;
mod lifetimes;
mod objects;
mod proxies;
mod servers;
mod waiting;

use procpool::{Process, Result, StartMethod, Wire};

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    common::processes::run(&[lifetimes::PROGRAMS, servers::PROGRAMS].concat());
}

/// Starts a process by a method.
fn start<A: Wire, R: Wire>(method: StartMethod, f: fn(A) -> R, arg: A) -> Result<Process<R>> {
    Process::builder(f, arg).start_method(method).start()
}

/// Runs a test under every start method, `Fork` in a process with one thread.
macro_rules! for_every_method {
    ($($(#[$attribute:meta])* fn $name:ident($method:ident) $body:block)*) => {
        $(mod $name {
            use super::*;

            fn body($method: StartMethod) -> Result<()> $body

            $(#[$attribute])*
            #[test]
            fn fork_server() -> Result<()> {
                in_time(|| body(StartMethod::ForkServer))
            }

            $(#[$attribute])*
            #[test]
            fn spawn() -> Result<()> {
                in_time(|| body(StartMethod::Spawn))
            }

            $(#[$attribute])*
            #[test]
            fn fork() -> Result<()> {
                in_time(|| in_a_process_with_one_thread(|()| body(StartMethod::Fork).map_err(|it| it.to_string())))
            }
        })*
    };
}
pub(crate) use for_every_method;

/// Runs a function where `Fork` is allowed: in a process of the fork server's, which has one thread.
fn in_a_process_with_one_thread(f: fn(()) -> std::result::Result<(), String>) -> Result<()> {
    let outcome = start(StartMethod::ForkServer, f, ())?.result()?;
    assert_eq!(outcome, Ok(()));
    Ok(())
}
