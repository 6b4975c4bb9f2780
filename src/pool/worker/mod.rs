//! The worker: reads requests, runs items, replies into the shared page, until its pool closes the
//! pipe.
//!
//! One thread, one loop. Nothing here waits for the pool but two things: `read` for the next
//! request, and room in the ring of replies. The pool can kill the process at any instruction; what
//! it then finds is described in `page.rs`.

pub(crate) mod current;
pub(crate) mod fd_receiver;
mod frame;
pub(crate) mod frame_reader;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
pub(crate) mod reply_writer;
pub(crate) mod result_slabs;
pub(crate) mod runner;
pub(crate) mod stopwatch;

use crate::error::Error;
use crate::pool::{
    histogram::bucket_of,
    limits::ResourceLimits,
    protocol::{
        RequestHeader, RequestKind, WorkerSetup,
        fds::FdRange,
        region::{ReplyKind, SharedRegion},
    },
    worker::{
        current::CurrentWorker,
        fd_receiver::FdReceiver,
        frame_reader::FrameReader,
        reply_writer::{PanicContext, ReplyWriter},
        runner::TaskRunner,
        stopwatch::Stopwatch,
    },
};
use crate::process::{
    child_exit,
    encoded_call::EncodedCall,
    function::{CallHandles, ChildArgs, ContextLoader, Invocation, WireFunction},
    panic::{self, OnPanic},
    task_error::TaskError,
};
use crate::shm::{Buffer, Cursor, Slab, SlabSource};
use crate::sys::{
    child, clock,
    crash::{self, OverflowNote},
    environment,
    fd::{self, Stdio},
    limits, memory, signal,
    spin::Spin,
};
use crate::wire::{codec, handle::Attached};
use frame::{Frame, FrameItems, FunctionCache, LoadedContext};
use std::{
    cell::RefCell, collections::HashMap, io, os::fd::OwnedFd, rc::Rc, sync::Arc, time::Duration,
};

/// How long a worker waits before it gives back memory it can do without.
const IDLE_TIMEOUT: Duration = Duration::from_millis(100);

/// Between two looks at a worker's memory, each of which takes some microseconds.
const MEMORY_INTERVAL: Duration = Duration::from_millis(10);

/// Ends the worker: the pool asked for it, closed the pipe, or broke the protocol.
#[derive(Debug)]
pub(crate) struct Disconnected;

thread_local! {
    /// The replies of this process, where a panic hook can reach them.
    static REPLIES: RefCell<Option<Rc<ReplyWriter>>> = const { RefCell::new(None) };
}

/// What a worker process runs: it gets the bell, the requests, the socket for descriptors, and the
/// shared page.
pub(super) fn main(given: ChildArgs) -> i32 {
    // Without them nothing can be said; the pool sees a worker that has ended.
    let Ok([bell, requests, socket, page]) = <[OwnedFd; 4]>::try_from(given.fds) else {
        return 0;
    };
    let Ok(page) = SharedRegion::from_fd(page) else {
        return 0;
    };
    crash::note_overflow(OverflowNote::Word(page.overflow_word()));
    let told_to_end = page.end_word();
    if signal::leave_the_end_to_the_owner(Some(told_to_end)).is_err()
        || fd::set_nonblocking(&bell).is_err()
    {
        return 0;
    }
    let replies = Rc::new(ReplyWriter::new(bell, page));
    REPLIES.set(Some(Rc::clone(&replies)));
    panic::install_hook(OnPanic {
        stop_clock: pause_clock,
        report_abort: report_before_abort,
        ..OnPanic::SILENT
    });
    WorkerLoop::new(replies, requests, socket).run();
    0
}

fn pause_clock() {
    if let Some(replies) = REPLIES.with_borrow(Clone::clone)
        && let PanicContext::Item(item) = replies.panic_context.get()
    {
        replies.page.pause_clock(item);
    }
}

fn report_before_abort(fault: TaskError) {
    let Some(replies) = REPLIES.with_borrow(Clone::clone) else {
        return;
    };
    match replies.panic_context.get() {
        PanicContext::Setup => replies.fault(0, ReplyKind::SetupFault, &fault),
        PanicContext::Item(item) => replies.fault(item, ReplyKind::Fault, &fault),
        PanicContext::Other => {}
    }
}

struct WorkerLoop {
    runner: TaskRunner,
    frames: FrameReader,
    fds: FdReceiver,
    contexts: HashMap<u32, LoadedContext>,
    functions: FunctionCache,
    spin: Spin,
    /// Whether memory was given back since the last item.
    is_trimmed: bool,
    /// Bytes of resident memory to be reported, if there are more, and when they were last looked
    /// at, on the shared clock.
    max_memory: Option<u64>,
    memory_checked: u64,
}

impl WorkerLoop {
    fn new(replies: Rc<ReplyWriter>, requests: OwnedFd, socket: OwnedFd) -> Self {
        let socket = Rc::new(socket);
        Self {
            runner: TaskRunner::new(replies, Rc::clone(&socket)),
            frames: FrameReader::new(requests),
            fds: FdReceiver::new(socket),
            contexts: HashMap::new(),
            functions: FunctionCache::default(),
            spin: Spin::default(),
            is_trimmed: false,
            max_memory: None,
            memory_checked: clock::now(),
        }
    }

    /// Serves until the pool closes the pipe, or breaks the protocol, which is as good as closing.
    fn run(&mut self) {
        loop {
            let header = match self.frames.buffered() {
                Some(header) => header,
                None => {
                    self.wait();
                    match self.frames.read() {
                        Ok(true) => continue,
                        _ => return,
                    }
                }
            };
            if self.serve(header).is_err() {
                return;
            }
        }
    }

    fn wait(&mut self) {
        self.runner.replies.wake_before_waiting();
        let page = &self.runner.replies.page;
        // Allowed items are written in a moment: `read` hardly sleeps then.
        if self.spin.spin_until(|| page.may_start())
            || self.is_trimmed
            || self.frames.wait(IDLE_TIMEOUT)
        {
            return;
        }
        self.is_trimmed = true;
        self.runner.replies.wake_if_unread();
        self.frames.shrink();
        self.runner.shrink();
        memory::release_unused();
    }

    fn serve(&mut self, header: RequestHeader) -> Result<(), Disconnected> {
        let setup = header.kind == RequestKind::Setup;
        self.runner.replies.panic_context.set(if setup {
            PanicContext::Setup
        } else {
            PanicContext::Other
        });
        match header.kind {
            RequestKind::Setup => self.set_up(),
            RequestKind::Items => self.run_items(header),
            RequestKind::Shutdown => Err(Disconnected),
            RequestKind::Context => self.keep_context(header),
            RequestKind::DropContext => {
                let context = self.contexts.remove(&header.context);
                // A context whose destructor panics is gone all the same.
                let _ = panic::catch(|| drop(context));
                Ok(())
            }
            RequestKind::DropSlab => {
                self.fds.drop_slab(header.slab);
                Ok(())
            }
            RequestKind::Fds => self.fds.receive_fds(FdRange {
                start: header.item,
                count: header.count,
            }),
        }
    }

    fn set_up(&mut self) -> Result<(), Disconnected> {
        let setup = decode_setup(self.frames.payload())?;
        environment::replace(&setup.environment).map_err(|_| Disconnected)?;
        child::set_name(&format!("procpool-{}", setup.worker));
        let region = self.runner.replies.page.clone();
        current::set(CurrentWorker::new(setup.worker, region));
        self.max_memory = setup.max_memory;
        let prepared = apply_settings(&setup);
        setup.identity.apply();
        let handles = self.fds.take_fds();
        let initialized = prepared.and_then(|()| {
            let initializer = setup.initializer;
            initializer.map_or(Ok(()), |it| initialize(it, handles))
        });
        match initialized {
            Ok(()) => self.runner.replies.say_ready(),
            Err(fault) => self.runner.replies.fault(0, ReplyKind::SetupFault, &fault),
        }
        Ok(())
    }

    fn keep_context(&mut self, header: RequestHeader) -> Result<(), Disconnected> {
        let (loader, bytes) = self
            .frames
            .payload()
            .split_first_chunk()
            .ok_or(Disconnected)?;
        let loader = ContextLoader::from_bytes(loader);
        let handles = self.fds.take_fds();
        let context = LoadedContext::Encoded(loader, bytes.into(), handles);
        self.contexts.insert(header.context, context);
        Ok(())
    }

    fn run_items(&mut self, header: RequestHeader) -> Result<(), Disconnected> {
        self.is_trimmed = false;
        current::set_attempt(header.attempt.max(1).into());
        let mut watch = self.runner.replies.begin(header.item);
        if header.has_handles {
            self.runner.set_argument_fds(self.fds.take_fds());
        }
        self.run_each(header, &mut watch)?;
        // An item that was taken back has left its own.
        self.runner.set_argument_fds(Vec::new());
        let end = watch.last();
        let looked = Duration::from_nanos(end.saturating_sub(self.memory_checked));
        if self.max_memory.is_some() && looked >= MEMORY_INTERVAL {
            self.memory_checked = end;
            self.check_memory();
        }
        Ok(())
    }

    /// Runs the items of a frame, as far as they are not taken back.
    #[inline]
    fn run_each(
        &mut self,
        header: RequestHeader,
        watch: &mut Stopwatch,
    ) -> Result<(), Disconnected> {
        let waited = bucket_of(watch.last().saturating_sub(header.submitted));
        let mut items = FrameItems::new(self.frames.payload(), header.count);
        let mut parts = Some((&mut self.fds, &mut self.contexts));
        let mut frame = None;
        for index in 0..header.count {
            let bytes = items.next().ok_or(Disconnected)?;
            let item = header.item.wrapping_add(index);
            if !self.runner.start(item) {
                break;
            }
            // Behind the start of an item: if decoding a context ends this process, that is the
            // item's end and no other's.
            if let Some((inbox, contexts)) = parts.take() {
                let callables = &mut self.functions;
                frame = Some(Frame::prepare(header, inbox, contexts, callables));
            }
            match frame.as_ref().ok_or(Disconnected)? {
                Ok(frame) => self.runner.run(item, frame, bytes)?,
                Err(fault) => self.runner.replies.fault(item, ReplyKind::Fault, fault),
            }
            if watch.count() {
                self.runner.replies.lap(watch, waited);
                if index + 1 < header.count {
                    let next = item.wrapping_add(1);
                    self.runner.replies.page.record_start(next, watch.last());
                }
            }
        }
        if watch.has_items() {
            self.runner.replies.lap(watch, waited);
        }
        Ok(())
    }

    /// Tells the pool, once, when this process takes up more memory than it may.
    fn check_memory(&mut self) {
        if self
            .max_memory
            .is_some_and(|it| memory::resident().is_ok_and(|resident| resident > it))
        {
            self.max_memory = None;
            self.runner
                .replies
                .append(0, ReplyKind::MemoryExceeded, &[]);
        }
    }
}

fn decode_setup(payload: &[u8]) -> Result<WorkerSetup, Disconnected> {
    codec::decode(&mut Cursor::new(payload)).map_err(|_| Disconnected)
}

/// Takes the place that the pool's builder chose: a directory, a CPU, limits.
fn apply_settings(setup: &WorkerSetup) -> Result<(), TaskError> {
    let failed = |what: &str, error: io::Error| {
        TaskError::Initializer(format!("failed to set {what}: {error}"))
    };
    if let Some(directory) = &setup.directory {
        std::env::set_current_dir(directory).map_err(|it| {
            failed(
                &format!("the working directory {}", directory.display()),
                it,
            )
        })?;
    }
    let read = setup.stdin.apply();
    read.map_err(|it| failed("standard input", it))?;
    for (output, stream, what) in [
        (setup.stdout, Stdio::Output, "standard output"),
        (setup.stderr, Stdio::Error, "standard error"),
    ] {
        output.apply(stream).map_err(|it| failed(what, it))?;
    }
    if setup.is_pinned {
        limits::pin_to_cpu(setup.worker).map_err(|it| failed("the CPU affinity", it))?;
    }
    let limits = setup.limits.as_ref();
    let assumed = limits.map_or(Ok(()), ResourceLimits::apply);
    assumed.map_err(|(what, it)| failed(&format!("the limit of {what}"), it))
}

fn initialize(call: EncodedCall, given: Vec<Attached>) -> Result<(), TaskError> {
    /// An initializer has no result to encode.
    struct NoSlabs;
    impl SlabSource for NoSlabs {
        fn take(&self, _bytes: usize) -> Option<Slab> {
            None
        }

        fn give_back(&self, _slab: Slab) {}
    }
    let unknown = |error: Error| TaskError::UnknownFunction(error.to_string());
    let callable = WireFunction::from_bytes(&call.function)
        .resolve()
        .map_err(unknown)?;
    let mut result = Buffer::new(Arc::new(NoSlabs));
    let argument = Cursor::new(&call.argument);
    let mut handles = CallHandles {
        received_fds: given,
        ..CallHandles::default()
    };
    let mut invocation = Invocation {
        argument,
        context: None,
        result: &mut result,
        handles: &mut handles,
    };
    let outcome = panic::catch(|| callable.invoke(&mut invocation)).map_err(|it| *it);
    let outcome = outcome.and_then(|it| it.map_err(TaskError::from));
    // What it printed without a newline appears before the first task's output, and once.
    child_exit::flush_output();
    outcome
}
