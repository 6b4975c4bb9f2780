//! The thread that runs callbacks: the user's code, which may block and may use the pool, so it runs on no other.

use super::task::Callback;
use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{self, JoinHandle},
};

/// What is sent to the thread.
enum Message {
    Run(Callback),
    /// End, once what was sent before is done.
    End,
}

/// Callbacks, run one at a time in the order in which they were sent, by a thread that is started for the first of them.
#[derive(Debug)]
pub(super) struct Callbacks {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Sends callbacks. Sending neither blocks nor runs anything, so it may be done under any lock.
#[derive(Debug, Clone)]
pub(super) struct CallbackSender(Sender<Message>);

impl CallbackSender {
    pub(super) fn send(&self, callback: Callback) {
        // The other end is gone only with the pool and every future of it.
        let _ = self.0.send(Message::Run(callback));
    }
}

impl Callbacks {
    pub(super) fn new() -> Self {
        let (sender, receiver) = unbounded();
        Self {
            sender,
            receiver,
            thread: Mutex::new(None),
        }
    }

    /// A way to send callbacks, with the thread running. Where no thread can be had they wait for the next attempt.
    pub(super) fn sender(&self) -> CallbackSender {
        // Locked by whoever ends the thread, who sees to what is sent meanwhile.
        if let Some(mut thread) = self.thread.try_lock()
            && thread.is_none()
        {
            *thread = self.start();
        }
        CallbackSender(self.sender.clone())
    }

    fn start(&self) -> Option<JoinHandle<()>> {
        let receiver = self.receiver.clone();
        let builder = thread::Builder::new().name("procpool-callback".to_owned());
        builder.spawn(move || run(&receiver)).ok()
    }

    /// Waits until every callback sent so far has run, and ends the thread. Called by a callback, it does not wait.
    pub(super) fn finish(&self) {
        let mut thread = self.thread.lock();
        loop {
            if let Some(handle) = thread.take() {
                // Received by that thread alone.
                let _ = self.sender.send(Message::End);
                if handle.thread().id() == thread::current().id() {
                    return;
                }
                // Callbacks that panic are caught, so the thread does not.
                let _ = handle.join();
            }
            if self.receiver.is_empty() {
                return;
            }
            match self.start() {
                Some(handle) => *thread = Some(handle),
                None => return,
            }
        }
    }
}

fn run(receiver: &Receiver<Message>) {
    while let Ok(Message::Run(callback)) = receiver.recv() {
        // The panic hook has told about a callback that panics; the next one runs all the same.
        let _ = catch_unwind(AssertUnwindSafe(callback));
    }
}
