//! A map whose input is read by a thread: one that blocks for long holds back no result.

use super::{
    batch::{Batch, Part},
    dispatcher::stopped,
    intake::{Cut, Intake, Iter},
    lazy::{NextPart, Parts, PollPart},
    results::Results,
    shared::Shared,
    task::Told,
};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::Wire;
use parking_lot::Mutex;
use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a caller waits for a blocked input once the pool has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the thread that reads an input and the caller share.
#[derive(Debug, Default)]
struct Feeding {
    /// Whether the thread has sent all: it runs no code of the user's any more, except a waker.
    /// Set by the thread.
    has_ended: AtomicBool,
    /// Whether the thread may run a waker at its end. Set by a caller that polls, before it leaves
    /// its waker.
    is_polled: AtomicBool,
    /// What the user's code panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The outcomes of a map whose input is read by a thread.
pub(super) struct Fed {
    results: Results,
    feeding: Arc<Feeding>,
    /// When a task that polls is woken because the pool has ended and the input blocks.
    patience: Option<Instant>,
}

impl Fed {
    /// Starts to read the input.
    pub(super) fn start<I>(shared: &Arc<Shared>, batch: Batch, cut: Cut, items: I) -> Result<Self>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + 'static,
    {
        cut.check()?;
        let fed = Self {
            results: Results::new(shared, batch),
            feeding: Arc::default(),
            patience: None,
        };
        let of_thread = (
            Arc::clone(shared),
            Arc::clone(&fed.results.batch),
            Arc::clone(&fed.feeding),
        );
        let run = move || {
            let (shared, batch, feeding) = of_thread;
            run(&shared, &batch, cut, items, &feeding);
        };
        let batch = Arc::clone(&fed.results.batch);
        shared.feeders.start(run, &fed.feeding, batch)?;
        Ok(fed)
    }

    /// The next outcomes if they are there, `None` for the end.
    fn try_next_part(&self) -> Poll<Option<Part>> {
        // Looked at first: what comes in between is found below.
        let is_over = self.is_over();
        if let Some(part) = self.results.take() {
            return Poll::Ready(Some(part));
        }
        if is_over {
            self.end();
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// Whether every outcome is there.
    fn is_over(&self) -> bool {
        // Acquire: with the flag comes what the thread has sent.
        self.feeding.has_ended.load(Ordering::Acquire) && self.results.batch.load().outstanding == 0
    }

    /// Waits until outcomes or the end may be there; false if the pool has ended and the input gave
    /// nothing for `PATIENCE`.
    fn wait(&self) -> bool {
        let (shared, batch) = (&self.results.shared, &self.results.batch);
        let has_ended = shared.has_ended() && !batch.is_error_ahead();
        let deadline = has_ended.then(|| Instant::now() + PATIENCE);
        let ends = || !has_ended && !batch.is_error_ahead() && shared.has_ended();
        let done = || batch.has_part() || self.is_over() || ends();
        shared.wait_until(deadline, &|thread: &Thread| batch.wake(thread), &done)
    }

    /// Whether the pool has ended and the input gave nothing for `PATIENCE`. The task that polls is
    /// woken then.
    fn poll_patience(&mut self) -> bool {
        let Results { shared, batch } = &self.results;
        if !shared.has_ended() || batch.is_error_ahead() {
            return false;
        }
        match self.patience {
            Some(end) if Instant::now() < end => false,
            Some(_) => {
                self.patience = None;
                true
            }
            None => {
                self.patience = Some(Instant::now() + PATIENCE);
                // Without a thread, nothing would wake the task.
                tell_later(Arc::clone(shared), Arc::clone(batch)).is_err()
            }
        }
    }

    /// Gives the error of the next item before the input gives that.
    fn take_ahead(&self) -> Option<Part> {
        let refusal = self.results.shared.refusal().unwrap_or_else(stopped);
        self.results.batch.take_ahead(refusal)
    }

    /// Lets the thread go, and goes on with its panic.
    fn end(&self) {
        self.results.shared.feeders.join_over();
        let panic = self.feeding.panic.lock().take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Parts for Fed {
    fn results(&self) -> &Results {
        &self.results
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let has_ended = self.feeding.has_ended.load(Ordering::Acquire);
        let untaken = self.results.untaken();
        (untaken, has_ended.then_some(untaken))
    }
}

impl NextPart for Fed {
    fn next_part(&mut self) -> Option<Part> {
        loop {
            if let Poll::Ready(part) = self.try_next_part() {
                return part;
            }
            if !self.wait()
                && let Some(part) = self.take_ahead()
            {
                return Some(part);
            }
        }
    }
}

impl PollPart for Fed {
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Part>> {
        if let Poll::Ready(part) = self.try_next_part() {
            return Poll::Ready(part);
        }
        // Relaxed: the lock of the batch orders it before the waker.
        self.feeding.is_polled.store(true, Ordering::Relaxed);
        self.results.batch.wake_by(context.waker());
        // Once more: what came before the line above has not woken the task.
        if let Poll::Ready(part) = self.try_next_part() {
            return Poll::Ready(part);
        }
        if self.poll_patience()
            && let Some(part) = self.take_ahead()
        {
            return Poll::Ready(Some(part));
        }
        Poll::Pending
    }
}

/// Has the task that polls the outcomes woken after `PATIENCE`.
fn tell_later(shared: Arc<Shared>, batch: Arc<Batch>) -> io::Result<()> {
    let run = move || {
        thread::sleep(PATIENCE);
        let mut told = Told::default();
        batch.tell(&mut told);
        shared.tell(told);
    };
    let builder = thread::Builder::new().name("procpool-wake".to_owned());
    builder.spawn(run).map(drop)
}

impl Drop for Fed {
    /// The thread of an input that has ended goes now; another ends when its input gives an item.
    fn drop(&mut self) {
        if !self.results.shared.is_foreign() {
            self.results.shared.feeders.join_over();
        }
    }
}

/// What the thread does.
fn run<I>(shared: &Arc<Shared>, batch: &Arc<Batch>, cut: Cut, items: I, feeding: &Feeding)
where
    I: IntoIterator,
    I::Item: Wire + 'static,
{
    let read = AssertUnwindSafe(|| read(Intake::new(shared, batch, cut, Iter(items.into_iter()))));
    if let Err(panic) = catch_unwind(read) {
        *feeding.panic.lock() = Some(panic);
    }
    // Release: a caller that sees it finds the panic, and what was sent.
    feeding.has_ended.store(true, Ordering::Release);
    let mut told = Told::default();
    batch.tell(&mut told);
    shared.tell(told);
    // A leader that sleeps may wait for the end.
    shared.kick();
}

/// Reads the input to its end, or until the results are not wanted any more.
fn read<I>(mut intake: Intake<Iter<I>>) {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut context = Context::from_waker(Waker::noop());
        while intake.wait_for_room() {
            intake.pull_chunk(&mut context);
        }
    }));
    if let Err(panic) = read {
        // The items before the panic are as good as others.
        intake.send_rest();
        resume_unwind(panic);
    }
}

/// The threads that read inputs for one pool.
#[derive(Debug, Default)]
pub(super) struct Feeders(Mutex<Vec<Feeder>>);

#[derive(Debug)]
struct Feeder {
    feeding: Arc<Feeding>,
    batch: Arc<Batch>,
    thread: JoinHandle<()>,
}

impl Feeder {
    /// Whether the thread has nothing left to do, except perhaps to run a waker.
    fn has_ended(&self) -> bool {
        self.feeding.has_ended.load(Ordering::Acquire)
    }

    /// Whether the thread ends without running any more code of the user's.
    fn is_over(&self) -> bool {
        let may_wake = self.feeding.is_polled.load(Ordering::Relaxed);
        self.has_ended() && (!may_wake || self.thread.is_finished())
    }
}

impl Feeders {
    fn start(
        &self,
        run: impl FnOnce() + Send + 'static,
        feeding: &Arc<Feeding>,
        batch: Arc<Batch>,
    ) -> Result<()> {
        self.join_over();
        let builder = thread::Builder::new().name("procpool-feed".to_owned());
        let thread = builder.spawn(run).map_err(|it| {
            Error::io("failed to start a thread that reads the input", it)
                .with_kind(ErrorKind::StartFailed)
        })?;
        self.0.lock().push(Feeder {
            feeding: Arc::clone(feeding),
            batch,
            thread,
        });
        Ok(())
    }

    /// Returns those to be told of the pool's end: their inputs may block for ever.
    pub(super) fn waiting(&self) -> Told {
        let mut told = Told::default();
        let feeders = self.0.lock();
        feeders.iter().for_each(|it| it.batch.tell(&mut told));
        told
    }

    /// Waits for the end of the threads that are over. Leaves those that may run a waker: it may
    /// wait for a lock that the calling thread holds.
    fn join_over(&self) {
        self.join(Feeder::is_over);
    }

    /// Waits for the end of the threads that have nothing left to do, except perhaps to run a waker.
    pub(super) fn join_ended(&self) {
        self.join(Feeder::has_ended);
    }

    fn join(&self, is_chosen: fn(&Feeder) -> bool) {
        let current = thread::current().id();
        let is_another = |it: &Feeder| it.thread.thread().id() != current;
        let chosen = |it: &mut Feeder| is_chosen(it) && is_another(it);
        let feeders: Vec<Feeder> = self.0.lock().extract_if(.., chosen).collect();
        for feeder in feeders {
            // Its panics are caught.
            let _ = feeder.thread.join();
        }
    }
}
