//! The thread that runs callbacks: the user's code, which may block and may use the pool, so it runs on no other.

use super::task::Callback;
use crossbeam::channel::{Sender, unbounded};
use parking_lot::Mutex;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{self, JoinHandle},
};

/// Started at the first callback, one at a time, in the order in which their tasks ended.
#[derive(Debug, Default)]
pub(super) struct Callbacks(Mutex<Option<(Sender<Callback>, JoinHandle<()>)>>);

impl Callbacks {
    /// Has the thread run `callback`. Where no thread can be had it runs here and now.
    pub(super) fn run(&self, callback: Callback) {
        let mut thread = self.0.lock();
        if thread.is_none() {
            *thread = start();
        }
        match &*thread {
            Some((sender, _)) => {
                if let Err(refused) = sender.send(callback) {
                    drop(thread);
                    run_one(refused.0);
                }
            }
            None => {
                drop(thread);
                run_one(callback);
            }
        }
    }

    /// Waits until every callback so far has run, and ends the thread; does not wait when called by a callback.
    pub(super) fn finish(&self) {
        let taken = self.0.lock().take();
        if let Some((sender, handle)) = taken {
            drop(sender);
            if handle.thread().id() != thread::current().id() {
                // Callbacks that panic are caught, so the thread does not.
                let _ = handle.join();
            }
        }
    }
}

fn start() -> Option<(Sender<Callback>, JoinHandle<()>)> {
    let (sender, receiver) = unbounded::<Callback>();
    let builder = thread::Builder::new().name("procpool-callback".to_owned());
    let handle = builder
        .spawn(move || receiver.into_iter().for_each(run_one))
        .ok()?;
    Some((sender, handle))
}

/// The panic hook has told about a callback that panics; the next one runs all the same.
fn run_one(callback: Callback) {
    let _ = catch_unwind(AssertUnwindSafe(callback));
}
