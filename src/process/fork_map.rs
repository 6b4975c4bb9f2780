//! `fork_map`: a function over a slice, in copies of this process that are made for just this call.
//!
//! The copies find the function, whatever it borrows, and the items where this process has them;
//! nothing but results is encoded. They take the next item from a shared counter, and leave results
//! one behind the other in shared memory, so that a death costs the item that ran.

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

/// Calls `f` on every item, in `workers` copies of this process that are forked now, and gives the
/// results in order.
///
/// `f` may borrow anything, as it does not travel; what it changes stays in its copy. Only results
/// are encoded.
///
/// # Errors
///
/// That of the lowest failing item: [`ErrorKind::Panicked`], [`ErrorKind::WorkerDied`], or
/// [`ErrorKind::Codec`] for a result that cannot be encoded or decoded; after a panic no further
/// item is begun. [`ErrorKind::Unsupported`] if this process has more than one thread, or has a
/// guard of a [`Value`](crate::Value) or an [`Array`](crate::Array) that is held or leaked: its
/// references would be shared by the copies. [`ErrorKind::InvalidInput`] for 0 workers,
/// [`ErrorKind::StartFailed`] if the system gives no process.
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

/// As [`fork_map`], also in a process that has other threads, or guards that give references to
/// shared memory.
///
/// # Errors
///
/// As `fork_map`, except those that come of threads and guards.
///
/// # Safety
///
/// As `fork(2)` in a threaded process: what the other threads hold at that moment stays as it is in
/// the copies for ever. `f` must not allocate, print, or touch anything else behind a lock unless
/// no other thread can hold that lock.
///
/// `f` must not use a reference that a guard of a [`Value`](crate::Value) or an
/// [`Array`](crate::Array) gave out before the call, in any thread or leaked: all copies and this
/// process share that memory. A guard that is itself used in a copy panics.
#[expect(unsafe_code, reason = "the contract demands it; its body is safe")]
pub unsafe fn fork_map_unchecked<T, R: Wire>(
    workers: usize,
    items: &[T],
    f: impl Fn(&T) -> R,
) -> Result<Vec<R>> {
    run(workers, items, &f, Threads::Any)
}

/// A copy of this process, and where it leaves its results.
struct ForkedCopy {
    /// From 0.
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
    let common = ForkMapShared::new(items.len(), workers)?;
    let (copies, failure) = fork_children(workers, items, f, threads, &common);
    let mut outcomes: Vec<Option<Result<R>>> = (0..items.len()).map(|_| None).collect();
    let mut ends = Vec::new();
    for copy in copies {
        ends.push(wait_for_exit(&copy, &common)?);
        read_results(&copy.results, &mut outcomes);
    }
    if let Some(error) = failure {
        return Err(error);
    }
    // The copy that has lost an item is one that did not end well, or one in which an item has
    // called `exit(0)`.
    ends.sort_by_key(|it| it.exit_code == Some(0));
    let results = outcomes.into_iter();
    results
        .map(|it| it.unwrap_or_else(|| Err(Error::process_died(ends[0].clone()))))
        .collect()
}

/// Forks the copies; an error, and those that were made before it, if one cannot be made.
fn fork_children<T, R: Wire>(
    workers: usize,
    items: &[T],
    f: &impl Fn(&T) -> R,
    threads: Threads,
    common: &ForkMapShared,
) -> (Vec<ForkedCopy>, Option<Error>) {
    let mut copies = Vec::new();
    for number in 0..workers {
        match fork_child(items, f, threads, (common, number)) {
            Ok(copy) => copies.push(copy),
            Err(error) => {
                common.stop();
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
    (common, number): (&ForkMapShared, usize),
) -> Result<ForkedCopy> {
    let mut results = Slab::new(0, 0)?;
    let parent = std::process::id();
    let child = fork::fork_self(threads, || {
        if child::ends_with(parent) {
            crash::note_overflow(OverflowNote::Word(common.overflow_word(number)));
            run_child(items, f, common, &mut results);
            child_exit::flush_output();
        }
    })?;
    Ok(ForkedCopy {
        number,
        child,
        results,
    })
}

/// What a copy does.
fn run_child<T, R: Wire>(
    items: &[T],
    f: &impl Fn(&T) -> R,
    common: &ForkMapShared,
    results: &mut Slab,
) {
    panic::install_hook(OnPanic::SILENT);
    let mut written = 0;
    while let Some(index) = common.take_index() {
        let outcome = panic::catch(|| encode_result(&f(&items[index])));
        let outcome = outcome.map_err(|it| *it).and_then(|it| it);
        if outcome.is_err() {
            common.stop();
        }
        let Some(end) = write_result(results, written, index, &outcome) else {
            return common.stop();
        };
        written = end;
    }
}

fn encode_result<R: Wire>(value: &R) -> Result<Vec<u8>, TaskError> {
    let mut bytes = Vec::new();
    codec::encode(value, &mut bytes).map_err(TaskError::Encode)?;
    Ok(bytes)
}

/// Bytes before an outcome: the item's index, whether it is a value, and its length.
const RECORD_HEADER_LEN: usize = 24;

/// Writes an outcome behind those that are there, and gives the new end; none without memory.
fn write_result(
    slab: &mut Slab,
    at: usize,
    index: usize,
    outcome: &Result<Vec<u8>, TaskError>,
) -> Option<usize> {
    let mut text = Vec::new();
    let (kind, bytes) = match outcome {
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

/// Reads the outcomes that a copy has left.
fn read_results<R: Wire>(slab: &Slab, outcomes: &mut [Option<Result<R>>]) {
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
        if let Some(place) = outcomes.get_mut(index) {
            *place = Some(decode_result(kind == 1, &bytes));
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

/// Waits for the end of a copy.
fn wait_for_exit(copy: &ForkedCopy, common: &ForkMapShared) -> Result<WorkerExit> {
    let child = &copy.child;
    poll::is_readable(&child.pidfd, None)
        .map_err(|it| Error::io("failed to wait for a copy", it))?;
    let status = child.pidfd.take_status();
    Ok(WorkerExit::new(
        child.pid,
        status,
        common.has_overflowed(copy.number),
    ))
}

/// What all copies share: the number of the next item, and for each whether its stack has
/// overflowed.
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

    /// Bytes before the word of a copy.
    fn overflow_offset(number: usize) -> usize {
        size_of::<u64>() + number * size_of::<u32>()
    }

    fn take_index(&self) -> Option<usize> {
        // Relaxed: nothing else is read by it.
        let index = self.next_counter().fetch_add(1, Ordering::Relaxed);
        (index < self.count).then_some(index as usize)
    }

    /// Has nothing more begun.
    fn stop(&self) {
        self.next_counter().store(self.count, Ordering::Relaxed);
    }

    /// Returns the word that is not 0 once the stack of this process, a copy, has overflowed. A
    /// handler writes it at any time, so that it is never unmapped.
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
