//! The worker: reads requests, runs items, replies into the shared page, until its pool closes the pipe.
//!
//! One thread, one loop. Nothing here waits for the pool but two things: `read` for the next request, and room in the ring
//! of replies. The pool can kill the process at any instruction; what it then finds is described in `page.rs`.

use super::{
    page::{Page, RecordHead, Tag, full_barrier},
    panic,
    protocol::{EncodedCall, Fault, InSlab, Kind, RequestHead, Setup},
    requests::Requests,
};
use crate::{
    error::Error,
    process::{
        entry,
        function::{Callable, ContextLoader, Function, Invocation},
        start::ExitRecord,
    },
    shm::{Buffer, Cursor, Encoded, Slab, Slabs},
    sys::{child, fd, pid, pipe, socket, spin::Spin},
    wire::codec,
};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Between two rings of the bell while there is more to do: a sleeping pool is woken for a batch, not for an item.
const BELL_INTERVAL: Duration = Duration::from_micros(50);

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
            replies.fault(replies.current.get(), Tag::Fault, &fault);
        }
    });
    WorkerLoop::new(replies, requests, socket).run();
}

/// The way back to the pool.
struct Replies {
    bell: OwnedFd,
    page: Page,
    /// The item that runs.
    current: Cell<u32>,
    /// Whether something was appended since the bell was last thought of.
    unrung: Cell<bool>,
    last_bell: Cell<Instant>,
}

impl Replies {
    fn new(bell: OwnedFd, page: Page) -> Self {
        let last_bell = Cell::new(Instant::now());
        Self {
            bell,
            page,
            current: Cell::new(0),
            unrung: Cell::new(false),
            last_bell,
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
        let _ = codec::encode(fault, &mut bytes);
        self.append(item, tag, &bytes);
    }

    /// Rings if the pool sleeps and has not been rung for a while. Call behind a full barrier.
    #[inline]
    fn ring_now_and_then(&self) {
        if self.unrung.get() && self.page.is_pool_asleep() {
            let now = Instant::now();
            if now.duration_since(self.last_bell.get()) >= BELL_INTERVAL {
                self.ring();
                self.last_bell.set(now);
            }
        }
    }

    /// Rings if the pool sleeps: there is nothing more to do.
    fn ring_before_waiting(&self) {
        if self.unrung.replace(false) {
            full_barrier();
            self.ring();
        }
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
    replies: Rc<Replies>,
    requests: Requests,
    socket: OwnedFd,
    contexts: HashMap<u32, std::result::Result<Box<dyn Any>, Fault>>,
    /// The pool's slabs, mapped here, with arguments.
    arguments: HashMap<u32, Slab>,
    /// This worker's slabs, with results.
    results: ResultSlabs,
    /// The function called last, found: most calls repeat it.
    callable: Option<(Function, Callable)>,
    /// Memory for the next result.
    spare: Vec<u8>,
    spin: Spin,
}

impl WorkerLoop {
    fn new(replies: Rc<Replies>, requests: OwnedFd, socket: OwnedFd) -> Self {
        Self {
            replies,
            requests: Requests::new(requests),
            socket,
            contexts: HashMap::new(),
            arguments: HashMap::new(),
            results: ResultSlabs::default(),
            callable: None,
            spare: Vec::new(),
            spin: Spin::default(),
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
        self.replies.ring_before_waiting();
        let page = &self.replies.page;
        // Allowed items are written in a moment: `read` hardly sleeps then.
        self.spin.until(|| page.may_start());
    }

    fn serve(&mut self, head: RequestHead) -> Option<()> {
        match head.kind {
            Kind::Setup => self.set_up(),
            Kind::Items => self.run_items(head),
            Kind::Context => self.load_context(head),
            Kind::DropContext => {
                let context = self.contexts.remove(&head.context);
                // A context whose destructor panics is gone all the same.
                let _ = panic::run(|| drop(context));
                Some(())
            }
            Kind::DropSlab => {
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
            Ok(()) => self.replies.append(0, Tag::Ready, &[]),
            Err(fault) => self.replies.fault(0, Tag::SetupFault, &fault),
        }
        Some(())
    }

    fn load_context(&mut self, head: RequestHead) -> Option<()> {
        let (loader, bytes) = self.requests.payload().split_first_chunk()?;
        let loader = ContextLoader::from_bytes(loader);
        let mut bytes = Cursor::new(bytes);
        let loaded = panic::run(|| loader.load(&mut bytes)).and_then(|loaded| {
            let loaded = loaded.map_err(|error| Fault::Unknown(error.to_string()))?;
            loaded.map_err(Fault::from)
        });
        self.contexts.insert(head.context, loaded);
        Some(())
    }

    fn run_items(&mut self, head: RequestHead) -> Option<()> {
        if head.slab != 0 {
            map_slab(
                &mut self.arguments,
                &self.socket,
                head.slab,
                head.slab_length,
            )?;
        }
        let callable = self.resolve(head.function?);
        let begin = Instant::now();
        let mut done = 0;
        let mut at = 0;
        for index in 0..head.count {
            let item = head.item.wrapping_add(index);
            let range = self.item_range(head, &mut at)?;
            if !self.replies.page.try_start(item) {
                break;
            }
            self.replies.ring_now_and_then();
            self.run_item(head, item, range, callable.clone())?;
            done += 1;
        }
        self.replies
            .page
            .account(begin.elapsed().as_nanos() as u64, done);
        Some(())
    }

    /// Where the next item lies among the bytes of its frame.
    fn item_range(&self, head: RequestHead, at: &mut usize) -> Option<std::ops::Range<usize>> {
        let payload = self.requests.payload();
        if head.count == 1 {
            return Some(0..payload.len());
        }
        let length = u32::from_le_bytes(*payload.get(*at..)?.first_chunk()?) as usize;
        let start = *at + size_of::<u32>();
        *at = start
            .checked_add(length)
            .filter(|end| *end <= payload.len())?;
        Some(start..*at)
    }

    fn run_item(
        &mut self,
        head: RequestHead,
        item: u32,
        range: std::ops::Range<usize>,
        callable: std::result::Result<Callable, Fault>,
    ) -> Option<()> {
        self.replies.current.set(item);
        let argument = match head.slab {
            0 => Cursor::new(&self.requests.payload()[range]),
            slab => self.arguments.get(&slab)?.read(head.slab_length as usize),
        };
        let context = match self.contexts.get(&head.context) {
            None => Ok(None),
            Some(Ok(context)) => Ok(Some(&**context)),
            Some(Err(fault)) => Err(fault.clone()),
        };
        let mut result = Buffer::new(std::mem::take(&mut self.spare), &self.results);
        let outcome = callable.and_then(|callable| {
            let context = context?;
            let mut call = Invocation {
                argument,
                context,
                result: &mut result,
            };
            panic::run(|| callable.invoke(&mut call))?.map_err(Fault::from)
        });
        let encoded = result.finish();
        TASKS_DONE.fetch_add(1, Ordering::Relaxed);
        self.reply(item, outcome, encoded)
    }

    fn reply(
        &mut self,
        item: u32,
        outcome: std::result::Result<(), Fault>,
        encoded: Encoded,
    ) -> Option<()> {
        match (outcome, encoded) {
            (Ok(()), Encoded::Private(bytes)) => {
                self.replies.append(item, Tag::Value, &bytes);
                self.spare = bytes;
            }
            (Ok(()), Encoded::Slab(slab, length)) => self.reply_in_slab(item, slab, length)?,
            (Err(fault), encoded) => {
                match encoded {
                    Encoded::Private(bytes) => self.spare = bytes,
                    Encoded::Slab(slab, _) => self.results.give_back(slab),
                }
                self.replies.fault(item, Tag::Fault, &fault);
            }
        }
        Some(())
    }

    fn reply_in_slab(&mut self, item: u32, slab: Slab, length: usize) -> Option<()> {
        if self.results.announce(slab.id) {
            socket::send(&self.socket, &slab.id.to_le_bytes(), &[slab.as_fd()]).ok()?;
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
        self.results.give_back(slab);
        self.replies.append(item, Tag::Slab, &bytes);
        for gone in self.results.trim() {
            self.replies.append(0, Tag::SlabGone, &gone.to_le_bytes());
        }
        Some(())
    }

    fn resolve(&mut self, function: Function) -> std::result::Result<Callable, Fault> {
        if let Some((last, callable)) = &self.callable
            && *last == function
        {
            return Ok(*callable);
        }
        let callable = function
            .resolve()
            .map_err(|error| Fault::Unknown(error.to_string()))?;
        self.callable = Some((function, callable));
        Ok(callable)
    }
}

/// Maps the pool's slab if it is new here or has grown: its descriptor was sent before the frame that names it.
fn map_slab(slabs: &mut HashMap<u32, Slab>, socket: &OwnedFd, id: u32, bytes: u64) -> Option<()> {
    while !slabs.contains_key(&id) {
        let mut number = [0; 4];
        let (length, mut fds) = socket::receive(socket, &mut number).ok()?;
        if length != number.len() {
            return None;
        }
        let number = u32::from_le_bytes(number);
        slabs.insert(number, Slab::from_fd(number, fds.pop()?).ok()?);
    }
    slabs
        .get_mut(&id)?
        .follow(usize::try_from(bytes).ok()?)
        .then_some(())
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
    let mut result = Buffer::new(Vec::new(), &NoSlabs);
    let argument = Cursor::new(&call.argument);
    let mut invocation = Invocation {
        argument,
        context: None,
        result: &mut result,
    };
    let outcome = panic::run(|| callable.invoke(&mut invocation))?.map_err(Fault::from);
    // What it printed without a newline appears before the first task's output, and once.
    entry::flush_output();
    outcome
}

/// The slabs that carry this worker's large results.
#[derive(Default)]
struct ResultSlabs {
    slabs: RefCell<Vec<Slab>>,
    /// Slabs made so far; the number of the newest.
    made: Cell<u32>,
    /// The newest whose descriptor the pool has.
    announced: Cell<u32>,
}

impl ResultSlabs {
    /// Keeps a slab, whether a result lies in it or not.
    fn give_back(&self, slab: Slab) {
        self.slabs.borrow_mut().push(slab);
    }

    /// Whether the pool has yet to be given this slab; it is taken to have it from then on.
    fn announce(&self, id: u32) -> bool {
        let new = id > self.announced.get();
        self.announced.set(id.max(self.announced.get()));
        new
    }

    /// Drops free slabs beyond those worth keeping, the oldest first, and says which.
    fn trim(&self) -> Vec<u32> {
        let mut slabs = self.slabs.borrow_mut();
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
        let mut slabs = self.slabs.borrow_mut();
        let free = slabs.iter().position(|it| !it.is_busy());
        if let Some(at) = free {
            let mut slab = slabs.swap_remove(at);
            slab.reserve(bytes).ok()?;
            return Some(slab);
        }
        self.made.set(self.made.get() + 1);
        Slab::new(self.made.get(), bytes).ok()
    }
}
