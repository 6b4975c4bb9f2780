//! The executor's calls that run a function on many items.

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
#[cfg(doc)]
use crate::pool::options::TaskOptions;
use crate::pool::{
    ProcessPoolExecutor,
    future::TaskFuture,
    imap::{Feed, FeedUnordered, Imap, ImapUnordered, StreamImap},
};
use crate::wire::Wire;
use futures::Stream;

impl ProcessPoolExecutor {
    /// Runs `f` on each item and returns the results in the order of the items. Blocks until all
    /// are done.
    ///
    /// Items travel in chunks; the chunk size follows the measured time per item. The caller reads
    /// the input as the workers need it.
    ///
    /// # Errors
    ///
    /// The error of the first item in input order that fails. Items after it that have not started
    /// are cancelled; items before it finish. Use [`map_results`](Self::map_results) for the
    /// outcome of every item.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let error = pool.map(|x: i32| 12 / x, [3, 0, 4]).unwrap_err();
    /// assert_eq!(error.remote_panic().unwrap().message, "attempt to divide by zero");
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn map<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map(f, items)
    }

    /// Like [`map`](Self::map), but returns the outcome of each item instead of the first error.
    #[must_use = "failures are reported nowhere else"]
    pub fn map_results<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Vec<Result<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map_results(f, items)
    }

    /// Like [`map`](Self::map), but returns a future for the list of results after it has read the
    /// whole input.
    #[must_use = "dropping the future loses the result and the error of the task"]
    pub fn map_async<I, R>(&self, f: fn(I::Item) -> R, items: I) -> TaskFuture<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map_async(f, items)
    }

    /// Runs `f` on each item and returns an iterator over the results in the order of the items.
    ///
    /// The caller reads the input: `next` returns a result that is ready, and pulls from the input
    /// only if none is. The input may be endless. A slow input delays a result by at most one item.
    /// Use [`feed`](Self::feed) for an input that blocks for long, and
    /// [`imap_stream`](Self::imap_stream) for a stream.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let squares: Vec<u64> = pool.imap(|x| x * x, 0..).take(4).collect::<procpool::Result<_>>()?;
    /// assert_eq!(squares, [0, 1, 4, 9]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn imap<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Imap<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().imap(f, items)
    }

    /// Like [`imap`](Self::imap), but returns results in the order in which they complete.
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
        self.options().imap_unordered(f, items)
    }

    /// Runs `f` on each item, like [`imap`](Self::imap), but reads the input on a separate thread.
    /// This suits an input that blocks for long, such as a channel, a socket or standard input.
    ///
    /// Results arrive while the input blocks. The thread starts with this call and reads no further
    /// ahead than the [`window`](TaskOptions::window). It calls `into_iter`, so `items` must be
    /// `Send`, but the iterator need not be.
    ///
    /// Lines of [`BufRead`](std::io::BufRead) are `io::Result`s, which are not [`Wire`]: pass on
    /// the `String`s, as in the example of [`feed_unordered`](Self::feed_unordered). For standard
    /// input write `BufReader::new(stdin()).lines()`, because `stdin().lines()` is not `Send`.
    ///
    /// The thread counts as a thread of the program: while it reads,
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) refuses to copy the process. If the pool
    /// ends while the input blocks, `next` waits 1 s for the item and then returns
    /// [`ErrorKind::Shutdown`]. The call after that waits without a limit.
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let (sender, receiver) = mpsc::channel();
    /// let mut squares = pool.feed(|x: u64| x * x, receiver);
    /// for x in 0..3 {
    ///     sender.send(x).expect("the receiver lives");
    ///     assert_eq!(squares.next().transpose()?, Some(x * x));
    /// }
    /// drop(sender);
    /// assert!(squares.next().is_none());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn feed<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Feed<R>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().feed(f, items)
    }

    /// Like [`feed`](Self::feed), but returns results in the order in which they complete.
    ///
    /// A result does not name its item. Let `f` return a value that identifies it.
    ///
    /// ```
    /// use std::io::{BufRead, BufReader};
    /// use std::process::{Command, Stdio};
    ///
    /// let mut command = Command::new("printf");
    /// let mut child = command.arg(r"one\nfour\n").stdout(Stdio::piped()).spawn().unwrap();
    /// let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    ///
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let lengths = pool.feed_unordered(|line: String| (line.len(), line), lines);
    /// let mut lengths: Vec<_> = lengths.collect::<procpool::Result<_>>()?;
    /// lengths.sort();
    /// assert_eq!(lengths, [(3, "one".to_owned()), (4, "four".to_owned())]);
    /// assert!(child.wait().unwrap().success());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn feed_unordered<I, R>(&self, f: fn(I::Item) -> R, items: I) -> FeedUnordered<R>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().feed_unordered(f, items)
    }

    /// Runs `f` on each item of a stream and returns a stream of results in the order of the items.
    ///
    /// Works on any runtime, and no poll blocks. The input is polled only if no result is ready,
    /// and never further ahead than the [`window`](TaskOptions::window). A tokio receiver is not a
    /// [`Stream`]: wrap it in `tokio_stream`'s `ReceiverStream`.
    ///
    /// ```
    /// use futures::{StreamExt, TryStreamExt, executor::block_on, stream};
    ///
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let items = stream::iter(0..4u64).then(|x| async move { x + 1 });
    /// let squares: Vec<u64> = block_on(pool.imap_stream(|x| x * x, items).try_collect())?;
    /// assert_eq!(squares, [1, 4, 9, 16]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn imap_stream<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().imap_stream(f, items)
    }

    /// Like [`imap_stream`](Self::imap_stream), but returns results in the order in which they
    /// complete.
    pub fn imap_stream_unordered<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().imap_stream_unordered(f, items)
    }

    /// Like [`map`](Self::map), for a function of two arguments: `pool.starmap(u64::pow, [(2, 3),
    /// (3, 2)])`.
    ///
    /// # Errors
    ///
    /// Like [`map`](Self::map).
    pub fn starmap<A, B, R, I>(&self, f: fn(A, B) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator<Item = (A, B)>,
        A: Wire + Send + 'static,
        B: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().starmap(f, items)
    }

    /// Like [`map`](Self::map), for a function that also takes a shared context. Each worker
    /// receives `context` once.
    ///
    /// # Errors
    ///
    /// Like [`map`](Self::map). [`ErrorKind::Codec`] if the context cannot be encoded.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let stop_words = vec!["the".to_string(), "a".to_string()];
    /// let words = ["a", "fox"].map(String::from);
    /// let found = pool.map_with(stop_words, |stop, word| stop.contains(&word), words)?;
    /// assert_eq!(found, [true, false]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn map_with<C, I, R>(&self, context: C, f: fn(&C, I::Item) -> R, items: I) -> Result<Vec<R>>
    where
        C: Wire + Send + 'static,
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map_with(context, f, items)
    }
}
