//! The children of this process: running, or detached and not yet reaped.

use super::{child::ChildProcess, identity::ChildInfo};
use crate::sys::pid;
use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

static CHILDREN: Mutex<Children> = Mutex::new(Children {
    owner: 0,
    running: Vec::new(),
    detached: Vec::new(),
});

struct Children {
    /// The process that started these children. A fork of it must not touch them.
    owner: u32,
    running: Vec<Weak<ChildProcess>>,
    /// Kept so that they are reaped after they exit.
    detached: Vec<Arc<ChildProcess>>,
}

impl Children {
    /// Removes children that have exited, and those inherited by a fork of their owner.
    fn prune(&mut self) {
        let own = pid::current();
        if self.owner != own {
            self.owner = own;
            self.running.clear();
            // Dropping the handles would wait for children of another process.
            std::mem::take(&mut self.detached)
                .into_iter()
                .for_each(std::mem::forget);
        }
        self.running.retain(|it| it.strong_count() > 0);
        self.detached.retain(|child| {
            let is_alive = child.is_alive();
            if !is_alive {
                child.status();
            }
            is_alive
        });
    }
}

pub(super) fn add(child: &Arc<ChildProcess>) {
    let mut children = CHILDREN.lock();
    children.prune();
    children.running.push(Arc::downgrade(child));
}

/// Keeps a child whose handle is gone, so that it is reaped.
pub(super) fn detach(child: Arc<ChildProcess>) {
    let mut children = CHILDREN.lock();
    children.prune();
    children.detached.push(child);
}

/// How long to wait for the list when this process exits: a thread that no longer runs may hold the
/// lock.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Kills and reaps the daemons that were forked from this process. Called when this process exits.
pub(super) fn kill_forked_daemons() {
    let Some(children) = CHILDREN.try_lock_for(LOCK_TIMEOUT) else {
        return;
    };
    if children.owner == pid::current() {
        let running = children.running.iter().filter_map(Weak::upgrade);
        running.for_each(|child| child.kill_if_forked_daemon());
        children
            .detached
            .iter()
            .for_each(|child| child.kill_if_forked_daemon());
    }
}

/// Returns the running processes that this one started as a [`Process`](crate::Process), also
/// detached ones, but not the workers of pools. Also reaps children that have exited.
///
/// ```
/// use procpool::{Process, active_children};
///
/// let process = Process::start(|()| -> () { loop { std::thread::park() } }, ())?;
/// assert!(active_children().iter().any(|it| it.pid() == process.pid()));
/// process.kill()?;
/// process.join()?;
/// assert!(active_children().iter().all(|it| it.pid() != process.pid()));
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn active_children() -> Vec<ChildInfo> {
    let running: Vec<Arc<ChildProcess>> = {
        let mut children = CHILDREN.lock();
        children.prune();
        children.running.iter().filter_map(Weak::upgrade).collect()
    };
    let mut infos = Vec::new();
    for child in running {
        if child.is_alive() {
            infos.push(ChildInfo::new(child.name(), child.pid()));
        } else {
            child.status();
        }
    }
    infos
}
