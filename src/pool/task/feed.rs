//! A map whose input is read by a thread, so that a blocked input delays no result.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    imap::{NextPart, PartSource, PollPart},
    pool::Pool,
    scheduler::err_stopped,
    task::{
        Wakeups,
        chunker::{ChunkOptions, Chunker, IterStream},
        map::MapState,
        map_part::MapPart,
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

/// How long a caller waits for a blocked input after the pool has ended.
const BLOCKED_INPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// The state that the thread that reads an input shares with the caller.
#[derive(Debug, Default)]
struct FeedState {
    /// Whether the thread has sent all items and runs no more user code, except a waker. The thread
    /// writes it.
    has_ended: AtomicBool,
    /// Whether the thread may run a waker at its end. A caller that polls writes it before it
    /// registers its waker.
    is_polled: AtomicBool,
    /// The payload of a panic of the input.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The outcomes of a map whose input is read by a thread.
pub(crate) struct FeedParts {
    results: MapResults,
    state: Arc<FeedState>,
    /// When a polling task is woken because the pool has ended and the input blocks.
    wake_at: Option<Instant>,
}

impl FeedParts {
    /// Starts the thread that reads the input.
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
        let parts = Self {
            results: MapResults::new(pool, map),
            state: Arc::default(),
            wake_at: None,
        };
        let thread_pool = Arc::clone(pool);
        let map = Arc::clone(&parts.results.map);
        let state = Arc::clone(&parts.state);
        let run = move || run(&thread_pool, &map, chunking, items, &state);
        let map = Arc::clone(&parts.results.map);
        pool.feeders.start(run, &parts.state, map)?;
        Ok(parts)
    }

    /// Returns the next outcomes if they are ready, or `None` at the end.
    fn try_next_part(&self) -> Poll<Option<MapPart>> {
        // Checked before `take`. In the other order: (1) `take` finds nothing; (2) the last outcome
        // arrives; (3) the check finds the map finished, and the last outcome is lost.
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

    /// Whether every item has an outcome.
    fn is_finished(&self) -> bool {
        // Acquire: the flag publishes the items that the thread sent.
        self.state.has_ended.load(Ordering::Acquire) && self.results.map.load().outstanding == 0
    }

    /// Waits until outcomes or the end may be ready. Returns false if the pool has ended and the
    /// input returned no item for `BLOCKED_INPUT_TIMEOUT`.
    fn wait(&self) -> bool {
        let (pool, map) = (&self.results.pool, &self.results.map);
        let has_ended = pool.has_ended() && !map.is_error_ahead();
        let deadline = has_ended.then(|| Instant::now() + BLOCKED_INPUT_TIMEOUT);
        let ends = || !has_ended && !map.is_error_ahead() && pool.has_ended();
        let done = || map.has_part() || self.is_finished() || ends();
        pool.wait_until(deadline, &|thread: &Thread| map.set_waiter(thread), &done)
    }

    /// Whether the pool has ended and the input returned no item for `BLOCKED_INPUT_TIMEOUT`.
    /// Otherwise arranges for the polling task to be woken then.
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
                // If the thread cannot start, nothing would wake the task.
                wake_later(Arc::clone(pool), Arc::clone(map)).is_err()
            }
        }
    }

    /// Returns an error for the next item before the input returns that item.
    fn take_ahead(&self) -> Option<MapPart> {
        let refusal = self.results.pool.closed_error().unwrap_or_else(err_stopped);
        self.results.map.take_error_ahead(refusal)
    }

    /// Joins the thread and resumes its panic, if any.
    fn end(&self) {
        self.results.pool.feeders.join_over();
        let panic = self.state.panic.lock().take();
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
        let has_ended = self.state.has_ended.load(Ordering::Acquire);
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
        // Relaxed: the lock of the map orders it before the waker.
        self.state.is_polled.store(true, Ordering::Relaxed);
        self.results.map.set_waker(context.waker());
        // Checked again. Without this: (1) the check above finds nothing; (2) an outcome arrives
        // and finds no waker; (3) the waker is registered, and nothing wakes the task.
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

/// Wakes the task that polls the outcomes after `BLOCKED_INPUT_TIMEOUT`.
fn wake_later(pool: Arc<Pool>, map: Arc<MapState>) -> io::Result<()> {
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
    /// Joins the thread if its input has ended. Otherwise the thread exits when its input returns
    /// an item.
    fn drop(&mut self) {
        if !self.results.pool.is_foreign() {
            self.results.pool.feeders.join_over();
        }
    }
}

/// Runs on the thread that reads the input.
fn run<I>(
    pool: &Arc<Pool>,
    map: &Arc<MapState>,
    chunking: ChunkOptions,
    items: I,
    state: &FeedState,
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
        *state.panic.lock() = Some(panic);
    }
    // Release: publishes the panic and the items that were sent.
    state.has_ended.store(true, Ordering::Release);
    let mut wakeups = Wakeups::default();
    map.add_waiters(&mut wakeups);
    pool.wake(wakeups);
    // A sleeping leader may wait for the end.
    pool.driver.notify_leader();
}

/// Reads the input to its end, or until the results are dropped.
fn read<I>(mut chunker: Chunker<IterStream<I>>) {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut context = Context::from_waker(Waker::noop());
        while chunker.wait_for_room() {
            chunker.pull_chunk(&mut context);
        }
    }));
    if let Err(panic) = read {
        // The items before the panic are valid.
        chunker.flush();
        resume_unwind(panic);
    }
}

/// The threads that read inputs for one pool.
#[derive(Debug, Default)]
pub(crate) struct Feeders(Mutex<Vec<Feeder>>);

#[derive(Debug)]
struct Feeder {
    state: Arc<FeedState>,
    map: Arc<MapState>,
    thread: JoinHandle<()>,
}

impl Feeder {
    /// Whether the thread has finished its work, except that it may still run a waker.
    fn has_ended(&self) -> bool {
        self.state.has_ended.load(Ordering::Acquire)
    }

    /// Whether the thread exits without running more user code.
    fn is_over(&self) -> bool {
        let may_wake = self.state.is_polled.load(Ordering::Relaxed);
        self.has_ended() && (!may_wake || self.thread.is_finished())
    }
}

impl Feeders {
    fn start(
        &self,
        run: impl FnOnce() + Send + 'static,
        state: &Arc<FeedState>,
        map: Arc<MapState>,
    ) -> Result<()> {
        self.join_over();
        let builder = thread::Builder::new().name("procpool-feed".to_owned());
        let thread = builder.spawn(run).map_err(|error| {
            Error::io("failed to start the thread that reads the input", error)
                .with_kind(ErrorKind::StartFailed)
        })?;
        self.0.lock().push(Feeder {
            state: Arc::clone(state),
            map,
            thread,
        });
        Ok(())
    }

    /// Returns the wake-ups for all callers that wait for an input. The end of the pool must wake
    /// them, because their inputs may block forever.
    pub(crate) fn waiting(&self) -> Wakeups {
        let mut wakeups = Wakeups::default();
        let feeders = self.0.lock();
        for feeder in feeders.iter() {
            feeder.map.add_waiters(&mut wakeups);
        }
        wakeups
    }

    /// Joins the threads that run no more user code. A thread that may run a waker is left out: the
    /// waker may wait for a lock that the calling thread holds.
    fn join_over(&self) {
        self.join(Feeder::is_over);
    }

    /// Joins the threads that have finished their work, including threads that may still run a
    /// waker.
    pub(crate) fn join_ended(&self) {
        self.join(Feeder::has_ended);
    }

    fn join(&self, is_chosen: fn(&Feeder) -> bool) {
        let current = thread::current().id();
        let is_another = |feeder: &Feeder| feeder.thread.thread().id() != current;
        let chosen = |feeder: &mut Feeder| is_chosen(feeder) && is_another(feeder);
        let feeders: Vec<Feeder> = self.0.lock().extract_if(.., chosen).collect();
        for feeder in feeders {
            // The thread catches panics of the input.
            let _ = feeder.thread.join();
        }
    }
}
