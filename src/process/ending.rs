//! The ordered end of this process: the children that would end with it anyway end first, so that their statuses are taken.
//!
//! What is left becomes process 1's, which in many a container reaps no children: each would stay there as a zombie.
//!
//! `exit` and the return of `main` come here by an exit handler, children of this crate before their `_exit`. A process that
//! is killed does not; the kernel, and the fork server that sees it, end its children then.

use super::{per_process::PerProcess, registry, start::forkserver};
use crate::sys::exit;
use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Has a child that ends with this process, by itself and not by the fork server.
pub(crate) trait EndsWithProcess: Send + Sync {
    /// Ends it, in bounded time, and takes its status.
    fn end(&self);
}

static OWNERS: PerProcess<Mutex<Vec<Weak<dyn EndsWithProcess>>>> = PerProcess::new();

/// How long the list is waited for at the end of this process: a thread may have it that does not run any more.
const PATIENCE: Duration = Duration::from_millis(100);

/// Notes that the child is to be ended at the end of this process, if its owner is still there.
pub(crate) fn add(owner: &Arc<impl EndsWithProcess + 'static>) {
    let owner: Weak<dyn EndsWithProcess> = Arc::downgrade(owner) as _;
    let mut owners = OWNERS.get().lock();
    owners.retain(|it| it.strong_count() > 0);
    owners.push(owner);
}

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
    let owners = OWNERS.existing().and_then(|it| it.try_lock_for(PATIENCE));
    let owners: Vec<_> = owners.map(|it| it.clone()).unwrap_or_default();
    let owners = owners.iter().filter_map(Weak::upgrade);
    owners.for_each(|it| it.end());
    forkserver::end_shared();
}
