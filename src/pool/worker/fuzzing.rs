//! The fuzz target of a worker's frames: bytes of its pipe and its socket, in any pieces.
//!
//! The functions are not part of the input, because a worker trusts the function that its pool
//! names.

use crate::pool::{
    protocol::{RequestHeader, RequestKind, WorkerSetup, region::SharedRegion},
    worker::{LoadedContext, WorkerLoop, reply_writer::ReplyWriter},
    worker_handle::checked_region::CheckedRegion,
};
use crate::process::function::{ContextLoader, WireFunction};
use crate::sys::{fd, memory, pipe, socket};
use crate::wire::{
    codec,
    fuzzing::{Script, Target, Tree, descriptors, ignore, part},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::LazyLock,
};

/// The largest frame in bytes.
const MAX_FRAME: u32 = 1 << 20;

/// The largest number of items that may start at a time, so that their replies fit into the ring.
const MAX_ITEMS: u32 = 256;

static FUNCTIONS: LazyLock<[WireFunction; 3]> = LazyLock::new(|| {
    let functions = [
        WireFunction::unary(|it: Vec<u8>| it.len()),
        WireFunction::unary(|it: Tree| matches!(it, Tree::Leaf)),
        WireFunction::contextual(|context: &Vec<u16>, it: u8| {
            context.get(usize::from(it)).copied()
        }),
    ];
    functions.map(|it| it.expect("a function of this program"))
});

/// A worker, and its pool's ends of the pipes.
struct Fuzzed {
    worker: WorkerLoop,
    pool: CheckedRegion,
    requests: OwnedFd,
    socket: OwnedFd,
    /// Kept open, because a write to a pipe without a reader would end the program.
    wake_pipe: OwnedFd,
    next: u32,
}

impl Fuzzed {
    fn new() -> Self {
        let pool = CheckedRegion::new().expect("shared memory");
        let region = pool
            .as_fd()
            .try_clone_to_owned()
            .expect("room for descriptors");
        let region = SharedRegion::from_fd(region).expect("room for a mapping");
        let (wake_pipe, worker_wake_pipe) = pipe::pipe().expect("room for descriptors");
        let (theirs, requests) = pipe::pipe().expect("room for descriptors");
        let (socket, their_socket) = socket::pair().expect("room for descriptors");
        fd::set_nonblocking(&requests).expect("a pipe");
        let replies = Rc::new(ReplyWriter::new(worker_wake_pipe, region));
        Self {
            worker: WorkerLoop::new(replies, theirs, their_socket),
            pool,
            requests,
            socket,
            wake_pipe,
            next: 0,
        }
    }

    /// Sends a message on the socket: a slab, descriptors, or neither.
    fn send_message(&self, script: &mut Script<'_>) {
        let fds = match script.byte() % 4 {
            0 => {
                let length = script.word() % u64::from(MAX_FRAME);
                vec![memory::anonymous_file(length as usize).expect("shared memory")]
            }
            count => descriptors(usize::from(count) - 1),
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let _ = socket::try_send(&self.socket, script.part(), &fds);
    }

    fn allow(&mut self, count: u8) {
        let count = u32::from(count).min(MAX_ITEMS);
        self.pool.allow(self.next, count);
        self.next += count;
    }

    /// Serves the sent frames until the end of the pipe.
    fn serve(self) {
        let Self {
            mut worker,
            pool,
            requests,
            socket,
            wake_pipe: _wake_pipe,
            next: _,
        } = self;
        drop((requests, socket));
        let mut records = Vec::new();
        loop {
            let Some(mut head) = worker.frames.buffered() else {
                match worker.frames.read() {
                    Ok(true) => continue,
                    _ => return,
                }
            };
            if let Some(function) = &mut head.function {
                *function = named(*function, worker.contexts.contains_key(&head.context));
            }
            if head.kind == RequestKind::Setup {
                let payload = worker.frames.payload().to_vec();
                ignore(codec::decode::<WorkerSetup>(&mut crate::shm::Cursor::new(
                    &payload,
                )));
                continue;
            }
            if worker.serve(head).is_err() {
                return;
            }
            if head.kind == RequestKind::Context
                && let Some(LoadedContext::Encoded(loader, ..)) =
                    worker.contexts.get_mut(&head.context)
            {
                *loader = ContextLoader::new::<Vec<u16>>().expect("a function of this program");
            }
            records.clear();
            pool.drain(&mut records).expect("the worker writes records");
            assert!(!pool.is_broken());
        }
    }
}

/// Returns the function that the first byte selects; the last one is for items with a context.
fn named(function: WireFunction, has_context: bool) -> WireFunction {
    let among = FUNCTIONS.len() - usize::from(!has_context);
    FUNCTIONS[usize::from(function.to_bytes()[0]) % among]
}

/// Returns the frames before the first frame that is longer than `MAX_FRAME`, whose buffer would be
/// too large.
fn sensible(frames: &[u8]) -> &[u8] {
    let mut at = 0;
    while let Some(bytes) = frames.get(at..).and_then(|it| it.first_chunk()) {
        match RequestHeader::from_bytes(bytes) {
            Some(head) if head.length > MAX_FRAME => return &frames[..at],
            Some(head) => at += RequestHeader::SIZE + head.length as usize,
            None => break,
        }
    }
    frames
}

fn frame(head: RequestHeader, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u32;
    [&RequestHeader { length, ..head }.to_bytes()[..], bytes].concat()
}

fn items(item: u32, count: u32, function: u8) -> RequestHeader {
    let mut bytes = [0; WireFunction::SIZE];
    bytes[0] = function;
    let function = Some(WireFunction::from_bytes(&bytes));
    RequestHeader {
        item,
        count,
        function,
        ..RequestHeader::new(RequestKind::Items)
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let whole = |before: &[u8], frames: &[Vec<u8>]| [before, &[2], &frames.concat()].concat();
    let mut tree = Vec::new();
    codec::encode(&Tree::example(None), &mut tree).expect("an example");
    let several: Vec<u8> = (0..3u8).flat_map(|byte| [1, 0, 0, 0, byte]).collect();
    let one = frame(items(0, 1, 0), b"bytes");
    let rest = frame(items(1, 3, 0), &several);
    let slab = [
        &[0, 0][..],
        &4096u64.to_le_bytes(),
        &part(&1u32.to_le_bytes()),
    ]
    .concat();
    let in_slab = RequestHeader {
        slab: 1,
        slab_length: 100,
        ..items(0, 1, 0)
    };
    let dropped = RequestHeader {
        slab: 1,
        ..RequestHeader::new(RequestKind::DropSlab)
    };
    let context = RequestHeader {
        context: 5,
        ..RequestHeader::new(RequestKind::Context)
    };
    let mut bytes = vec![0; 16];
    codec::encode(&vec![1u16, 2], &mut bytes).expect("numbers");
    let with = RequestHeader {
        context: 5,
        ..items(0, 1, 2)
    };
    let without = RequestHeader {
        context: 5,
        ..RequestHeader::new(RequestKind::DropContext)
    };
    let handles = [&[0, 3][..], &part(&0u32.to_le_bytes())].concat();
    let map = RequestHeader {
        count: 2,
        ..RequestHeader::new(RequestKind::Fds)
    };
    let handled = RequestHeader {
        has_handles: true,
        ..items(0, 1, 1)
    };
    vec![
        whole(
            &[1, 4],
            &[
                one.clone(),
                rest.clone(),
                frame(RequestHeader::new(RequestKind::Shutdown), &[]),
            ],
        ),
        whole(&[1, 1], &[frame(items(0, 1, 1), &tree)]),
        whole(&[1, 2], &[one, rest]),
        whole(
            &[&slab[..], &[1, 1]].concat(),
            &[frame(in_slab, &[]), frame(dropped, &[])],
        ),
        whole(
            &[1, 1],
            &[
                frame(context, &bytes),
                frame(with, &[1]),
                frame(without, &[]),
            ],
        ),
        whole(
            &[&handles[..], &[1, 1]].concat(),
            &[frame(map, &[]), frame(handled, &tree)],
        ),
    ]
}

pub(crate) const FRAMES: Target = Target {
    name: "frames",
    run: |input| {
        let mut script = Script(input);
        let mut fuzzed = Fuzzed::new();
        while !script.is_over() {
            match script.byte() % 3 {
                0 => fuzzed.send_message(&mut script),
                1 => fuzzed.allow(script.byte()),
                _ => {
                    let frames = sensible(script.0);
                    let _ = pipe::write(&fuzzed.requests, frames);
                    return fuzzed.serve();
                }
            }
        }
    },
    seeds,
};
