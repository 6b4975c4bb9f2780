//! The thread that runs callbacks: the user's code, which may block and may use the pool, so it
//! runs on no other.

use crate::pool::task::Callback;
use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread::{self, JoinHandle},
    time::Instant,
};

/// Callbacks, run one at a time in the order in which they were sent, by a thread that is started
/// for the first of them.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    inner: Mutex<CallbackQueue>,
    /// None is left to run.
    all_done: Condvar,
}

#[derive(Default)]
struct CallbackQueue {
    thread: Option<(Sender<Callback>, JoinHandle<()>)>,
    /// Sent while no thread was to be had.
    waiting: VecDeque<Callback>,
    /// Callbacks that were sent and have not returned.
    pending: usize,
}

impl Callbacks {
    /// Has the thread run `callback`. This neither blocks nor runs anything, so it may be called
    /// under any lock.
    pub(crate) fn send(self: &Arc<Self>, callback: Callback) {
        let mut inner = self.inner.lock();
        inner.pending += 1;
        inner.waiting.push_back(callback);
        self.hand_over(&mut inner);
    }

    /// Waits until every callback so far has run, and ends the thread; false if the deadline comes
    /// first. Called by a callback, it does not wait.
    pub(crate) fn finish(self: &Arc<Self>, deadline: Option<Instant>) -> bool {
        let mut inner = self.inner.lock();
        while inner.pending > 0 {
            self.hand_over(&mut inner);
            match &inner.thread {
                Some((_, handle)) if handle.thread().id() != thread::current().id() => {}
                _ => return true,
            }
            match deadline {
                None => self.all_done.wait(&mut inner),
                Some(deadline) if self.all_done.wait_until(&mut inner, deadline).timed_out() => {
                    return inner.pending == 0;
                }
                Some(_) => {}
            }
        }
        let thread = inner.thread.take();
        drop(inner);
        if let Some((sender, handle)) = thread {
            drop(sender);
            // Callbacks that panic are caught, so the thread does not.
            let _ = handle.join();
        }
        true
    }

    /// Ends the thread if it has nothing to do; the next callback starts another.
    pub(crate) fn stop_if_idle(&self) {
        let mut inner = self.inner.lock();
        if inner.pending > 0 {
            return;
        }
        let thread = inner.thread.take();
        drop(inner);
        if let Some((sender, handle)) = thread {
            drop(sender);
            // As above.
            let _ = handle.join();
        }
    }

    /// Sends what waits to the thread, which is started if there is none. Each has a channel of its
    /// own, so that one which is to end gets nothing more.
    fn hand_over(self: &Arc<Self>, inner: &mut CallbackQueue) {
        if inner.thread.is_none() {
            inner.thread = start(Arc::downgrade(self));
        }
        if let Some((sender, _)) = &inner.thread {
            for callback in inner.waiting.drain(..) {
                // The thread lives as long as this sender.
                let _ = sender.send(callback);
            }
        }
    }

    fn callback_finished(&self) {
        let mut inner = self.inner.lock();
        inner.pending -= 1;
        if inner.pending == 0 {
            self.all_done.notify_all();
        }
    }
}

fn start(callbacks: Weak<Callbacks>) -> Option<(Sender<Callback>, JoinHandle<()>)> {
    let (sender, receiver) = unbounded();
    let builder = thread::Builder::new().name("procpool-callback".to_owned());
    let handle = builder.spawn(move || run(&callbacks, &receiver)).ok()?;
    Some((sender, handle))
}

fn run(callbacks: &Weak<Callbacks>, receiver: &Receiver<Callback>) {
    for callback in receiver {
        // The panic hook has told about a callback that panics; the next one runs all the same.
        let _ = catch_unwind(AssertUnwindSafe(callback));
        if let Some(callbacks) = callbacks.upgrade() {
            callbacks.callback_finished();
        }
    }
}

impl std::fmt::Debug for CallbackQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
