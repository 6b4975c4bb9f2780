//! The calls that run a function on many items.

use crate::error::Result;
use crate::pool::{
    future::TaskFuture,
    imap::{Feed, FeedUnordered, Imap, ImapUnordered, NextPart, StreamImap},
    options::{TaskOptions, codec_error},
    task::{
        Task, TaskOutput, Wakeups,
        chunker::IterStream,
        feed::FeedParts,
        map::{Delivery, InputReader, MapContext, MapState, OnError},
        map_driver::MapDriver,
        map_part::MapPart,
    },
};
use crate::process::function::{ContextLoader, WireFunction};
use crate::wire::{Wire, codec, handle};
use futures::Stream;
use std::sync::Arc;

impl TaskOptions<'_> {
    /// Like [`ProcessPoolExecutor::map`](crate::ProcessPoolExecutor::map).
    pub fn map<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.collect(WireFunction::unary(f), None, items)
    }

    /// Like [`ProcessPoolExecutor::map_results`](crate::ProcessPoolExecutor::map_results).
    #[must_use = "failures are reported nowhere else"]
    pub fn map_results<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Vec<Result<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let items = items.into_iter();
        let checked = self.pool.check_owner().and_then(|()| self.chunking.check());
        let function = checked.and_then(|()| WireFunction::unary(f));
        match function {
            Err(error) => items.map(|_| Err(error.clone())).collect(),
            function => {
                // Not `collect`, which would reserve memory for the size hint of an endless input.
                let mut results = Vec::new();
                let run =
                    self.run_iter(function, None, Delivery::Ordered, OnError::Continue, items);
                Imap::new(run).for_each(|result| results.push(result));
                results
            }
        }
    }

    /// Like [`ProcessPoolExecutor::map_async`](crate::ProcessPoolExecutor::map_async).
    #[must_use = "dropping the future loses the result and the error of the task"]
    pub fn map_async<I, R>(&self, f: fn(I::Item) -> R, items: I) -> TaskFuture<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let run = self.run_iter(
            WireFunction::unary(f),
            None,
            Delivery::Collected,
            OnError::Cancel,
            items,
        );
        let task = match run {
            Err(error) => Arc::new(Task::failed(error)),
            Ok(mut run) => {
                run.send_all();
                let map = Arc::clone(run.map());
                let task = Arc::new(Task::map(Arc::clone(&map)));
                let mut wakeups = Wakeups::default();
                map.collect_into(&task, &mut wakeups);
                self.pool.wake(wakeups);
                task
            }
        };
        TaskFuture::new(self.pool, task, decode_list::<R>)
    }

    /// Like [`ProcessPoolExecutor::imap`](crate::ProcessPoolExecutor::imap).
    pub fn imap<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Imap<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        Imap::new(self.run_iter(
            WireFunction::unary(f),
            None,
            Delivery::Ordered,
            OnError::Continue,
            items,
        ))
    }

    /// Like [`ProcessPoolExecutor::imap_unordered`](crate::ProcessPoolExecutor::imap_unordered).
    pub fn imap_unordered<I, R>(
        &self,
        f: fn(I::Item) -> R,
        items: I,
    ) -> ImapUnordered<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let function = WireFunction::unary(f);
        ImapUnordered::new(self.run_iter(
            function,
            None,
            Delivery::Unordered,
            OnError::Continue,
            items,
        ))
    }

    /// Like [`ProcessPoolExecutor::feed`](crate::ProcessPoolExecutor::feed).
    pub fn feed<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Feed<R>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        Feed::new(self.run_feed(WireFunction::unary(f), Delivery::Ordered, items))
    }

    /// Like [`ProcessPoolExecutor::feed_unordered`](crate::ProcessPoolExecutor::feed_unordered).
    pub fn feed_unordered<I, R>(&self, f: fn(I::Item) -> R, items: I) -> FeedUnordered<R>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        FeedUnordered::new(self.run_feed(WireFunction::unary(f), Delivery::Unordered, items))
    }

    /// Like [`ProcessPoolExecutor::imap_stream`](crate::ProcessPoolExecutor::imap_stream).
    pub fn imap_stream<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        StreamImap::new(self.run(
            WireFunction::unary(f),
            None,
            Delivery::Ordered,
            OnError::Continue,
            items,
        ))
    }

    /// Like `imap_stream_unordered` of
    /// [`ProcessPoolExecutor`](crate::ProcessPoolExecutor::imap_stream_unordered).
    pub fn imap_stream_unordered<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        StreamImap::new(self.run(
            WireFunction::unary(f),
            None,
            Delivery::Unordered,
            OnError::Continue,
            items,
        ))
    }

    /// Like [`ProcessPoolExecutor::starmap`](crate::ProcessPoolExecutor::starmap).
    pub fn starmap<A, B, R, I>(&self, f: fn(A, B) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator<Item = (A, B)>,
        A: Wire + Send + 'static,
        B: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.collect(WireFunction::binary(f), None, items)
    }

    /// Like [`ProcessPoolExecutor::map_with`](crate::ProcessPoolExecutor::map_with).
    pub fn map_with<C, I, R>(&self, context: C, f: fn(&C, I::Item) -> R, items: I) -> Result<Vec<R>>
    where
        C: Wire + Send + 'static,
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let context = encode_context(&context)?;
        self.collect(WireFunction::contextual(f), Some(context), items)
    }

    fn run_iter<I>(
        &self,
        function: Result<WireFunction>,
        context: Option<MapContext>,
        delivery: Delivery,
        on_error: OnError,
        items: I,
    ) -> Result<MapDriver<IterStream<I::IntoIter>>>
    where
        I: IntoIterator,
        I::Item: Wire + 'static,
    {
        let items = IterStream(items.into_iter());
        self.run(function, context, delivery, on_error, items)
    }

    fn run<S>(
        &self,
        function: Result<WireFunction>,
        context: Option<MapContext>,
        delivery: Delivery,
        on_error: OnError,
        items: S,
    ) -> Result<MapDriver<S>>
    where
        S: Stream,
        S::Item: Wire + 'static,
    {
        self.pool.check_owner()?;
        let map = MapState::new(
            function?,
            context,
            self.config,
            delivery,
            on_error,
            InputReader::Caller,
        );
        MapDriver::new(self.pool, map, self.chunking, items)
    }

    fn run_feed<I>(
        &self,
        function: Result<WireFunction>,
        delivery: Delivery,
        items: I,
    ) -> Result<FeedParts>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + 'static,
    {
        self.pool.check_owner()?;
        let map = MapState::new(
            function?,
            None,
            self.config,
            delivery,
            OnError::Continue,
            InputReader::Thread,
        );
        FeedParts::start(self.pool, map, self.chunking, items)
    }

    /// Returns all results in order, or the error of the first item that failed.
    fn collect<I, R>(
        &self,
        function: Result<WireFunction>,
        context: Option<MapContext>,
        items: I,
    ) -> Result<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + 'static,
        R: Wire + 'static,
    {
        let mut run =
            self.run_iter(function, context, Delivery::Ordered, OnError::Cancel, items)?;
        let mut results = Vec::with_capacity(run.expected());
        while let Some(part) = run.next_part() {
            append(&part, &mut results)?;
        }
        Ok(results)
    }
}

/// Bytes; a context is sent in one frame, whose length has 32 bits.
const MAX_CONTEXT_BYTES: usize = 2 << 30;

fn encode_context<C: Wire + 'static>(context: &C) -> Result<MapContext> {
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    let encoded = handle::collect(&mut descriptors, || codec::encode(context, &mut bytes));
    encoded.map_err(|reason| codec_error("the context", &reason))?;
    if bytes.len() > MAX_CONTEXT_BYTES {
        return Err(codec_error("the context", "it is larger than 2 GiB"));
    }
    let loader = ContextLoader::new::<C>()?;
    Ok(MapContext::new(loader, bytes, descriptors))
}

fn decode_list<R: Wire + 'static>(body: &TaskOutput) -> Result<Vec<R>> {
    let TaskOutput::List(parts) = body else {
        unreachable!("a map gives a list")
    };
    let mut results = Vec::new();
    for part in parts {
        append(part, &mut results)?;
    }
    Ok(results)
}

/// Decodes the results of `part` onto the end of `results`, up to the first error.
fn append<R: Wire + 'static>(part: &MapPart, results: &mut Vec<R>) -> Result<()> {
    let mut outcome = Ok(());
    part.decode(|result| match result {
        Ok(value) if outcome.is_ok() => results.push(value),
        Err(error) if outcome.is_ok() => outcome = Err(error),
        _ => {}
    });
    outcome
}
