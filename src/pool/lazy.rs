//! A map's results one by one: as an iterator, and as a stream.

use super::{batch::Part, map::Run};
use crate::error::{Error, Result};
use futures::Stream;
use std::{
    collections::VecDeque,
    fmt,
    iter::FusedIterator,
    pin::Pin,
    task::{Context as PollContext, Poll, Waker},
};

/// The results of a map, one by one.
struct Lazy<I, R> {
    run: Option<Run<I, R>>,
    /// What was wrong with the call: the first and only outcome.
    refusal: Option<Error>,
    ready: VecDeque<Result<R>>,
}

impl<I, R> Lazy<I, R> {
    fn new(run: Result<Run<I, R>>) -> Self {
        let (run, refusal) = match run {
            Ok(run) => (Some(run), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            run,
            refusal,
            ready: VecDeque::new(),
        }
    }

    fn next(&mut self) -> Option<Result<R>> {
        loop {
            if let Some(result) = self.take_ready() {
                return Some(result);
            }
            let part = self.run.as_mut()?.next_part();
            self.unpack(part)?;
        }
    }

    fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Result<R>>> {
        loop {
            if let Some(result) = self.take_ready() {
                return Poll::Ready(Some(result));
            }
            let Some(run) = &mut self.run else {
                return Poll::Ready(None);
            };
            let Poll::Ready(part) = run.poll_next_part(waker) else {
                return Poll::Pending;
            };
            if self.unpack(part).is_none() {
                return Poll::Ready(None);
            }
        }
    }

    fn take_ready(&mut self) -> Option<Result<R>> {
        if let Some(result) = self.ready.pop_front() {
            return Some(result);
        }
        if let Some(refusal) = self.run.as_ref().and_then(Run::refusal) {
            self.run = None;
            self.refusal = Some(refusal);
        }
        self.refusal.take().map(Err)
    }

    fn unpack(&mut self, part: Option<Part>) -> Option<()> {
        let (part, run) = (part?, self.run.as_ref()?);
        run.decode(&part, &mut |result| self.ready.push_back(result));
        Some(())
    }
}

impl<I: Iterator, R> Lazy<I, R> {
    /// Exact wherever the input's is.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let here = self.ready.len() + usize::from(self.refusal.is_some());
        let (low, high) = self.run.as_ref().map_or((0, Some(0)), Run::size_hint);
        (
            low.saturating_add(here),
            high.and_then(|it| it.checked_add(here)),
        )
    }
}

macro_rules! lazy_map {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use = "the input is read as results are asked for"]
        pub struct $name<I, R>(Lazy<I, R>);

        impl<I, R> $name<I, R> {
            pub(super) fn new(run: Result<Run<I, R>>) -> Self {
                Self(Lazy::new(run))
            }

            /// The same results for async code, on any runtime.
            pub fn into_stream(self) -> ImapStream<I, R> {
                ImapStream(self.0)
            }
        }

        impl<I: Iterator, R> Iterator for $name<I, R> {
            type Item = Result<R>;

            fn next(&mut self) -> Option<Result<R>> {
                self.0.next()
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }

        impl<I: ExactSizeIterator, R> ExactSizeIterator for $name<I, R> {}

        impl<I: Iterator, R> FusedIterator for $name<I, R> {}

        impl<I, R> fmt::Debug for $name<I, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("ready", &self.0.ready.len()).finish_non_exhaustive()
            }
        }
    };
}

lazy_map! {
    /// The results of [`imap`](crate::ProcessPoolExecutor::imap): one for each item, in the order of the input.
    ///
    /// The input is read by whoever asks for the next result, never further ahead than the window and never while nobody
    /// asks. An error takes the place of its item's result and ends nothing. Dropping this cancels what has not started.
    Imap
}

lazy_map! {
    /// The results of [`imap_unordered`](crate::ProcessPoolExecutor::imap_unordered): one for each item, as they come.
    ///
    /// In everything but the order as [`Imap`].
    ImapUnordered
}

/// The results of [`Imap::into_stream`] or [`ImapUnordered::into_stream`].
///
/// ```
/// use futures::{StreamExt, executor::block_on};
///
/// let pool = procpool::ProcessPoolExecutor::new()?;
/// let stream = pool.imap(|x| x * x, 0..4u64).into_stream();
/// let squares: Vec<u64> = block_on(stream.map(|it| it.unwrap()).collect());
/// assert_eq!(squares, [0, 1, 4, 9]);
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use = "a stream does nothing unless it is polled"]
pub struct ImapStream<I, R>(Lazy<I, R>);

impl<I: Iterator, R> Stream for ImapStream<I, R> {
    type Item = Result<R>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut PollContext<'_>,
    ) -> Poll<Option<Result<R>>> {
        self.0.poll_next(context.waker())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// Neither the input nor results are ever pinned.
impl<I, R> Unpin for ImapStream<I, R> {}

impl<I, R> fmt::Debug for ImapStream<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImapStream")
            .field("ready", &self.0.ready.len())
            .finish_non_exhaustive()
    }
}
