//! The ordered end of this process: the children that would end with it anyway end first, so that
//! their statuses are taken.
//!
//! What is left becomes process 1's, which in many a container reaps no children: each would stay
//! there as a zombie.
//!
//! `exit` and the return of `main` come here by an exit handler, children of this crate before
//! their `_exit`. A process that is killed does not; the kernel, and the fork server that sees it,
//! end its children then.

use super::{children, per_process::PerProcess, start::fork_server::client};
use crate::sys::exit;
use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Has a child that ends with this process, by itself and not by the fork server.
pub(crate) trait StopAtExit: Send + Sync {
    /// Ends it, in bounded time, and takes its status.
    fn stop(&self);
}

static REGISTERED: PerProcess<Mutex<Vec<Weak<dyn StopAtExit>>>> = PerProcess::new();

/// How long the list is waited for at the end of this process: a thread may have it that does not
/// run any more.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Notes that the child is to be ended at the end of this process, if its owner is still there.
pub(crate) fn register(owner: &Arc<impl StopAtExit + 'static>) {
    let owner: Weak<dyn StopAtExit> = Arc::downgrade(owner) as _;
    let mut owners = REGISTERED.get().lock();
    owners.retain(|it| it.strong_count() > 0);
    owners.push(owner);
}

/// Has this happen at the end of this process: after the exit handlers that the program registers
/// from now on, which may use pools.
pub(super) fn install_handler() {
    // Without room for a handler, children end as if the process had been killed.
    let _ = exit::at_exit(exit_handler);
}

extern "C" fn exit_handler() {
    stop_children();
}

/// Ends them. Blocks for some milliseconds, at most for some seconds. No fork server can be started
/// afterwards.
pub(super) fn stop_children() {
    children::kill_forked_daemons();
    let owners = REGISTERED
        .existing()
        .and_then(|it| it.try_lock_for(LOCK_TIMEOUT));
    let owners: Vec<_> = owners.map(|it| it.clone()).unwrap_or_default();
    let owners = owners.iter().filter_map(Weak::upgrade);
    owners.for_each(|it| it.stop());
    client::shut_down_shared();
}
