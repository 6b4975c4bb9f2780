//! The exit of a child of this crate: flushes its output and stops its own children. No exit
//! handler runs.

use super::{
    at_exit,
    function::{ChildArgs, ChildMain},
};
use crate::sys::child;
use std::panic;

/// The code "internal software error" of sysexits.h. The inviter sees the end of the socket,
/// for any code.
pub(crate) const EX_SOFTWARE: i32 = 70;

/// Runs a child's main function and exits with its code.
pub(crate) fn run_and_exit(main: ChildMain, args: ChildArgs) -> ! {
    let code = panic::catch_unwind(|| main(args));
    flush_output();
    at_exit::stop_children();
    // A Rust program exits with 101 if `main` panics.
    child::exit_now(code.unwrap_or(101))
}

/// Flushes standard output of Rust and the streams of C.
pub(crate) fn flush_output() {
    use std::io::Write;
    // Fails if the other end of standard output is closed, and then the error cannot be reported.
    let _ = std::io::stdout().flush();
    child::flush_c_stdio();
}
