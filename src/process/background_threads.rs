//! Pauses the threads that this crate runs in the user's process, so that they do not prevent a
//! fork.

use crate::sys::pid;
use parking_lot::Mutex;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};

/// An owner of threads that can be stopped while they are idle, and started again.
pub(crate) trait BackgroundThreads: Send + Sync {
    /// Stops idle threads and joins them. A thread that runs the user's code keeps running.
    fn pause(&self);

    /// Starts the threads again.
    fn resume(self: Arc<Self>);
}

static REGISTERED: Mutex<Vec<Weak<dyn BackgroundThreads>>> = Mutex::new(Vec::new());

/// Registers an owner of threads.
pub(crate) fn register(owner: &Arc<impl BackgroundThreads + 'static>) {
    let owner: Weak<dyn BackgroundThreads> = Arc::downgrade(owner) as _;
    let mut all = REGISTERED.lock();
    all.retain(|owner| owner.strong_count() > 0);
    all.push(owner);
}

/// The pid of the process whose threads are paused, or 0. Written by [`pause`] and by the drop of
/// its guard. A fork inherits the pid of its parent here, so it is not paused.
static PAUSED_IN: AtomicU32 = AtomicU32::new(0);

/// Keeps the threads paused until it is dropped.
pub(crate) struct PauseGuard(Option<Vec<Arc<dyn BackgroundThreads>>>);

/// Pauses the threads of all owners. Does nothing if another thread has paused them: that thread
/// itself prevents the fork.
pub(crate) fn pause() -> PauseGuard {
    let own = pid::current();
    // SeqCst: forks are rare, so the cost does not matter.
    if PAUSED_IN.swap(own, Ordering::SeqCst) == own {
        return PauseGuard(None);
    }
    // The lock is released before the fork, so a fork made now can take it.
    let all: Vec<_> = REGISTERED.lock().iter().filter_map(Weak::upgrade).collect();
    all.iter().for_each(|owner| owner.pause());
    PauseGuard(Some(all))
}

impl Drop for PauseGuard {
    fn drop(&mut self) {
        if let Some(all) = self.0.take() {
            all.into_iter().for_each(BackgroundThreads::resume);
            PAUSED_IN.store(0, Ordering::SeqCst);
        }
    }
}
