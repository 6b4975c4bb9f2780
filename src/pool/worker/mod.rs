//! The worker process: reads requests, runs items and writes replies into the shared region, until
//! the pool closes the request pipe.
//!
//! One thread runs one loop. It waits for the pool in two places only: in `read` for the next
//! request, and for room in the reply ring. The pool can kill the process at any instruction;
//! `protocol/region.rs` describes the state after that.

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
    limits, resident, signal,
    spin::Spin,
};
use crate::wire::{codec, handle::Attached};
use frame::{Frame, FrameItems, FunctionCache, LoadedContext};
use std::{
    cell::RefCell, collections::HashMap, io, os::fd::OwnedFd, rc::Rc, sync::Arc, time::Duration,
};

/// How long a worker waits for a request before it releases unused memory.
const IDLE_TIMEOUT: Duration = Duration::from_millis(100);

/// The interval between two checks of a worker's memory, each of which takes some microseconds.
const MEMORY_INTERVAL: Duration = Duration::from_millis(10);

/// Ends the worker: the pool asked for it, closed the pipe, or broke the protocol.
#[derive(Debug)]
pub(crate) struct Disconnected;

thread_local! {
    /// The reply writer of this process, for the panic hook.
    static REPLIES: RefCell<Option<Rc<ReplyWriter>>> = const { RefCell::new(None) };
}

/// Runs a worker process. `given` holds the wake-up pipe, the request pipe, the socket for
/// descriptors and the shared region.
pub(super) fn main(given: ChildArgs) -> i32 {
    // Without them the worker cannot report an error. The pool sees that the worker has exited.
    let Ok([wake_pipe, requests, socket, region]) = <[OwnedFd; 4]>::try_from(given.fds) else {
        return 0;
    };
    let Ok(region) = SharedRegion::from_fd(region) else {
        return 0;
    };
    crash::note_overflow(OverflowNote::Word(region.overflow_word()));
    let end_word = region.end_word();
    if signal::leave_the_end_to_the_owner(Some(end_word)).is_err()
        || fd::set_nonblocking(&wake_pipe).is_err()
    {
        return 0;
    }
    let replies = Rc::new(ReplyWriter::new(wake_pipe, region));
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
        replies.region.pause_clock(item);
    }
}

fn report_before_abort(error: TaskError) {
    let Some(replies) = REPLIES.with_borrow(Clone::clone) else {
        return;
    };
    match replies.panic_context.get() {
        PanicContext::Setup => replies.fault(0, ReplyKind::SetupFault, &error),
        PanicContext::Item(item) => replies.fault(item, ReplyKind::Fault, &error),
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
    /// Whether unused memory was released since the last item.
    is_trimmed: bool,
    /// The limit of resident memory in bytes, until the pool has been told that it was exceeded.
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

    /// Serves requests until the pool closes the pipe or breaks the protocol, which is treated the
    /// same.
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
        let region = &self.runner.replies.region;
        // Allowed items are about to be written: `read` then hardly sleeps.
        if self.spin.spin_until(|| region.may_start())
            || self.is_trimmed
            || self.frames.wait(IDLE_TIMEOUT)
        {
            return;
        }
        self.is_trimmed = true;
        self.runner.replies.wake_if_unread();
        self.frames.shrink();
        self.runner.shrink();
        resident::release_unused();
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
                // A context is gone even if its destructor panics.
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
        let region = self.runner.replies.region.clone();
        current::set(CurrentWorker::new(setup.worker, region));
        self.max_memory = setup.max_memory;
        let prepared = apply_settings(&setup);
        setup.identity.apply();
        let handles = self.fds.take_fds();
        let initialized = prepared.and_then(|()| {
            let initializer = setup.initializer;
            initializer.map_or(Ok(()), |call| initialize(call, handles))
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
        // A revoked item has left its descriptors unused.
        self.runner.set_argument_fds(Vec::new());
        let end = watch.last();
        let looked = Duration::from_nanos(end.saturating_sub(self.memory_checked));
        if self.max_memory.is_some() && looked >= MEMORY_INTERVAL {
            self.memory_checked = end;
            self.check_memory();
        }
        Ok(())
    }

    /// Runs the items of a frame that were not revoked.
    #[inline]
    fn run_each(
        &mut self,
        header: RequestHeader,
        watch: &mut Stopwatch,
    ) -> Result<(), Disconnected> {
        let waited = bucket_of(watch.last().saturating_sub(header.submitted));
        let mut items = FrameItems::new(self.frames.payload(), header.count);
        // Borrowed once, by the first item that starts.
        let mut parts = Some((&mut self.fds, &mut self.contexts));
        let mut frame = None;
        for index in 0..header.count {
            let bytes = items.next().ok_or(Disconnected)?;
            let item = header.item.wrapping_add(index);
            if !self.runner.start(item) {
                break;
            }
            // After the start of an item, so that the death of this process while it decodes a
            // context fails this item and no other.
            if let Some((fds, contexts)) = parts.take() {
                let functions = &mut self.functions;
                frame = Some(Frame::prepare(header, fds, contexts, functions));
            }
            match frame.as_ref().ok_or(Disconnected)? {
                Ok(frame) => self.runner.run(item, frame, bytes)?,
                Err(fault) => self.runner.replies.fault(item, ReplyKind::Fault, fault),
            }
            if watch.count() {
                self.runner.replies.lap(watch, waited);
                if index + 1 < header.count {
                    let next = item.wrapping_add(1);
                    self.runner.replies.region.record_start(next, watch.last());
                }
            }
        }
        if watch.has_items() {
            self.runner.replies.lap(watch, waited);
        }
        Ok(())
    }

    /// Tells the pool once if this process exceeds its memory limit.
    fn check_memory(&mut self) {
        let exceeds = |max| resident::resident().is_ok_and(|resident| resident > max);
        if self.max_memory.is_some_and(exceeds) {
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

/// Applies the settings of the pool's builder: directory, standard streams, CPU and limits.
fn apply_settings(setup: &WorkerSetup) -> Result<(), TaskError> {
    let failed = |what: &str, error: io::Error| {
        TaskError::Initializer(format!("failed to set {what}: {error}"))
    };
    if let Some(directory) = &setup.directory {
        std::env::set_current_dir(directory).map_err(|error| {
            let what = format!("the working directory {}", directory.display());
            failed(&what, error)
        })?;
    }
    let stdin = setup.stdin.apply();
    stdin.map_err(|error| failed("standard input", error))?;
    for (output, stream, what) in [
        (setup.stdout, Stdio::Output, "standard output"),
        (setup.stderr, Stdio::Error, "standard error"),
    ] {
        output.apply(stream).map_err(|error| failed(what, error))?;
    }
    if setup.is_pinned {
        limits::pin_to_cpu(setup.worker).map_err(|error| failed("the CPU affinity", error))?;
    }
    let limits = setup.limits.as_ref();
    let applied = limits.map_or(Ok(()), ResourceLimits::apply);
    applied.map_err(|(what, error)| failed(&format!("the limit of {what}"), error))
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
    let outcome = panic::catch(|| callable.invoke(&mut invocation))
        .map_err(|panic| *panic)
        .and_then(|result| result.map_err(TaskError::from));
    // Output without a newline appears before the output of the first task, and only once.
    child_exit::flush_output();
    outcome
}
