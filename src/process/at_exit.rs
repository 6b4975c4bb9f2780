//! Stops children when this process exits. They would die with it anyway; stopped first, they are
//! also reaped.
//!
//! A child that is left over becomes a child of process 1. In many containers process 1 reaps no
//! children, so each stays a zombie.
//!
//! An exit handler runs this on `exit` and after `main`; children of this crate run it before
//! `_exit`. A process that is killed runs nothing: then the kernel and the fork server kill its
//! children.

use super::{children, per_process::PerProcess, start::fork_server::client};
use crate::sys::exit;
use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// The owner of a child that dies with this process, and that the shared fork server does not stop.
pub(crate) trait StopAtExit: Send + Sync {
    /// Stops the child in bounded time and reaps it.
    fn stop(&self);
}

static REGISTERED: PerProcess<Mutex<Vec<Weak<dyn StopAtExit>>>> = PerProcess::new();

/// How long to wait for the list when this process exits: a thread that no longer runs may hold the
/// lock.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Registers the owner of a child that is to be stopped when this process exits. Does nothing at
/// exit if the owner was dropped before.
pub(crate) fn register(owner: &Arc<impl StopAtExit + 'static>) {
    let owner: Weak<dyn StopAtExit> = Arc::downgrade(owner) as _;
    let mut owners = REGISTERED.get().lock();
    owners.retain(|it| it.strong_count() > 0);
    owners.push(owner);
}

/// Installs the exit handler. It runs after the handlers that the program registers later, because
/// those may use pools.
pub(super) fn install_handler() {
    // If this fails, children die as if the process had been killed.
    let _ = exit::at_exit(exit_handler);
}

extern "C" fn exit_handler() {
    stop_children();
}

/// Stops all children that would die with this process. Blocks for some milliseconds, or some
/// seconds on a busy machine. No fork server can be started afterwards.
pub(super) fn stop_children() {
    children::kill_forked_daemons();
    let owners = REGISTERED
        .existing()
        .and_then(|owners| owners.try_lock_for(LOCK_TIMEOUT));
    // Cloned, so that `stop` runs without the lock.
    let owners: Vec<_> = owners.map(|owners| owners.clone()).unwrap_or_default();
    let owners = owners.iter().filter_map(Weak::upgrade);
    owners.for_each(|owner| owner.stop());
    client::shut_down_shared();
}
