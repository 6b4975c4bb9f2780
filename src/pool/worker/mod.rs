//! The worker: reads requests, runs items, replies into the shared page, until its pool closes the pipe.
//!
//! One thread, one loop. Nothing here waits for the pool but two things: `read` for the next request, and room in the ring
//! of replies. The pool can kill the process at any instruction; what it then finds is described in `page.rs`.

mod answers;
mod frame;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod inbox;
mod replies;
mod slabs;

use crate::error::Error;
use crate::pool::{
    descriptors::Batch,
    histogram::bucket_of,
    limits::ResourceLimits,
    page::{Page, Tag},
    protocol::{Kind, RequestHead, Setup},
    requests::Requests,
    stopwatch::Stopwatch,
};
use crate::process::{
    call::EncodedCall,
    entry,
    fault::Fault,
    function::{ContextLoader, Function, Given, Handles, Invocation},
    panic::{self, OnPanic},
};
use crate::shm::{Buffer, Cursor, Slab, Slabs};
use crate::sys::{
    child, clock,
    crash::{self, Note},
    environment,
    fd::{self, Stdio},
    limits, memory, pid, signal,
    spin::Spin,
};
use crate::wire::{codec, handle::Attached};
use answers::Answers;
use frame::{Callables, Context, Frame, Items};
use inbox::Inbox;
use parking_lot::Mutex;
use replies::{Doing, Replies};
use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long a worker waits before it gives back memory it can do without.
const IDLE: Duration = Duration::from_millis(100);

/// Between two looks at a worker's memory, each of which takes some microseconds.
const MEMORY_INTERVAL: Duration = Duration::from_millis(10);

/// The worker that the calling code runs in.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its place in the pool, from 0; a replacement takes the place of the worker that died.
    pub id: usize,
    /// Its process id.
    pub pid: u32,
    /// Tasks it has finished, whatever came of them.
    pub tasks_done: u64,
    /// Which try of its task this is, from 1; see [`TaskOptions::retries`](crate::TaskOptions::retries).
    pub attempt: u32,
}

impl Worker {
    /// Whether the task that runs in this worker was asked to stop: by [`TaskFuture::cancel`](crate::TaskFuture::cancel), which
    /// lets it go on, or by a limit of time or a kill, which send SIGTERM at once: only a task that handles that comes to ask. A load
    /// from shared memory: a long loop may ask often.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
    /// let count = |()| {
    ///     let worker = procpool::current_worker().expect("a task runs in a worker");
    ///     (0u64..).take_while(|_| !worker.stop_requested()).count()
    /// };
    /// let counting = pool.submit(count, ());
    /// while !counting.is_running() {
    ///     std::thread::yield_now();
    /// }
    /// assert!(!counting.cancel()); // It runs; but it hears of it.
    /// assert!(counting.result()? < usize::MAX);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[must_use]
    pub fn stop_requested(&self) -> bool {
        let here = HERE.lock();
        let here = here.as_ref().filter(|it| it.pid == pid::current());
        here.is_some_and(|it| it.page.is_stop_requested(RUNNING.load(Ordering::Relaxed)))
    }
}

/// This process as a worker.
struct Here {
    /// Its place in the pool.
    id: usize,
    /// A copy of it is no worker, and may become one of another pool.
    pid: u32,
    page: Page,
}

static HERE: Mutex<Option<Here>> = Mutex::new(None);
/// The number of the item that runs.
static RUNNING: AtomicU32 = AtomicU32::new(0);
/// Which try the item that runs is, as far as that is counted.
static ATTEMPT: AtomicU32 = AtomicU32::new(1);
static TASKS_DONE: AtomicU64 = AtomicU64::new(0);

/// The worker process that calls this; none anywhere else.
///
/// ```
/// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
/// let id = pool.apply(|()| procpool::current_worker().map(|worker| worker.id), ())?;
/// assert_eq!(id, Some(0));
/// assert!(procpool::current_worker().is_none());
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn current_worker() -> Option<Worker> {
    let here = HERE.lock();
    let here = here.as_ref().filter(|it| it.pid == pid::current())?;
    Some(Worker {
        id: here.id,
        pid: here.pid,
        tasks_done: TASKS_DONE.load(Ordering::Relaxed),
        attempt: ATTEMPT.load(Ordering::Relaxed),
    })
}

thread_local! {
    /// The replies of this process, where a panic hook can reach them.
    static REPLIES: RefCell<Option<Rc<Replies>>> = const { RefCell::new(None) };
}

/// What a worker process runs: it gets the bell, the requests, the socket for descriptors, and the shared page.
pub(super) fn main(given: Given) -> i32 {
    // Without them nothing can be said; the pool sees a worker that has ended.
    let Ok([bell, requests, socket, page]) = <[OwnedFd; 4]>::try_from(given.fds) else {
        return 0;
    };
    let Ok(page) = Page::from_fd(page) else {
        return 0;
    };
    crash::note_overflow(Note::Word(page.overflow_word()));
    let told_to_end = page.end_word();
    if signal::leave_the_end_to_the_owner(Some(told_to_end)).is_err()
        || fd::set_nonblocking(&bell).is_err()
    {
        return 0;
    }
    let replies = Rc::new(Replies::new(bell, page));
    REPLIES.set(Some(Rc::clone(&replies)));
    panic::install_hook(OnPanic {
        stop_clock,
        last_words,
        ..OnPanic::SILENT
    });
    WorkerLoop::new(replies, requests, socket).run();
    0
}

fn stop_clock() {
    if let Some(replies) = REPLIES.with_borrow(Clone::clone)
        && let Doing::Item(item) = replies.doing.get()
    {
        replies.page.stop_clock(item);
    }
}

fn last_words(fault: Fault) {
    let Some(replies) = REPLIES.with_borrow(Clone::clone) else {
        return;
    };
    match replies.doing.get() {
        Doing::Setup => replies.fault(0, Tag::SetupFault, &fault),
        Doing::Item(item) => replies.fault(item, Tag::Fault, &fault),
        Doing::Other => {}
    }
}

struct WorkerLoop {
    answers: Answers,
    requests: Requests,
    inbox: Inbox,
    contexts: HashMap<u32, Context>,
    callables: Callables,
    spin: Spin,
    /// Whether memory was given back since the last item.
    is_trimmed: bool,
    /// Bytes of resident memory to be reported, if there are more, and when they were last looked at, on the shared clock.
    max_memory: Option<u64>,
    looked_at_memory: u64,
}

impl WorkerLoop {
    fn new(replies: Rc<Replies>, requests: OwnedFd, socket: OwnedFd) -> Self {
        let socket = Rc::new(socket);
        Self {
            answers: Answers::new(replies, Rc::clone(&socket)),
            requests: Requests::new(requests),
            inbox: Inbox::new(socket),
            contexts: HashMap::new(),
            callables: Callables::default(),
            spin: Spin::default(),
            is_trimmed: false,
            max_memory: None,
            looked_at_memory: clock::now(),
        }
    }

    /// Serves until the pool closes the pipe, or breaks the protocol, which is as good as closing.
    fn run(&mut self) {
        loop {
            let head = match self.requests.buffered() {
                Some(head) => head,
                None => {
                    self.wait();
                    match self.requests.read() {
                        Ok(true) => continue,
                        _ => return,
                    }
                }
            };
            if self.serve(head).is_none() {
                return;
            }
        }
    }

    fn wait(&mut self) {
        self.answers.replies.ring_before_waiting();
        let page = &self.answers.replies.page;
        // Allowed items are written in a moment: `read` hardly sleeps then.
        if self.spin.until(|| page.may_start()) || self.is_trimmed || self.requests.wait(IDLE) {
            return;
        }
        self.is_trimmed = true;
        self.answers.replies.ring_if_unread();
        self.requests.shrink();
        self.answers.shrink();
        memory::release_unused();
    }

    fn serve(&mut self, head: RequestHead) -> Option<()> {
        let setup = head.kind == Kind::Setup;
        self.answers
            .replies
            .doing
            .set(if setup { Doing::Setup } else { Doing::Other });
        match head.kind {
            Kind::Setup => self.set_up(),
            Kind::Items => self.run_items(head),
            Kind::End => None,
            Kind::Context => self.keep_context(head),
            Kind::DropContext => {
                let context = self.contexts.remove(&head.context);
                // A context whose destructor panics is gone all the same.
                let _ = panic::run(|| drop(context));
                Some(())
            }
            Kind::DropSlab => {
                self.inbox.drop_slab(head.slab);
                Some(())
            }
            Kind::Handles => self.inbox.gather(Batch {
                start: head.item,
                count: head.count,
            }),
        }
    }

    fn set_up(&mut self) -> Option<()> {
        let setup: Setup = codec::decode(&mut Cursor::new(self.requests.payload())).ok()?;
        environment::assume(&setup.environment).ok()?;
        child::set_name(&format!("procpool-{}", setup.worker));
        *HERE.lock() = Some(Here {
            id: setup.worker,
            pid: pid::current(),
            page: self.answers.replies.page.clone(),
        });
        TASKS_DONE.store(0, Ordering::Relaxed);
        self.max_memory = setup.max_memory;
        let prepared = settle_in(&setup);
        setup.identity.assume();
        let handles = self.inbox.take_handles();
        let initialized = prepared.and_then(|()| {
            let initializer = setup.initializer;
            initializer.map_or(Ok(()), |it| initialize(it, handles))
        });
        match initialized {
            Ok(()) => self.answers.replies.say_ready(),
            Err(fault) => self.answers.replies.fault(0, Tag::SetupFault, &fault),
        }
        Some(())
    }

    fn keep_context(&mut self, head: RequestHead) -> Option<()> {
        let (loader, bytes) = self.requests.payload().split_first_chunk()?;
        let loader = ContextLoader::from_bytes(loader);
        let handles = self.inbox.take_handles();
        let context = Context::Encoded(loader, bytes.into(), handles);
        self.contexts.insert(head.context, context);
        Some(())
    }

    fn run_items(&mut self, head: RequestHead) -> Option<()> {
        self.is_trimmed = false;
        ATTEMPT.store(head.attempt.max(1).into(), Ordering::Relaxed);
        let mut watch = self.answers.replies.begin(head.item);
        if head.has_handles {
            self.answers.give(self.inbox.take_handles());
        }
        self.run_each(head, &mut watch)?;
        // An item that was taken back has left its own.
        self.answers.give(Vec::new());
        let end = watch.last();
        let looked = Duration::from_nanos(end.saturating_sub(self.looked_at_memory));
        if self.max_memory.is_some() && looked >= MEMORY_INTERVAL {
            self.looked_at_memory = end;
            self.look_at_memory();
        }
        Some(())
    }

    /// Runs the items of a frame, as far as they are not taken back.
    #[inline]
    fn run_each(&mut self, head: RequestHead, watch: &mut Stopwatch) -> Option<()> {
        let waited = bucket_of(watch.last().saturating_sub(head.submitted));
        let mut items = Items::new(self.requests.payload(), head.count);
        let mut parts = Some((&mut self.inbox, &mut self.contexts));
        let mut frame = None;
        for index in 0..head.count {
            let bytes = items.next()?;
            let item = head.item.wrapping_add(index);
            if !self.answers.start(item) {
                break;
            }
            // Behind the start of an item: if decoding a context ends this process, that is the item's end and no other's.
            if let Some((inbox, contexts)) = parts.take() {
                let callables = &mut self.callables;
                frame = Some(Frame::prepare(head, inbox, contexts, callables));
            }
            match frame.as_ref()? {
                Ok(frame) => self.answers.run(item, frame, bytes)?,
                Err(fault) => self.answers.replies.fault(item, Tag::Fault, fault),
            }
            if watch.count() {
                self.answers.replies.lap(watch, waited);
                if index + 1 < head.count {
                    let next = item.wrapping_add(1);
                    self.answers.replies.page.note_start(next, watch.last());
                }
            }
        }
        if watch.has_items() {
            self.answers.replies.lap(watch, waited);
        }
        Some(())
    }

    /// Tells the pool, once, when this process takes up more memory than it may.
    fn look_at_memory(&mut self) {
        if self
            .max_memory
            .is_some_and(|it| memory::resident().is_ok_and(|resident| resident > it))
        {
            self.max_memory = None;
            self.answers.replies.append(0, Tag::Full, &[]);
        }
    }
}

/// Takes the place that the pool's builder chose: a directory, a CPU, limits.
fn settle_in(setup: &Setup) -> std::result::Result<(), Fault> {
    let failed =
        |what: &str, error: io::Error| Fault::Initializer(format!("failed to set {what}: {error}"));
    if let Some(directory) = &setup.directory {
        std::env::set_current_dir(directory).map_err(|it| {
            failed(
                &format!("the working directory {}", directory.display()),
                it,
            )
        })?;
    }
    let read = setup.stdin.assume();
    read.map_err(|it| failed("standard input", it))?;
    for (output, stream, what) in [
        (setup.stdout, Stdio::Output, "standard output"),
        (setup.stderr, Stdio::Error, "standard error"),
    ] {
        output.assume(stream).map_err(|it| failed(what, it))?;
    }
    if setup.is_pinned {
        limits::pin(setup.worker).map_err(|it| failed("the CPU affinity", it))?;
    }
    let limits = setup.limits.as_ref();
    let assumed = limits.map_or(Ok(()), ResourceLimits::assume);
    assumed.map_err(|(what, it)| failed(&format!("the limit of {what}"), it))
}

fn initialize(call: EncodedCall, given: Vec<Attached>) -> std::result::Result<(), Fault> {
    /// An initializer has no result to encode.
    struct NoSlabs;
    impl Slabs for NoSlabs {
        fn take(&self, _bytes: usize) -> Option<Slab> {
            None
        }

        fn give_back(&self, _slab: Slab) {}
    }
    let unknown = |error: Error| Fault::Unknown(error.to_string());
    let callable = Function::from_bytes(&call.function)
        .resolve()
        .map_err(unknown)?;
    let mut result = Buffer::new(Arc::new(NoSlabs));
    let argument = Cursor::new(&call.argument);
    let mut handles = Handles {
        given,
        ..Handles::default()
    };
    let mut invocation = Invocation {
        argument,
        context: None,
        result: &mut result,
        handles: &mut handles,
    };
    let outcome = panic::run(|| callable.invoke(&mut invocation)).map_err(|it| *it);
    let outcome = outcome.and_then(|it| it.map_err(Fault::from));
    // What it printed without a newline appears before the first task's output, and once.
    entry::flush_output();
    outcome
}
