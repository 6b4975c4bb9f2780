//! Iterators and streams over the results of a map.

use crate::error::{Error, Result};
use crate::pool::task::{
    chunker::IterStream, feed::FeedParts, map_driver::MapDriver, map_part::MapPart,
    map_results::MapResults,
};
use crate::wire::Wire;
use futures::Stream;
use std::{
    collections::VecDeque,
    fmt,
    iter::FusedIterator,
    pin::Pin,
    task::{Context, Poll},
};

/// A source of a map's outcomes.
pub(super) trait PartSource {
    fn results(&self) -> &MapResults;

    /// Returns bounds on the number of items whose outcomes were not returned yet.
    fn size_hint(&self) -> (usize, Option<usize>);
}

/// A source that a thread waits for.
pub(super) trait NextPart: PartSource {
    /// Waits for the next outcomes. Returns `None` after the outcomes of all items.
    fn next_part(&mut self) -> Option<MapPart>;
}

/// Outcomes that an async task waits for.
pub(super) trait PollPart: PartSource {
    /// Returns the next outcomes, or `None` after the outcomes of all items. Registers the task for
    /// a wake-up if none are ready.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<MapPart>>;
}

/// The state of an iterator or a stream over a map's results.
struct ImapInner<P, R> {
    /// `None` after the last outcome, or if the call was refused.
    parts: Option<P>,
    decode: fn(&MapPart, &mut dyn FnMut(Result<R>)),
    /// The error of a refused call, which is the first and only outcome.
    refusal: Option<Error>,
    ready: VecDeque<Result<R>>,
}

impl<P, R: Wire + 'static> ImapInner<P, R> {
    fn new(parts: Result<P>) -> Self {
        let (parts, refusal) = match parts {
            Ok(parts) => (Some(parts), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            parts,
            decode: |part, take| part.decode(take),
            refusal,
            ready: VecDeque::new(),
        }
    }
}

impl<P: PartSource, R> ImapInner<P, R> {
    fn next(&mut self) -> Option<Result<R>>
    where
        P: NextPart,
    {
        loop {
            if let Some(result) = self.take_ready() {
                return Some(result);
            }
            let part = self.parts.as_mut()?.next_part()?;
            self.unpack(&part);
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<R>>>
    where
        P: PollPart,
    {
        loop {
            if let Some(result) = self.take_ready() {
                return Poll::Ready(Some(result));
            }
            let Some(parts) = &mut self.parts else {
                return Poll::Ready(None);
            };
            match parts.poll_part(context) {
                Poll::Ready(Some(part)) => self.unpack(&part),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn take_ready(&mut self) -> Option<Result<R>> {
        if let Some(result) = self.ready.pop_front() {
            return Some(result);
        }
        let refusal = self
            .parts
            .as_ref()
            .and_then(|parts| parts.results().refusal());
        if let Some(refusal) = refusal {
            self.parts = None;
            self.refusal = Some(refusal);
        }
        self.refusal.take().map(Err)
    }

    fn unpack(&mut self, part: &MapPart) {
        (self.decode)(part, &mut |result| self.ready.push_back(result));
    }

    /// Exact if the size hint of the input is.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let here = self.ready.len() + usize::from(self.refusal.is_some());
        let parts = self.parts.as_ref();
        let (low, high) = parts.map_or((0, Some(0)), PartSource::size_hint);
        (
            low.saturating_add(here),
            high.and_then(|it| it.checked_add(here)),
        )
    }
}

/// Declares an iterator over results: name, parameters, source of the outcomes, and stream.
macro_rules! results_iterator {
    (
        $(#[$doc:meta])*
        $name:ident<$($param:ident $(: $bound:path)?),+>, $parts:ty, $stream:ident
    ) => {
        $(#[$doc])*
        pub struct $name<$($param),+>(ImapInner<$parts, R>);

        impl<$($param),+> $name<$($param),+> {
            pub(super) fn new(parts: Result<$parts>) -> Self
            where
                R: Wire + 'static,
            {
                Self(ImapInner::new(parts))
            }

            /// Converts the iterator into a stream of the same results, for any runtime.
            pub fn into_stream(self) -> $stream<$($param),+> {
                $stream(self.0)
            }
        }

        impl<$($param $(: $bound)?),+> Iterator for $name<$($param),+> {
            type Item = Result<R>;

            fn next(&mut self) -> Option<Result<R>> {
                self.0.next()
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }

        impl<$($param $(: $bound)?),+> FusedIterator for $name<$($param),+> {}

        results_debug!($name<$($param),+>);
    };
}

/// Declares a stream of results: name, parameters and source of the outcomes.
macro_rules! results_stream {
    ($(#[$doc:meta])* $name:ident<$($param:ident $(: $bound:path)?),+>, $parts:ty) => {
        $(#[$doc])*
        #[must_use = "a stream does nothing unless it is polled"]
        pub struct $name<$($param),+>(ImapInner<$parts, R>);

        impl<$($param $(: $bound)?),+> Stream for $name<$($param),+> {
            type Item = Result<R>;

            fn poll_next(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<Option<Result<R>>> {
                self.0.poll_next(context)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }

        /// The input is pinned on the heap, and results are never pinned.
        impl<$($param),+> Unpin for $name<$($param),+> {}

        results_debug!($name<$($param),+>);
    };
}

macro_rules! results_debug {
    ($name:ident<$($param:ident),+>) => {
        impl<$($param),+> fmt::Debug for $name<$($param),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("ready", &self.0.ready.len())
                    .finish_non_exhaustive()
            }
        }
    };
}

results_iterator! {
    /// The results of [`imap`](crate::ProcessPoolExecutor::imap): one for each item, in the order
    /// of the input.
    ///
    /// The caller reads the input: an item is pulled only if the next result is requested and not
    /// ready, and never further ahead than the window. A pulled item is sent at most 1 ms later,
    /// even if the input blocks. An error takes the place of its item's result, and the iterator
    /// continues. Dropping it cancels the items that have not started.
    #[must_use = "iterators are lazy and do nothing unless consumed"]
    Imap<I: Iterator, R>, MapDriver<IterStream<I>>, ImapStream
}

results_iterator! {
    /// The results of [`imap_unordered`](crate::ProcessPoolExecutor::imap_unordered): one for each
    /// item, in the order in which they complete.
    ///
    /// Like [`Imap`] except for the order.
    #[must_use = "iterators are lazy and do nothing unless consumed"]
    ImapUnordered<I: Iterator, R>, MapDriver<IterStream<I>>, ImapStream
}

impl<I: ExactSizeIterator, R> ExactSizeIterator for Imap<I, R> {}

impl<I: ExactSizeIterator, R> ExactSizeIterator for ImapUnordered<I, R> {}

results_iterator! {
    /// The results of [`feed`](crate::ProcessPoolExecutor::feed): one for each item, in the order
    /// of the input.
    ///
    /// A thread reads the input, never further ahead than the window. An error takes the place of
    /// its item's result, and the iterator continues. If the input panics, `next` panics after the
    /// results of the items before it.
    ///
    /// Dropping it cancels the items that have not started. This does not block, even if the input
    /// does: the thread exits when the input returns the next item.
    #[must_use = "dropping it cancels the items that have not started"]
    Feed<R>, FeedParts, FeedStream
}

results_iterator! {
    /// The results of [`feed_unordered`](crate::ProcessPoolExecutor::feed_unordered): one for each
    /// item, in the order in which they complete.
    ///
    /// Like [`Feed`] except for the order.
    #[must_use = "dropping it cancels the items that have not started"]
    FeedUnordered<R>, FeedParts, FeedStream
}

results_stream! {
    /// The results of [`Imap::into_stream`] or [`ImapUnordered::into_stream`].
    ///
    /// A poll returns a result if one is ready. Otherwise it reads the input, and blocks while that
    /// blocks. Use [`feed`](crate::ProcessPoolExecutor::feed) for an input that blocks, and
    /// [`imap_stream`](crate::ProcessPoolExecutor::imap_stream) for a stream.
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
    ImapStream<I: Iterator, R>, MapDriver<IterStream<I>>
}

results_stream! {
    /// The results of [`imap_stream`](crate::ProcessPoolExecutor::imap_stream) or
    /// [`imap_stream_unordered`](crate::ProcessPoolExecutor::imap_stream_unordered): one for each
    /// item of a stream.
    ///
    /// The input is polled only if the next result is requested and not ready, and never further
    /// ahead than the window. Pulled items are sent before a poll returns. An error takes the place
    /// of its item's result, and the stream continues. Dropping it cancels the items that have not
    /// started.
    ///
    /// [`ImapStream`](crate::ImapStream) is the stream for an input that is an iterator.
    StreamImap<S: Stream, R>, MapDriver<S>
}

impl<S, R> StreamImap<S, R> {
    pub(super) fn new(run: Result<MapDriver<S>>) -> Self
    where
        R: Wire + 'static,
    {
        Self(ImapInner::new(run))
    }
}

results_stream! {
    /// The results of [`Feed::into_stream`] or [`FeedUnordered::into_stream`]. No poll blocks.
    FeedStream<R>, FeedParts
}
