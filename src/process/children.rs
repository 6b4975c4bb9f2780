//! The children of this process: those that run, and those that nobody waits for but that are still
//! to be reaped.

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
    /// The process whose children these are: not those of a copy of it.
    owner: u32,
    running: Vec<Weak<ChildProcess>>,
    /// Kept so that their statuses are taken when they have ended.
    detached: Vec<Arc<ChildProcess>>,
}

impl Children {
    /// Forgets what a copy of another process has inherited, and those that have ended.
    fn prune(&mut self) {
        let own = pid::current();
        if self.owner != own {
            self.owner = own;
            self.running.clear();
            // Their handles are the other process's: nothing is to be done with them here.
            std::mem::take(&mut self.detached)
                .into_iter()
                .for_each(std::mem::forget);
        }
        self.running.retain(|it| it.strong_count() > 0);
        self.detached.retain(|it| {
            let is_alive = it.is_alive();
            if !is_alive {
                it.status();
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

/// Keeps a child that nobody will wait for.
pub(super) fn detach(child: Arc<ChildProcess>) {
    let mut children = CHILDREN.lock();
    children.prune();
    children.detached.push(child);
}

/// How long the list is waited for at the end of this process: a thread may have it that does not
/// run any more.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Ends the daemons that are copies of this process, and takes their statuses. For its end.
pub(super) fn kill_forked_daemons() {
    let Some(children) = CHILDREN.try_lock_for(LOCK_TIMEOUT) else {
        return;
    };
    if children.owner == pid::current() {
        let running = children.running.iter().filter_map(Weak::upgrade);
        running.for_each(|it| it.kill_if_forked_daemon());
        children
            .detached
            .iter()
            .for_each(|it| it.kill_if_forked_daemon());
    }
}

/// The processes that this one has started and that run: those of [`Process`](crate::Process),
/// detached ones too, not the workers of pools. What has ended is reaped on the way.
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
