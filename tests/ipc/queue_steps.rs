//! Queues whose user is killed after some number of instructions of one call: the others find all
//! of it done, or nothing.
//!
//! A child is single-stepped through the call. By default the numbers are random, for the budget of
//! `race`; `PROCPOOL_STEP_STRIDE=1` tries all of them, which takes minutes in a release build and
//! hours in another.
#![expect(unsafe_code, reason = "a bare fork, in a process with one thread")]

use common::{DEADLINE, in_time, pattern, race};
use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill, raise},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};
use procpool::{ErrorKind, JoinableQueue, Process, Queue};
use std::{env, time::SystemTime};

/// An item: its number and its size.
type Item = (usize, usize);

type Bytes = Queue<Vec<u8>>;

/// One call, and what waits in the queue before and after it.
struct Scene {
    prepare: fn(&Bytes),
    /// What it is to put, if it puts anything: made before, as that takes more instructions than
    /// all the rest.
    items: &'static [Item],
    call: fn(&Bytes, &[Vec<u8>]),
    before: &'static [Item],
    after: &'static [Item],
}

fn bytes((number, size): Item) -> Vec<u8> {
    pattern(size, number)
}

fn put(queue: &Bytes, items: &[Item]) {
    for item in items {
        let put = queue.put_timeout(&bytes(*item), DEADLINE);
        put.expect("room");
    }
}

fn take(queue: &Bytes) -> Vec<u8> {
    queue.get_timeout(DEADLINE).expect("an item")
}

impl Scene {
    fn play(&self) {
        let items: Vec<_> = self.items.iter().copied().map(bytes).collect();
        play(
            || {
                let queue = Queue::unbounded().expect("a queue");
                (self.prepare)(&queue);
                queue
            },
            |queue| (self.call)(queue, &items),
            |queue, is_over| self.check(queue, is_over),
        );
    }

    /// The queue holds what it held before, or after; and it works.
    fn check(&self, queue: &Bytes, is_over: bool) {
        let count = queue.len();
        let sentinel = (99, 70_000);
        let is_open = match queue.put_timeout(&bytes(sentinel), DEADLINE) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::Disconnected => false,
            Err(error) => panic!("{error}"),
        };
        let mut found: Vec<Vec<u8>> = (0..count).map(|_| take(queue)).collect();
        let holds = |items: &[Item]| {
            found
                .iter()
                .eq(items.iter().copied().map(bytes).collect::<Vec<_>>().iter())
        };
        assert!(holds(self.after) || !is_over && holds(self.before));
        if !is_open {
            let end = queue.try_get().map(drop).map_err(|it| it.kind());
            assert_eq!(end, Err(ErrorKind::Disconnected));
            return;
        }
        assert!(take(queue) == bytes(sentinel) && queue.is_empty());
        // Through all blocks that the call may have left half used.
        for size in [20_000, 300, 100_000, 20_000] {
            let items: Vec<Item> = (0..8).map(|number| (number, size)).collect();
            put(queue, &items);
            found = items.iter().map(|_| take(queue)).collect();
            assert!(found.into_iter().eq(items.into_iter().map(bytes)));
        }
    }
}

/// Kills a child after some number of instructions of `call`, and runs `check` on the outcome.
fn play<Q>(prepare: impl Fn() -> Q, call: impl Fn(&Q), check: impl Fn(&Q, bool)) {
    let die_after = |steps| {
        let queue = prepare();
        let end = die_after(steps, || call(&queue));
        check(&queue, end.is_some());
        end
    };
    let all = die_after(usize::MAX).expect("it ends");
    let stride = env::var("PROCPOOL_STEP_STRIDE").ok();
    if let Some(stride) = stride.and_then(|it| it.parse().ok()) {
        for steps in (0..all).step_by(stride) {
            die_after(steps);
        }
        return;
    }
    race(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
        die_after(now.subsec_nanos() as usize % all);
    });
}

/// After how many instructions the call came to its end, if it was not killed before.
fn die_after(steps: usize, call: impl Fn()) -> Option<usize> {
    // SAFETY: this process has one thread, so the child is as good as any.
    let child = match unsafe { fork() }.expect("a process") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            ptrace::traceme().expect("a process that is not traced yet");
            raise(Signal::SIGSTOP).expect("a signal");
            call();
            raise(Signal::SIGSTOP).expect("a signal");
            unreachable!("it is killed before");
        }
    };
    assert!(is_stopped_by(child, Signal::SIGSTOP));
    let with_this = ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(child, with_this).expect("a stopped child");
    let end = (0..steps).find(|_| {
        ptrace::step(child, None).expect("a stopped child");
        is_stopped_by(child, Signal::SIGSTOP)
    });
    kill(child, Signal::SIGKILL).expect("a child");
    while !matches!(waitpid(child, None), Ok(WaitStatus::Signaled(..))) {}
    end
}

fn is_stopped_by(child: Pid, signal: Signal) -> bool {
    match waitpid(child, None).expect("a child") {
        WaitStatus::Stopped(_, by) => by == signal,
        other => panic!("the child has ended: {other:?}"),
    }
}

/// Runs a function in a process with one thread.
fn alone(run: fn(())) {
    // A daemon: whatever becomes of this test, nothing of it goes on.
    let process = Process::builder(run, ()).daemon(true).start();
    let end = || process.expect("a process").result().expect("it ends well");
    match env::var_os("PROCPOOL_STEP_STRIDE") {
        Some(_) => end(),
        None => in_time(end),
    }
}

/// Nearly all of a block, with room for a small item after it.
const MOST: Item = (0, 65_000);
/// The second one does not fit after `MOST` any more.
const SMALL: [Item; 3] = [(1, 10), (2, 600), (3, 0)];

#[test]
fn a_put_is_done_or_not() {
    alone(|()| {
        let scene = Scene {
            prepare: |queue| put(queue, &SMALL[..2]),
            items: &SMALL[2..],
            call: |queue, items| queue.put(&items[0]).expect("room"),
            before: &SMALL[..2],
            after: &SMALL,
        };
        scene.play();
    });
}

#[test]
fn a_put_into_the_next_block_is_done_or_not() {
    alone(|()| {
        let scene = Scene {
            prepare: |queue| put(queue, &[MOST]),
            items: &SMALL[1..2],
            call: |queue, items| queue.put(&items[0]).expect("room"),
            before: &[MOST],
            after: &[MOST, SMALL[1]],
        };
        scene.play();
    });
}

#[test]
fn a_put_of_many_is_done_or_not() {
    alone(|()| {
        let scene = Scene {
            prepare: |queue| put(queue, &[MOST]),
            items: &SMALL,
            call: |queue, items| queue.put_many(items).expect("room"),
            before: &[MOST],
            after: &[MOST, SMALL[0], SMALL[1], SMALL[2]],
        };
        scene.play();
    });
}

#[test]
fn a_get_is_done_or_not() {
    alone(|()| {
        let scene = Scene {
            prepare: |queue| put(queue, &SMALL),
            items: &[],
            call: |queue, _| drop(queue.get()),
            before: &SMALL,
            after: &SMALL[1..],
        };
        scene.play();
    });
}

#[test]
fn a_get_from_the_next_block_is_done_or_not() {
    alone(|()| {
        let scene = Scene {
            prepare: |queue| {
                put(queue, &[MOST, SMALL[1], SMALL[2]]);
                take(queue);
            },
            items: &[],
            call: |queue, _| drop(queue.get()),
            before: &SMALL[1..],
            after: &SMALL[2..],
        };
        scene.play();
    });
}

/// Whose memory goes back before the head leaves it.
#[test]
fn a_get_that_leaves_a_block_for_good_is_done_or_not() {
    alone(|()| {
        let scene = Scene {
            // Both of the smallest blocks are full, so that the last two are in a larger one.
            prepare: |queue| {
                put(queue, &[MOST, MOST, SMALL[1], SMALL[2]]);
                (0..2).for_each(|_| drop(take(queue)));
            },
            items: &[],
            call: |queue, _| drop(queue.get()),
            before: &SMALL[1..],
            after: &SMALL[2..],
        };
        scene.play();
    });
}

#[test]
fn a_close_is_done_or_not() {
    alone(|()| {
        let scene = Scene {
            prepare: |queue| put(queue, &SMALL),
            items: &[],
            call: |queue, _| queue.close(),
            before: &SMALL,
            after: &SMALL,
        };
        scene.play();
    });
}

/// In one step for each block: all items up to some point were taken, and the rest is there.
#[test]
fn a_get_of_many_takes_the_first_ones() {
    alone(|()| {
        play(
            || {
                let queue = Queue::unbounded().expect("a queue");
                put(&queue, &[MOST, SMALL[0], SMALL[1], SMALL[2]]);
                take(&queue);
                queue
            },
            |queue: &Bytes| drop(queue.get_many(3)),
            |queue, is_over| {
                let count = queue.len();
                assert!(count == 0 || !is_over);
                for item in &SMALL[3 - count..] {
                    assert!(take(queue) == bytes(*item));
                }
                put(queue, &SMALL);
                let items = queue.get_many(3).expect("items");
                assert!(items.into_iter().eq(SMALL.map(bytes)));
            },
        );
    });
}

#[test]
fn an_item_is_done_with_or_not() {
    alone(|()| {
        play(
            || {
                let queue = JoinableQueue::unbounded().expect("a queue");
                queue.put(&1).expect("room");
                queue
            },
            |queue| queue.task_done().expect("it was put"),
            |queue, is_over| match queue.task_done() {
                Ok(()) => assert!(!is_over && queue.join().is_ok()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidInput),
            },
        );
    });
}
