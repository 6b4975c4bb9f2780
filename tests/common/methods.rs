//! Tests and processes under each start method.

use procpool::{Process, Result, StartMethod, Wire};

/// Starts a process by a method.
///
/// # Errors
///
/// Those of [`procpool::ProcessBuilder::start`].
pub fn start<A: Wire, R: Wire>(method: StartMethod, f: fn(A) -> R, arg: A) -> Result<Process<R>> {
    Process::builder(f, arg).start_method(method).start()
}

/// Runs a function in a process with one thread, in which `Fork` is allowed.
///
/// # Errors
///
/// Those of starting the process and of its end.
///
/// # Panics
///
/// If the function returns an error, with its text.
pub fn in_a_process_with_one_thread(f: fn(()) -> Result<(), String>) -> Result<()> {
    let outcome = start(StartMethod::ForkServer, f, ())?.result()?;
    assert_eq!(outcome, Ok(()));
    Ok(())
}

/// Defines a test for each start method, or runs a closure under each; `Fork` in a process with one
/// thread.
#[macro_export]
macro_rules! for_every_method {
    ($($(#[$attribute:meta])* fn $name:ident($method:ident) $body:block)+) => {
        $(mod $name {
            use super::*;

            fn body($method: ::procpool::StartMethod) -> ::procpool::Result<()> $body

            $(#[$attribute])*
            #[test]
            fn fork_server() -> ::procpool::Result<()> {
                $crate::in_time(|| body(::procpool::StartMethod::ForkServer))
            }

            $(#[$attribute])*
            #[test]
            fn spawn() -> ::procpool::Result<()> {
                $crate::in_time(|| body(::procpool::StartMethod::Spawn))
            }

            $(#[$attribute])*
            #[test]
            fn fork() -> ::procpool::Result<()> {
                $crate::in_time(|| {
                    $crate::methods::in_a_process_with_one_thread(|()| {
                        body(::procpool::StartMethod::Fork).map_err(|error| error.to_string())
                    })
                })
            }
        })+
    };
    ($body:expr) => {{
        const BODY: fn(::procpool::StartMethod) -> ::procpool::Result<()> = $body;
        $crate::in_time(|| {
            BODY(::procpool::StartMethod::ForkServer)?;
            BODY(::procpool::StartMethod::Spawn)?;
            $crate::methods::in_a_process_with_one_thread(|()| {
                BODY(::procpool::StartMethod::Fork).map_err(|error| error.to_string())
            })
        })
    }};
}
