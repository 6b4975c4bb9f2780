//! The executor's calls that run a function on many items.

use crate::error::Result;
use crate::pool::{
    ProcessPoolExecutor,
    future::TaskFuture,
    imap::{Feed, FeedUnordered, Imap, ImapUnordered, StreamImap},
};
use crate::wire::Wire;
#[cfg(doc)]
use crate::{error::ErrorKind, pool::options::TaskOptions};
use futures::Stream;

impl ProcessPoolExecutor {
    /// Has the workers call `f` with each item, and gives the results in the order of the items.
    ///
    /// Items travel in chunks whose size follows the time they take. The input is read as the
    /// workers need it.
    ///
    /// # Errors
    ///
    /// The error of the first item, in their order, that fails. Items behind it that have not
    /// started are cancelled; those before it finish. For every item's own outcome there is
    /// [`map_results`](Self::map_results).
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

    /// As [`map`](Self::map), but gives every item's own outcome, and fails for none.
    #[must_use = "it is the only place where failures are told"]
    pub fn map_results<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Vec<Result<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map_results(f, items)
    }

    /// As [`map`](Self::map), but returns as soon as the input has been read, with a handle on the
    /// list of results.
    #[must_use = "a task runs all the same, but nobody hears of its result or its error"]
    pub fn map_async<I, R>(&self, f: fn(I::Item) -> R, items: I) -> TaskFuture<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map_async(f, items)
    }

    /// Runs `f` on each item, and returns an iterator over the results in the order of the items.
    ///
    /// The caller reads the input: `next` returns a result that is there, and pulls from the input
    /// only while none is. So an endless input works, and a slow one holds no result back for
    /// longer than one item takes. For an input that blocks for long there is [`feed`](Self::feed),
    /// for a stream [`imap_stream`](Self::imap_stream).
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

    /// As [`imap`](Self::imap), but gives results as they come.
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

    /// Runs `f` on each item, like [`imap`](Self::imap), but a thread reads the input: for one that
    /// blocks for long, such as a channel, a socket or standard input.
    ///
    /// Results come while the input blocks; `imap` returns one only between two items. The thread
    /// starts with this call and reads no further ahead than the [`window`](TaskOptions::window).
    /// It calls `into_iter`, so `items` must be `Send`, but the iterator need not be.
    ///
    /// Lines of [`BufRead`](std::io::BufRead) are `io::Result`s, which are not [`Wire`]: pass on
    /// the `String`s, as in the example of [`feed_unordered`](Self::feed_unordered). For standard
    /// input write `BufReader::new(stdin()).lines()`, because `stdin().lines()` is not `Send`.
    ///
    /// The thread counts as one of the program's: while it reads,
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) refuses to copy the process. If the pool
    /// ends while the input blocks, `next` waits 1 s for the item. Then it returns
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

    /// Like [`feed`](Self::feed), but returns results as they come.
    ///
    /// A result does not tell its item. Return from `f` what identifies it.
    ///
    /// ```
    /// use std::io::{BufRead, BufReader};
    /// use std::process::{Command, Stdio};
    ///
    /// let mut child = Command::new("printf").arg(r"one\nfour\n").stdout(Stdio::piped()).spawn().unwrap();
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

    /// Runs `f` on each item of a stream, and returns a stream of results in the order of the
    /// items.
    ///
    /// The input is polled when the next result is asked for and is not there, and never further
    /// ahead than the [`window`](TaskOptions::window). No poll blocks. It works on any runtime.
    /// A receiver of tokio's is not a [`Stream`] itself: wrap it in `tokio_stream`'s
    /// `ReceiverStream`.
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

    /// Like [`imap_stream`](Self::imap_stream), but gives results as they come.
    pub fn imap_stream_unordered<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().imap_stream_unordered(f, items)
    }

    /// As [`map`](Self::map) for a function of two arguments:
    /// `pool.starmap(u64::pow, [(2, 3), (3, 2)])`.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn starmap<A, B, R, I>(&self, f: fn(A, B) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator<Item = (A, B)>,
        A: Wire + Send + 'static,
        B: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().starmap(f, items)
    }

    /// As [`map`](Self::map) for a function that needs something besides its item: `context` is
    /// sent to each worker once.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); [`ErrorKind::Codec`] for a context that cannot be encoded.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let stop_words = vec!["the".to_string(), "a".to_string()];
    /// let found = pool.map_with(stop_words, |words, word| words.contains(&word), ["a", "fox"].map(String::from))?;
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
