//! The worker: reads requests, runs items, replies into the shared page, until its pool closes the pipe.
//!
//! One thread, one loop. Nothing here waits for the pool but two things: `read` for the next request, and room in the ring
//! of replies. The pool can kill the process at any instruction; what it then finds is described in `page.rs`.

use super::{
    page::{Bell, Page, RecordHead, Tag, full_barrier},
    panic,
    protocol::{EncodedCall, Fault, InSlab, Kind, RequestHead, Setup},
    requests::Requests,
};
use crate::error::Error;
use crate::process::{
    entry,
    function::{Callable, ContextLoader, Function, Invocation},
    start::ExitRecord,
};
use crate::shm::{Buffer, Cursor, SPILL, Slab, Slabs};
use crate::sys::{child, fd, memory, pid, pipe, socket, spin::Spin};
use crate::wire::codec;
use parking_lot::Mutex;
use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Between two rings of the bell while there is more to do: a sleeping pool is woken for a batch, not for an item.
const BELL_INTERVAL: Duration = Duration::from_micros(500);

/// How long a worker waits before it gives back memory it can do without.
const IDLE: Duration = Duration::from_millis(100);

/// An item that takes less is tiny.
const TINY: Duration = Duration::from_micros(2);

/// Tiny items between two looks at the clock.
const TINY_BATCH: u32 = 16;

/// Slabs that lie free at most, their memory kept for the next large result.
const FREE_SLABS: usize = 2;

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
}

static WORKER_ID: OnceLock<usize> = OnceLock::new();
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
    let id = *WORKER_ID.get()?;
    let tasks_done = TASKS_DONE.load(Ordering::Relaxed);
    Some(Worker {
        id,
        pid: pid::current(),
        tasks_done,
    })
}

thread_local! {
    /// The replies of this process, where a panic hook can reach them.
    static REPLIES: RefCell<Option<Rc<Replies>>> = const { RefCell::new(None) };
}

/// What a worker process runs: it gets the bell, the requests, the socket for descriptors, and the shared page.
pub(super) fn main(passed: Vec<OwnedFd>) {
    let Ok([bell, requests, socket, page]) = <[OwnedFd; 4]>::try_from(passed) else {
        return;
    };
    let Ok(page) = Page::from_fd(page) else {
        return;
    };
    if fd::set_nonblocking(&bell).is_err() {
        return;
    }
    let replies = Rc::new(Replies::new(bell, page));
    REPLIES.set(Some(Rc::clone(&replies)));
    panic::install_hook(|fault| {
        let replies = REPLIES.with_borrow(Clone::clone);
        if let Some(replies) = replies {
            match replies.doing.get() {
                Doing::Setup => replies.fault(0, Tag::SetupFault, &fault),
                Doing::Item(item) => replies.fault(item, Tag::Fault, &fault),
                Doing::Other => {}
            }
        }
    });
    WorkerLoop::new(replies, requests, socket).run();
}

/// What this process does, for the report of a panic that ends it.
#[derive(Debug, Clone, Copy)]
enum Doing {
    Setup,
    Item(u32),
    Other,
}

/// The way back to the pool.
struct Replies {
    bell: OwnedFd,
    page: Page,
    doing: Cell<Doing>,
    /// Whether something was appended since the bell was last thought of.
    unrung: Cell<bool>,
    last_bell: Cell<Instant>,
    /// Whether the items of the last frame took less than `TINY`, on average.
    items_are_tiny: Cell<bool>,
    /// Tiny items since the clock was read.
    skipped: Cell<u32>,
}

impl Replies {
    fn new(bell: OwnedFd, page: Page) -> Self {
        let last_bell = Cell::new(Instant::now());
        Self {
            bell,
            page,
            doing: Cell::new(Doing::Setup),
            unrung: Cell::new(false),
            last_bell,
            items_are_tiny: Cell::new(false),
            skipped: Cell::new(0),
        }
    }

    fn append(&self, item: u32, tag: Tag, bytes: &[u8]) {
        let head = RecordHead {
            item,
            tag,
            length: bytes.len(),
        };
        while !self.page.append(head, bytes) {
            // The pool must be awake to make room.
            self.ring();
            self.page.wait_for_room(|| self.page.has_room(bytes.len()));
        }
        self.unrung.set(true);
    }

    fn fault(&self, item: u32, tag: Tag, fault: &Fault) {
        let mut bytes = Vec::new();
        // Text in memory cannot fail to encode.
        let _ = codec::encode(&fault.clone().shortened(), &mut bytes);
        self.append(item, tag, &bytes);
    }

    /// Rings if the pool sleeps and wants to know of what was appended now. Call behind a full barrier.
    #[inline]
    fn ring_if_wanted(&self) {
        if self.unrung.get() {
            match self.page.bell() {
                Bell::Off => {}
                Bell::NowAndThen => self.ring_now_and_then(),
                Bell::AtOnce => self.ring(),
            }
        }
    }

    /// Rings if the pool has not been rung for in a while.
    fn ring_now_and_then(&self) {
        // The clock costs as much as a tiny item: it is read for every item, or for sixteen of the tiny ones.
        let skipped = self.skipped.get() + 1;
        self.skipped.set(skipped % TINY_BATCH);
        if self.items_are_tiny.get() && skipped < TINY_BATCH {
            return;
        }
        let now = Instant::now();
        if now.duration_since(self.last_bell.get()) >= BELL_INTERVAL {
            self.ring();
            self.last_bell.set(now);
        }
    }

    /// Rings if the pool sleeps: there is nothing more to do.
    fn ring_before_waiting(&self) {
        if self.unrung.replace(false) {
            full_barrier();
            self.ring();
        }
    }

    /// Notes how long items took.
    fn account(&self, busy: Duration, items: u32) {
        self.items_are_tiny.set(busy < TINY * items);
        self.page.account(busy.as_nanos() as u64, items.into());
    }

    fn ring(&self) {
        if self.page.take_bell() {
            self.unrung.set(false);
            // A full pipe is a bell that was not heard yet; a closed one is noticed at the next read.
            let _ = pipe::write(&self.bell, &[ExitRecord::BELL]);
        }
    }
}

struct WorkerLoop {
    answers: Answers,
    requests: Requests,
    socket: Rc<OwnedFd>,
    contexts: HashMap<u32, Context>,
    /// The pool's slabs, with arguments; none for one whose descriptor was lost, or that could not be mapped.
    arguments: HashMap<u32, Option<Slab>>,
    callables: Callables,
    spin: Spin,
    /// Whether memory was given back since the last item.
    is_trimmed: bool,
}

impl WorkerLoop {
    fn new(replies: Rc<Replies>, requests: OwnedFd, socket: OwnedFd) -> Self {
        let socket = Rc::new(socket);
        Self {
            answers: Answers::new(replies, Rc::clone(&socket)),
            requests: Requests::new(requests),
            socket,
            contexts: HashMap::new(),
            arguments: HashMap::new(),
            callables: Callables::default(),
            spin: Spin::default(),
            is_trimmed: false,
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
        self.requests.shrink();
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
                // It may never have been looked at: a frame that was taken back is skipped.
                receive_slabs(&mut self.arguments, &self.socket, head.slab)?;
                self.arguments.remove(&head.slab);
                Some(())
            }
        }
    }

    fn set_up(&mut self) -> Option<()> {
        let setup: Setup = codec::decode(&mut Cursor::new(self.requests.payload())).ok()?;
        child::set_environment(&setup.environment).ok()?;
        child::set_name(&format!("procpool-{}", setup.worker));
        WORKER_ID.set(setup.worker).ok()?;
        match setup.initializer.map_or(Ok(()), initialize) {
            Ok(()) => self.answers.replies.append(0, Tag::Ready, &[]),
            Err(fault) => self.answers.replies.fault(0, Tag::SetupFault, &fault),
        }
        Some(())
    }

    fn keep_context(&mut self, head: RequestHead) -> Option<()> {
        let (loader, bytes) = self.requests.payload().split_first_chunk()?;
        let loader = ContextLoader::from_bytes(loader);
        self.contexts
            .insert(head.context, Context::Encoded(loader, bytes.into()));
        Some(())
    }

    fn run_items(&mut self, head: RequestHead) -> Option<()> {
        self.is_trimmed = false;
        let begin = Instant::now();
        let mut items = Items {
            bytes: self.requests.payload(),
            is_single: head.count == 1,
        };
        let mut parts = Some((&mut self.arguments, &mut self.contexts));
        let mut frame = None;
        let mut done = 0;
        for index in 0..head.count {
            let bytes = items.next()?;
            let item = head.item.wrapping_add(index);
            if !self.answers.start(item) {
                break;
            }
            // Behind the start of an item: if decoding a context ends this process, that is the item's end and no other's.
            if let Some((slabs, contexts)) = parts.take() {
                let callables = &mut self.callables;
                frame = Some(Frame::prepare(
                    head,
                    &self.socket,
                    slabs,
                    contexts,
                    callables,
                ));
            }
            match frame.as_ref()? {
                Ok(frame) => self.answers.run(item, frame, bytes)?,
                Err(fault) => self.answers.replies.fault(item, Tag::Fault, fault),
            }
            done += 1;
        }
        self.answers.replies.account(begin.elapsed(), done);
        Some(())
    }
}

/// What the items of a frame have in common.
struct Frame<'a> {
    callable: Callable,
    context: Option<&'a dyn Any>,
    /// Where the argument lies, and its length, if not among the frame's bytes.
    slab: Option<(&'a Slab, usize)>,
}

impl<'a> Frame<'a> {
    fn prepare(
        head: RequestHead,
        socket: &OwnedFd,
        slabs: &'a mut HashMap<u32, Option<Slab>>,
        contexts: &'a mut HashMap<u32, Context>,
        callables: &mut Callables,
    ) -> std::result::Result<Self, Fault> {
        let unmapped =
            || Fault::Decode("its shared memory could not be mapped in the worker".to_owned());
        let slab = match head.slab {
            0 => None,
            id => {
                let slab = map_slab(slabs, socket, id, head.slab_length).ok_or_else(unmapped)?;
                Some((slab, head.slab_length as usize))
            }
        };
        let function = head
            .function
            .ok_or_else(|| Fault::Unknown("no function was sent".to_owned()))?;
        let callable = callables.find(function)?;
        let context = match contexts.get_mut(&head.context) {
            None => None,
            Some(context) => Some(context.decoded()?),
        };
        Ok(Self {
            callable,
            context,
            slab,
        })
    }

    fn argument<'b>(&'b self, bytes: &'b [u8]) -> Cursor<'b> {
        match self.slab {
            None => Cursor::new(bytes),
            Some((slab, length)) => slab.read(length),
        }
    }
}

/// A map's context, decoded for the first item that needs it.
enum Context {
    Encoded(ContextLoader, Box<[u8]>),
    Decoded(std::result::Result<Box<dyn Any>, Fault>),
}

impl Context {
    fn decoded(&mut self) -> std::result::Result<&dyn Any, Fault> {
        if let Self::Encoded(loader, bytes) = self {
            let loaded = panic::run(|| loader.load(&mut Cursor::new(bytes)));
            let decoded = loaded.map_err(|it| *it).and_then(|loaded| {
                let loaded = loaded.map_err(|error| Fault::Unknown(error.to_string()))?;
                loaded.map_err(Fault::from)
            });
            *self = Self::Decoded(decoded);
        }
        match self {
            Self::Decoded(Ok(context)) => Ok(&**context),
            Self::Decoded(Err(fault)) => Err(fault.clone()),
            Self::Encoded(..) => unreachable!("it was decoded just now"),
        }
    }
}

/// The items of a frame: one without its length, or several with.
struct Items<'a> {
    bytes: &'a [u8],
    is_single: bool,
}

impl<'a> Items<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.is_single {
            return Some(self.bytes);
        }
        let (length, rest) = self.bytes.split_first_chunk()?;
        let (item, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.bytes = rest;
        Some(item)
    }
}

/// Runs single items and answers them.
struct Answers {
    /// This process.
    owner: u32,
    replies: Rc<Replies>,
    socket: Rc<OwnedFd>,
    /// The result of the item that runs.
    result: Buffer,
    /// This worker's slabs, with results.
    slabs: Arc<ResultSlabs>,
}

impl Answers {
    fn new(replies: Rc<Replies>, socket: Rc<OwnedFd>) -> Self {
        let slabs = Arc::new(ResultSlabs::default());
        Self {
            owner: pid::current(),
            replies,
            socket,
            result: Buffer::new(Arc::clone(&slabs) as _),
            slabs,
        }
    }

    /// Claims an item; false if it was taken back.
    #[inline]
    fn start(&self, item: u32) -> bool {
        let started = self.replies.page.try_start(item);
        if started {
            self.replies.doing.set(Doing::Item(item));
            self.replies.ring_if_wanted();
        }
        started
    }

    /// Runs an item that was claimed. None if it cannot be answered: the pool is gone.
    fn run(&mut self, item: u32, frame: &Frame<'_>, bytes: &[u8]) -> Option<()> {
        let fault = self.call(frame, bytes);
        if pid::current() != self.owner {
            // The task has forked, and this is the copy: the worker answers.
            child::exit_now(0);
        }
        // One thread stores.
        TASKS_DONE.store(TASKS_DONE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if fault.is_none() && !self.result.is_large() && self.result.private().len() <= SPILL {
            self.replies.append(item, Tag::Value, self.result.private());
            return Some(());
        }
        self.reply_otherwise(item, fault)
    }

    /// Leaves an item's result in the buffer, or says why there is none.
    #[inline]
    fn call(&mut self, frame: &Frame<'_>, bytes: &[u8]) -> Option<Box<Fault>> {
        self.result.clear();
        let mut call = Invocation {
            argument: frame.argument(bytes),
            context: frame.context,
            result: &mut self.result,
        };
        let mut failure = None;
        // A pointer is what comes back of an item that went well: large outcomes cost more to move than tiny items.
        let outcome = panic::run(|| match frame.callable.invoke(&mut call) {
            Ok(()) => {}
            Err(error) => failure = Some(Box::new(Fault::from(error))),
        });
        outcome.err().or(failure)
    }

    /// Replies with what is not a small value.
    #[cold]
    fn reply_otherwise(&mut self, item: u32, fault: Option<Box<Fault>>) -> Option<()> {
        if fault.is_none() && self.result.is_large() {
            return self.reply_in_slab(item);
        }
        let unused = self.result.take_slab();
        unused
            .into_iter()
            .for_each(|(slab, _)| self.slabs.give_back(slab));
        let no_memory = || Fault::Encode("no shared memory is to be had for it".to_owned());
        let fault = fault.map_or_else(no_memory, |it| *it);
        self.replies.fault(item, Tag::Fault, &fault);
        Some(())
    }

    #[cold]
    fn reply_in_slab(&mut self, item: u32) -> Option<()> {
        let (slab, length) = self.result.take_slab()?;
        if self.slabs.announce(slab.id) {
            socket::send(&*self.socket, &slab.id.to_le_bytes(), &[slab.as_fd()]).ok()?;
        }
        slab.set_busy(true);
        let mut bytes = Vec::new();
        codec::encode(
            &InSlab {
                slab: slab.id,
                length: length as u64,
            },
            &mut bytes,
        )
        .ok()?;
        self.slabs.give_back(slab);
        self.replies.append(item, Tag::Slab, &bytes);
        for gone in self.slabs.trim() {
            self.replies.append(0, Tag::SlabGone, &gone.to_le_bytes());
        }
        Some(())
    }
}

/// The functions called last, found: most calls repeat one.
#[derive(Default)]
struct Callables(Vec<(Function, Callable)>);

impl Callables {
    /// Functions remembered at most.
    const MOST: usize = 16;

    fn find(&mut self, function: Function) -> std::result::Result<Callable, Fault> {
        if let Some((_, callable)) = self.0.iter().find(|it| it.0 == function) {
            return Ok(*callable);
        }
        let callable = function
            .resolve()
            .map_err(|error| Fault::Unknown(error.to_string()))?;
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push((function, callable));
        Ok(callable)
    }
}

/// Receives the pool's slabs up to this one, whose descriptor was sent before the frame that names it.
fn receive_slabs(slabs: &mut HashMap<u32, Option<Slab>>, socket: &OwnedFd, id: u32) -> Option<()> {
    while !slabs.contains_key(&id) {
        let mut number = [0; 4];
        let (length, mut fds) = socket::receive(socket, &mut number).ok()?;
        if length != number.len() {
            return None;
        }
        let number = u32::from_le_bytes(number);
        slabs.insert(
            number,
            fds.pop().and_then(|it| Slab::from_fd(number, it).ok()),
        );
    }
    Some(())
}

/// Maps the pool's slab if it is new here or has grown.
fn map_slab<'a>(
    slabs: &'a mut HashMap<u32, Option<Slab>>,
    socket: &OwnedFd,
    id: u32,
    bytes: u64,
) -> Option<&'a Slab> {
    receive_slabs(slabs, socket, id)?;
    let slab = slabs.get_mut(&id)?.as_mut()?;
    slab.follow(usize::try_from(bytes).ok()?).then_some(slab)
}

fn initialize(call: EncodedCall) -> std::result::Result<(), Fault> {
    /// An initializer has no result to encode.
    struct NoSlabs;
    impl Slabs for NoSlabs {
        fn take(&self, _bytes: usize) -> Option<Slab> {
            None
        }
    }
    let unknown = |error: Error| Fault::Unknown(error.to_string());
    let callable = Function::from_bytes(&call.function)
        .resolve()
        .map_err(unknown)?;
    let mut result = Buffer::new(Arc::new(NoSlabs));
    let argument = Cursor::new(&call.argument);
    let mut invocation = Invocation {
        argument,
        context: None,
        result: &mut result,
    };
    let outcome = panic::run(|| callable.invoke(&mut invocation)).map_err(|it| *it);
    let outcome = outcome.and_then(|it| it.map_err(Fault::from));
    // What it printed without a newline appears before the first task's output, and once.
    entry::flush_output();
    outcome
}

/// The slabs that carry this worker's large results.
#[derive(Default)]
struct ResultSlabs {
    slabs: Mutex<Vec<Slab>>,
    /// Slabs made so far; the number of the newest.
    made: AtomicU32,
    /// The newest whose descriptor the pool has.
    announced: AtomicU32,
}

impl ResultSlabs {
    /// Keeps a slab, whether a result lies in it or not.
    fn give_back(&self, slab: Slab) {
        self.slabs.lock().push(slab);
    }

    /// Whether the pool has yet to be given this slab; it is taken to have it from then on.
    fn announce(&self, id: u32) -> bool {
        self.announced.fetch_max(id, Ordering::Relaxed) < id
    }

    /// Drops free slabs beyond those worth keeping, the oldest first, and says which.
    fn trim(&self) -> Vec<u32> {
        let mut slabs = self.slabs.lock();
        let mut surplus = slabs
            .iter()
            .filter(|it| !it.is_busy())
            .count()
            .saturating_sub(FREE_SLABS);
        let mut gone = Vec::new();
        slabs.retain(|slab| {
            let drop_it = surplus > 0 && !slab.is_busy();
            if drop_it {
                surplus -= 1;
                gone.push(slab.id);
            }
            !drop_it
        });
        gone
    }
}

impl Slabs for ResultSlabs {
    fn take(&self, bytes: usize) -> Option<Slab> {
        let mut slabs = self.slabs.lock();
        let free = slabs.iter().position(|it| !it.is_busy());
        if let Some(at) = free {
            let mut slab = slabs.swap_remove(at);
            slab.reserve(bytes).ok()?;
            return Some(slab);
        }
        let id = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        Slab::new(id, bytes).ok()
    }
}
