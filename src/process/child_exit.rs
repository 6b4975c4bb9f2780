//! How a child of this crate ends: what it has printed is written, its own children end, no exit
//! handler runs.

use super::{
    at_exit,
    function::{ChildArgs, ChildMain},
};
use crate::sys::child;
use std::panic;

/// "Internal software error" of sysexits.h. The inviter sees the end of the socket, whatever the
/// code.
pub(crate) const EX_SOFTWARE: i32 = 70;

/// Runs a child's main function and ends the process.
pub(crate) fn run_and_exit(main: ChildMain, args: ChildArgs) -> ! {
    let outcome = panic::catch_unwind(|| main(args));
    flush_output();
    at_exit::stop_children();
    // 101: what a Rust program exits with when `main` panics.
    child::exit_now(outcome.unwrap_or(101))
}

/// Writes out what was printed, by Rust or C, and not yet written.
pub(crate) fn flush_output() {
    use std::io::Write;
    // Nobody is left to tell when the other end of standard output is gone.
    let _ = std::io::stdout().flush();
    child::flush_c_stdio();
}
