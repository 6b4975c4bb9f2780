//! A map whose input is read by a thread: one that blocks for long holds back no result.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    imap::{NextPart, PartSource, PollPart},
    pool::Pool,
    scheduler::err_stopped,
    task::{
        Wakeups,
        chunker::{ChunkOptions, Chunker, IterStream},
        map::{MapPart, MapState},
        map_results::MapResults,
    },
};
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
const BLOCKED_INPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// What the thread that reads an input and the caller share.
#[derive(Debug, Default)]
struct FeedState {
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
pub(crate) struct FeedParts {
    results: MapResults,
    feeding: Arc<FeedState>,
    /// When a task that polls is woken because the pool has ended and the input blocks.
    wake_at: Option<Instant>,
}

impl FeedParts {
    /// Starts to read the input.
    pub(crate) fn start<I>(
        pool: &Arc<Pool>,
        map: MapState,
        chunking: ChunkOptions,
        items: I,
    ) -> Result<Self>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + 'static,
    {
        chunking.check()?;
        let fed = Self {
            results: MapResults::new(pool, map),
            feeding: Arc::default(),
            wake_at: None,
        };
        let of_thread = (
            Arc::clone(pool),
            Arc::clone(&fed.results.map),
            Arc::clone(&fed.feeding),
        );
        let run = move || {
            let (pool, map, feeding) = of_thread;
            run(&pool, &map, chunking, items, &feeding);
        };
        let map = Arc::clone(&fed.results.map);
        pool.feeders.start(run, &fed.feeding, map)?;
        Ok(fed)
    }

    /// The next outcomes if they are there, `None` for the end.
    fn try_next_part(&self) -> Poll<Option<MapPart>> {
        // Looked at first: what comes in between is found below.
        let is_over = self.is_finished();
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
    fn is_finished(&self) -> bool {
        // Acquire: with the flag comes what the thread has sent.
        self.feeding.has_ended.load(Ordering::Acquire) && self.results.map.load().outstanding == 0
    }

    /// Waits until outcomes or the end may be there; false if the pool has ended and the input gave
    /// nothing for `BLOCKED_INPUT_TIMEOUT`.
    fn wait(&self) -> bool {
        let (pool, map) = (&self.results.pool, &self.results.map);
        let has_ended = pool.has_ended() && !map.is_error_ahead();
        let deadline = has_ended.then(|| Instant::now() + BLOCKED_INPUT_TIMEOUT);
        let ends = || !has_ended && !map.is_error_ahead() && pool.has_ended();
        let done = || map.has_part() || self.is_finished() || ends();
        pool.wait_until(deadline, &|thread: &Thread| map.set_waiter(thread), &done)
    }

    /// Whether the pool has ended and the input gave nothing for `BLOCKED_INPUT_TIMEOUT`. The task
    /// that polls is woken then.
    fn poll_blocked_input(&mut self) -> bool {
        let MapResults { pool, map } = &self.results;
        if !pool.has_ended() || map.is_error_ahead() {
            return false;
        }
        match self.wake_at {
            Some(end) if Instant::now() < end => false,
            Some(_) => {
                self.wake_at = None;
                true
            }
            None => {
                self.wake_at = Some(Instant::now() + BLOCKED_INPUT_TIMEOUT);
                // Without a thread, nothing would wake the task.
                tell_later(Arc::clone(pool), Arc::clone(map)).is_err()
            }
        }
    }

    /// Gives the error of the next item before the input gives that.
    fn take_ahead(&self) -> Option<MapPart> {
        let refusal = self.results.pool.closed_error().unwrap_or_else(err_stopped);
        self.results.map.take_error_ahead(refusal)
    }

    /// Lets the thread go, and goes on with its panic.
    fn end(&self) {
        self.results.pool.feeders.join_over();
        let panic = self.feeding.panic.lock().take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl PartSource for FeedParts {
    fn results(&self) -> &MapResults {
        &self.results
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let has_ended = self.feeding.has_ended.load(Ordering::Acquire);
        let untaken = self.results.untaken();
        (untaken, has_ended.then_some(untaken))
    }
}

impl NextPart for FeedParts {
    fn next_part(&mut self) -> Option<MapPart> {
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

impl PollPart for FeedParts {
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<MapPart>> {
        if let Poll::Ready(part) = self.try_next_part() {
            return Poll::Ready(part);
        }
        // Relaxed: the lock of the batch orders it before the waker.
        self.feeding.is_polled.store(true, Ordering::Relaxed);
        self.results.map.set_waker(context.waker());
        // Once more: what came before the line above has not woken the task.
        if let Poll::Ready(part) = self.try_next_part() {
            return Poll::Ready(part);
        }
        if self.poll_blocked_input()
            && let Some(part) = self.take_ahead()
        {
            return Poll::Ready(Some(part));
        }
        Poll::Pending
    }
}

/// Has the task that polls the outcomes woken after `BLOCKED_INPUT_TIMEOUT`.
fn tell_later(pool: Arc<Pool>, map: Arc<MapState>) -> io::Result<()> {
    let run = move || {
        thread::sleep(BLOCKED_INPUT_TIMEOUT);
        let mut wakeups = Wakeups::default();
        map.add_waiters(&mut wakeups);
        pool.wake(wakeups);
    };
    let builder = thread::Builder::new().name("procpool-wake".to_owned());
    builder.spawn(run).map(drop)
}

impl Drop for FeedParts {
    /// The thread of an input that has ended goes now; another ends when its input gives an item.
    fn drop(&mut self) {
        if !self.results.pool.is_foreign() {
            self.results.pool.feeders.join_over();
        }
    }
}

/// What the thread does.
fn run<I>(
    pool: &Arc<Pool>,
    map: &Arc<MapState>,
    chunking: ChunkOptions,
    items: I,
    feeding: &FeedState,
) where
    I: IntoIterator,
    I::Item: Wire + 'static,
{
    let read = AssertUnwindSafe(|| {
        read(Chunker::new(
            pool,
            map,
            chunking,
            IterStream(items.into_iter()),
        ))
    });
    if let Err(panic) = catch_unwind(read) {
        *feeding.panic.lock() = Some(panic);
    }
    // Release: a caller that sees it finds the panic, and what was sent.
    feeding.has_ended.store(true, Ordering::Release);
    let mut wakeups = Wakeups::default();
    map.add_waiters(&mut wakeups);
    pool.wake(wakeups);
    // A leader that sleeps may wait for the end.
    pool.driver.notify_leader();
}

/// Reads the input to its end, or until the results are not wanted any more.
fn read<I>(mut chunker: Chunker<IterStream<I>>) {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut context = Context::from_waker(Waker::noop());
        while chunker.wait_for_room() {
            chunker.pull_chunk(&mut context);
        }
    }));
    if let Err(panic) = read {
        // The items before the panic are as good as others.
        chunker.flush();
        resume_unwind(panic);
    }
}

/// The threads that read inputs for one pool.
#[derive(Debug, Default)]
pub(crate) struct Feeders(Mutex<Vec<Feeder>>);

#[derive(Debug)]
struct Feeder {
    feeding: Arc<FeedState>,
    map: Arc<MapState>,
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
        feeding: &Arc<FeedState>,
        map: Arc<MapState>,
    ) -> Result<()> {
        self.join_over();
        let builder = thread::Builder::new().name("procpool-feed".to_owned());
        let thread = builder.spawn(run).map_err(|it| {
            Error::io("failed to start a thread that reads the input", it)
                .with_kind(ErrorKind::StartFailed)
        })?;
        self.0.lock().push(Feeder {
            feeding: Arc::clone(feeding),
            map,
            thread,
        });
        Ok(())
    }

    /// Returns those to be told of the pool's end: their inputs may block for ever.
    pub(crate) fn waiting(&self) -> Wakeups {
        let mut wakeups = Wakeups::default();
        let feeders = self.0.lock();
        feeders
            .iter()
            .for_each(|it| it.map.add_waiters(&mut wakeups));
        wakeups
    }

    /// Waits for the end of the threads that are over. Leaves those that may run a waker: it may
    /// wait for a lock that the calling thread holds.
    fn join_over(&self) {
        self.join(Feeder::is_over);
    }

    /// Waits for the end of the threads that have nothing left to do, except perhaps to run a
    /// waker.
    pub(crate) fn join_ended(&self) {
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
