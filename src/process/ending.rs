//! The ordered end of this process: the children that would end with it anyway end first, so that their statuses are taken.
//!
//! What is left becomes process 1's, which in many a container reaps nobody: each would stay there as a zombie.
//!
//! `exit` and the return of `main` come here by an exit handler, children of this crate before their `_exit`. A process that
//! is killed does not; the kernel, and the fork server that sees it, end its children then.

use super::{registry, start::forkserver};
use crate::sys::exit;

/// Has this happen at the end of this process: after the exit handlers that the program registers from now on, which may use
/// pools.
pub(super) fn register() {
    // Without room for a handler, children end as if the process had been killed.
    let _ = exit::at_exit(at_exit);
}

extern "C" fn at_exit() {
    end_children();
}

/// Ends them. Blocks for some milliseconds, at most for some seconds. No fork server can be started afterwards.
pub(super) fn end_children() {
    registry::end_copies();
    forkserver::end_all();
}
