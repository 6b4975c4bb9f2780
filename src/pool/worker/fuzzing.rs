//! The fuzz target of a worker's frames: what comes through its pipe and its socket, in any pieces.
//!
//! Functions alone are not the script's: a worker calls what its pool names.

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

/// Bytes of the longest frame.
const LONGEST: u32 = 1 << 20;

/// Items that may start at a time, so that their replies find room.
const MOST_ITEMS: u32 = 256;

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

/// A worker, and what its pool has of it.
struct Fuzzed {
    worker: WorkerLoop,
    pool: CheckedRegion,
    requests: OwnedFd,
    socket: OwnedFd,
    /// A write to a pipe that nobody reads would end the program.
    bell: OwnedFd,
    next: u32,
}

impl Fuzzed {
    fn new() -> Self {
        let pool = CheckedRegion::new().expect("shared memory");
        let page = pool
            .as_fd()
            .try_clone_to_owned()
            .expect("room for descriptors");
        let page = SharedRegion::from_fd(page).expect("room for a mapping");
        let (bell, their_bell) = pipe::pipe().expect("room for descriptors");
        let (theirs, requests) = pipe::pipe().expect("room for descriptors");
        let (socket, their_socket) = socket::pair().expect("room for descriptors");
        fd::set_nonblocking(&requests).expect("a pipe");
        let replies = Rc::new(ReplyWriter::new(their_bell, page));
        Self {
            worker: WorkerLoop::new(replies, theirs, their_socket),
            pool,
            requests,
            socket,
            bell,
            next: 0,
        }
    }

    /// Sends a message of the socket: a slab, or descriptors, or neither.
    fn send_message(&self, script: &mut Script<'_>) {
        let fds = match script.byte() % 4 {
            0 => {
                let length = script.word() % u64::from(LONGEST);
                vec![memory::anonymous_file(length as usize).expect("shared memory")]
            }
            count => descriptors(usize::from(count) - 1),
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let _ = socket::try_send(&self.socket, script.part(), &fds);
    }

    fn allow(&mut self, count: u8) {
        let count = u32::from(count).min(MOST_ITEMS);
        self.pool.allow(self.next, count);
        self.next += count;
    }

    /// Serves what was sent; the pipe has an end.
    fn serve(self) {
        let Self {
            mut worker,
            pool,
            requests,
            socket,
            bell: _bell,
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

/// The function that the first byte stands for; the last one is for items with a context.
fn named(function: WireFunction, has_context: bool) -> WireFunction {
    let among = FUNCTIONS.len() - usize::from(!has_context);
    FUNCTIONS[usize::from(function.to_bytes()[0]) % among]
}

/// Frames up to the first that is longer than any here: its bytes would be waited for in memory.
fn sensible(frames: &[u8]) -> &[u8] {
    let mut at = 0;
    while let Some(bytes) = frames.get(at..).and_then(|it| it.first_chunk()) {
        match RequestHeader::from_bytes(bytes) {
            Some(head) if head.length > LONGEST => return &frames[..at],
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
    let several: Vec<u8> = (0..3u8).flat_map(|it| [1, 0, 0, 0, it]).collect();
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
