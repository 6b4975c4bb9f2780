//! The callback thread. Callbacks are the user's code: they may block and may use the pool, so they
//! run on no thread that drives it.

use crate::pool::task::Callback;
use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread::{self, JoinHandle},
    time::Instant,
};

/// Runs callbacks one at a time, in the order in which they were sent. The first callback starts
/// the thread.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    inner: Mutex<CallbackQueue>,
    /// Notified when `pending` becomes 0.
    all_done: Condvar,
}

#[derive(Default)]
struct CallbackQueue {
    thread: Option<(Sender<Callback>, JoinHandle<()>)>,
    /// Callbacks that no thread has yet, because it could not be started.
    waiting: VecDeque<Callback>,
    /// Callbacks that were sent and have not returned.
    pending: usize,
}

impl Callbacks {
    /// Queues `callback` for the thread. Neither blocks nor runs user code, so callers may hold any
    /// lock.
    pub(crate) fn send(self: &Arc<Self>, callback: Callback) {
        let mut inner = self.inner.lock();
        inner.pending += 1;
        inner.waiting.push_back(callback);
        self.hand_over(&mut inner);
    }

    /// Waits until all callbacks sent so far have run, and ends the thread. Returns false on
    /// timeout. Does not wait if a callback calls it, or if no thread can be started.
    pub(crate) fn finish(self: &Arc<Self>, deadline: Option<Instant>) -> bool {
        let mut inner = self.inner.lock();
        while inner.pending > 0 {
            self.hand_over(&mut inner);
            match &inner.thread {
                // A callback that waited here would wait for itself.
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
        end_thread(inner);
        true
    }

    /// Ends the thread if it is idle; the next callback starts another.
    pub(crate) fn stop_if_idle(&self) {
        let inner = self.inner.lock();
        if inner.pending == 0 {
            end_thread(inner);
        }
    }

    /// Sends the waiting callbacks to the thread, and starts it if necessary. Each thread has its
    /// own channel, so that a thread that ends gets no more callbacks.
    fn hand_over(self: &Arc<Self>, inner: &mut CallbackQueue) {
        if inner.thread.is_none() {
            inner.thread = start(Arc::downgrade(self));
        }
        if let Some((sender, _)) = &inner.thread {
            for callback in inner.waiting.drain(..) {
                // Cannot fail: the thread receives until this sender is dropped.
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

/// Ends the thread after its last callback. Releases the lock before the join: the thread takes it
/// after each callback.
fn end_thread(mut inner: MutexGuard<'_, CallbackQueue>) {
    let thread = inner.thread.take();
    drop(inner);
    if let Some((sender, handle)) = thread {
        drop(sender);
        // Cannot fail: the thread catches panics of callbacks.
        let _ = handle.join();
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
        // The panic hook has reported a panic; the next callback runs all the same.
        let _ = catch_unwind(AssertUnwindSafe(callback));
        if let Some(callbacks) = callbacks.upgrade() {
            callbacks.callback_finished();
        }
    }
}

impl std::fmt::Debug for CallbackQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallbackQueue")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
