//! `fork_map`: maps a function over a slice in copies of this process that are forked for one call.
//!
//! The copies inherit the function, the data it borrows, and the items; only results are encoded.
//! Each copy takes the next index from a shared counter and appends its results to shared memory.
//! So a copy that dies loses only the item it was running.

use super::{
    child_exit,
    panic::{self, OnPanic},
    start::{Child, fork},
    task_error::TaskError,
};
use crate::error::{Error, ErrorKind, Result, WorkerExit};
use crate::shm::{Cursor, Segment, Slab};
use crate::sys::{
    child::{self, Threads},
    crash::{self, OverflowNote},
    poll,
};
use crate::wire::{Wire, codec};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Calls `f` on every item in `workers` forked copies of this process and returns the results in
/// order.
///
/// Blocks until every copy has exited. `f` may borrow anything, because it is inherited and not
/// sent. Its side effects stay in the copy.
///
/// # Errors
///
/// Returns the error of the failing item with the lowest index: [`ErrorKind::Panicked`],
/// [`ErrorKind::WorkerDied`], or [`ErrorKind::Codec`] if a result cannot be encoded or decoded.
/// After a panic no further item is started.
///
/// [`ErrorKind::Unsupported`] if this process has more than one thread, or holds or has leaked a
/// guard of a [`Value`](crate::Value) or an [`Array`](crate::Array), because the copies would share
/// its references. [`ErrorKind::InvalidInput`] if `workers` is 0. [`ErrorKind::StartFailed`] if the
/// system cannot create a process.
///
/// # Examples
///
/// ```no_run
/// let table: Vec<u64> = (0..1000).map(|x| x * x).collect();
/// let doubled = procpool::fork_map(2, &[3, 30, 300], |index| 2 * table[*index])?;
/// assert_eq!(doubled, [18, 1800, 180_000]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub fn fork_map<T, R: Wire>(workers: usize, items: &[T], f: impl Fn(&T) -> R) -> Result<Vec<R>> {
    run(workers, items, &f, Threads::One)
}

/// Like [`fork_map`], but also allowed in a process with other threads, or with guards that give
/// references to shared memory.
///
/// # Errors
///
/// Like [`fork_map`], except [`ErrorKind::Unsupported`] for threads and guards.
///
/// # Safety
///
/// Like `fork(2)` in a threaded process: a lock that another thread holds during the fork stays
/// locked in the copies forever. `f` must not allocate, print, or use anything else that takes a
/// lock, unless no other thread can hold that lock.
///
/// `f` must not use a reference that a guard of a [`Value`](crate::Value) or an
/// [`Array`](crate::Array) gave out before the call, in any thread or leaked: all copies and this
/// process share that memory. Using the guard itself in a copy panics.
#[expect(unsafe_code, reason = "the contract demands it; its body is safe")]
pub unsafe fn fork_map_unchecked<T, R: Wire>(
    workers: usize,
    items: &[T],
    f: impl Fn(&T) -> R,
) -> Result<Vec<R>> {
    run(workers, items, &f, Threads::Any)
}

/// A copy of this process and the memory for its results.
struct ForkedCopy {
    /// Counts from 0.
    number: usize,
    child: Child,
    results: Slab,
}

fn run<T, R: Wire>(
    workers: usize,
    items: &[T],
    f: &impl Fn(&T) -> R,
    threads: Threads,
) -> Result<Vec<R>> {
    if workers == 0 {
        let message = "a map cannot be run by 0 workers";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let workers = workers.min(items.len());
    let shared = ForkMapShared::new(items.len(), workers)?;
    let (copies, fork_error) = fork_children(workers, items, f, threads, &shared);
    let mut results: Vec<Option<Result<R>>> = (0..items.len()).map(|_| None).collect();
    let mut exits = Vec::new();
    for copy in copies {
        exits.push(wait_for_exit(&copy, &shared)?);
        read_results(&copy.results, &mut results);
    }
    if let Some(error) = fork_error {
        return Err(error);
    }
    // An item without a result was lost by a copy that failed, or by one whose item called
    // `exit(0)`. So failed copies sort first.
    exits.sort_by_key(|exit| exit.exit_code == Some(0));
    let lost = || Err(Error::process_died(exits[0].clone()));
    let results = results.into_iter();
    results.map(|result| result.unwrap_or_else(lost)).collect()
}

/// Forks the copies. If a fork fails, returns its error and the copies that were forked before.
fn fork_children<T, R: Wire>(
    workers: usize,
    items: &[T],
    f: &impl Fn(&T) -> R,
    threads: Threads,
    shared: &ForkMapShared,
) -> (Vec<ForkedCopy>, Option<Error>) {
    let mut copies = Vec::new();
    for number in 0..workers {
        match fork_child(items, f, threads, (shared, number)) {
            Ok(copy) => copies.push(copy),
            Err(error) => {
                shared.stop();
                return (copies, Some(error));
            }
        }
    }
    (copies, None)
}

fn fork_child<T, R: Wire>(
    items: &[T],
    f: &impl Fn(&T) -> R,
    threads: Threads,
    (shared, number): (&ForkMapShared, usize),
) -> Result<ForkedCopy> {
    let mut results = Slab::new(0, 0)?;
    let parent = std::process::id();
    let child = fork::fork_self(threads, || {
        if child::ends_with(parent) {
            crash::note_overflow(OverflowNote::Word(shared.overflow_word(number)));
            run_child(items, f, shared, &mut results);
            child_exit::flush_output();
        }
    })?;
    Ok(ForkedCopy {
        number,
        child,
        results,
    })
}

/// Runs items in a copy until none is left or one fails.
fn run_child<T, R: Wire>(
    items: &[T],
    f: &impl Fn(&T) -> R,
    shared: &ForkMapShared,
    results: &mut Slab,
) {
    panic::install_hook(OnPanic::SILENT);
    let mut written = 0;
    while let Some(index) = shared.take_index() {
        let caught = panic::catch(|| encode_result(&f(&items[index])));
        let result = match caught {
            Ok(result) => result,
            Err(panic) => Err(*panic),
        };
        if result.is_err() {
            shared.stop();
        }
        let Some(end) = write_result(results, written, index, &result) else {
            return shared.stop();
        };
        written = end;
    }
}

fn encode_result<R: Wire>(value: &R) -> Result<Vec<u8>, TaskError> {
    let mut bytes = Vec::new();
    codec::encode(value, &mut bytes).map_err(TaskError::Encode)?;
    Ok(bytes)
}

/// Bytes before a result: the index of the item, whether a value follows, and the length.
const RECORD_HEADER_LEN: usize = 24;

/// Appends a result at `at` and returns the new end. Returns `None` if memory is exhausted.
fn write_result(
    slab: &mut Slab,
    at: usize,
    index: usize,
    result: &Result<Vec<u8>, TaskError>,
) -> Option<usize> {
    let mut text = Vec::new();
    let (kind, bytes) = match result {
        Ok(bytes) => (1u64, bytes),
        Err(error) => {
            codec::encode(error, &mut text).ok()?;
            (0, &text)
        }
    };
    let end = at
        .checked_add(RECORD_HEADER_LEN)?
        .checked_add(bytes.len())?;
    slab.reserve(end).ok()?;
    for (place, word) in (0..).zip([index as u64, kind, bytes.len() as u64]) {
        slab.write_at(at + 8 * place, &word.to_le_bytes());
    }
    slab.write_at(at + RECORD_HEADER_LEN, bytes);
    slab.publish(end as u64, 0);
    Some(end)
}

/// Reads the results that a copy wrote.
fn read_results<R: Wire>(slab: &Slab, results: &mut [Option<Result<R>>]) {
    let Ok(slab) = slab.mapped_again() else {
        return;
    };
    let end = (slab.published().0 as usize).min(slab.capacity());
    let mut at = 0;
    while at + RECORD_HEADER_LEN <= end {
        let mut head = Vec::new();
        slab.copy_out(at, RECORD_HEADER_LEN, &mut head);
        let word =
            |place: usize| u64::from_le_bytes(*head[8 * place..].first_chunk().expect("a head"));
        let (index, kind, len) = (word(0) as usize, word(1), word(2) as usize);
        at += RECORD_HEADER_LEN;
        if len > end - at {
            return;
        }
        let mut bytes = Vec::new();
        slab.copy_out(at, len, &mut bytes);
        if let Some(result) = results.get_mut(index) {
            *result = Some(decode_result(kind == 1, &bytes));
        }
        at += len;
    }
}

fn decode_result<R: Wire>(is_value: bool, bytes: &[u8]) -> Result<R> {
    let failed = |reason| {
        let message = format!("failed to decode the result of an item: {reason}");
        Error::new(ErrorKind::Codec, message)
    };
    if is_value {
        return codec::decode(&mut Cursor::new(bytes)).map_err(failed);
    }
    let error: TaskError = codec::decode(&mut Cursor::new(bytes)).map_err(failed)?;
    Err(error.into_error())
}

/// Waits until a copy has exited, and reaps it.
fn wait_for_exit(copy: &ForkedCopy, shared: &ForkMapShared) -> Result<WorkerExit> {
    let child = &copy.child;
    poll::is_readable(&child.pidfd, None)
        .map_err(|error| Error::io("failed to wait for a copy", error))?;
    let status = child.pidfd.take_status();
    Ok(WorkerExit::new(
        child.pid,
        status,
        shared.has_overflowed(copy.number),
    ))
}

/// The memory that all copies share: the index of the next item, then a word for each copy that
/// says whether its stack overflowed.
struct ForkMapShared {
    segment: Segment,
    count: u64,
}

impl ForkMapShared {
    fn new(count: usize, copies: usize) -> Result<Self> {
        Ok(Self {
            segment: Segment::anonymous(Self::overflow_offset(copies))?,
            count: count as u64,
        })
    }

    fn next_counter(&self) -> &AtomicU64 {
        self.segment.view().atomic_u64(0)
    }

    /// Returns the offset in bytes of a copy's overflow word.
    fn overflow_offset(number: usize) -> usize {
        size_of::<u64>() + number * size_of::<u32>()
    }

    fn take_index(&self) -> Option<usize> {
        // Relaxed: the index publishes no other memory; the items were there before the fork.
        let index = self.next_counter().fetch_add(1, Ordering::Relaxed);
        (index < self.count).then_some(index as usize)
    }

    /// Stops all copies from starting another item.
    fn stop(&self) {
        self.next_counter().store(self.count, Ordering::Relaxed);
    }

    /// Returns the word that becomes nonzero when the stack of this copy overflows. It is never
    /// unmapped, because a signal handler may write to it at any time.
    fn overflow_word(&self, number: usize) -> &'static AtomicU32 {
        let segment: &'static Segment = Box::leak(Box::new(self.segment.clone()));
        segment.view().atomic_u32(Self::overflow_offset(number))
    }

    fn has_overflowed(&self, number: usize) -> bool {
        let word = self
            .segment
            .view()
            .atomic_u32(Self::overflow_offset(number));
        word.load(Ordering::Acquire) != 0
    }
}
