//! Threads of this crate in the user's process: they rest while it is forked, so that they never
//! stand in the way.

use crate::sys::pid;
use parking_lot::Mutex;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};

/// Whoever has threads that can be ended while they are idle, and started again.
pub(crate) trait BackgroundThreads: Send + Sync {
    /// Ends them and waits for their end; not one that runs the user's code.
    fn pause(&self);

    /// Starts them again.
    fn resume(self: Arc<Self>);
}

static REGISTERED: Mutex<Vec<Weak<dyn BackgroundThreads>>> = Mutex::new(Vec::new());

/// Notes that somebody has threads from now on.
pub(crate) fn register(owner: &Arc<impl BackgroundThreads + 'static>) {
    let owner: Weak<dyn BackgroundThreads> = Arc::downgrade(owner) as _;
    let mut all = REGISTERED.lock();
    all.retain(|it| it.strong_count() > 0);
    all.push(owner);
}

/// The process in which somebody has them rest; a copy of it finds another's number here, and is
/// free.
static PAUSED_IN: AtomicU32 = AtomicU32::new(0);

/// The time in which they rest; they go on when this is dropped.
pub(crate) struct PauseGuard(Option<Vec<Arc<dyn BackgroundThreads>>>);

/// Has them all rest; none if another thread does so already, which therefore stands in the way of
/// a fork itself.
pub(crate) fn pause() -> PauseGuard {
    let own = pid::current();
    // SeqCst: it is as rare as forks are.
    if PAUSED_IN.swap(own, Ordering::SeqCst) == own {
        return PauseGuard(None);
    }
    // The lock is not held: a copy that is made now finds it open.
    let all: Vec<_> = REGISTERED.lock().iter().filter_map(Weak::upgrade).collect();
    all.iter().for_each(|it| it.pause());
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
