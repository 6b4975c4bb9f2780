//! Queues in the server: plain ones, and those that count unfinished tasks.

use crate::error::{ErrorKind, Result};
use crate::manager::{
    client::reference::Reference,
    protocol::HandlerResult,
    proxies::object::proxy,
    server::wait_queue::{WaitLimit, WaitQueue, wait_until},
    server::{Server, Session},
};
use crate::process::function::{CallError, Invocation, MethodHandler, WireMethod};
use crate::wire::{Wire, codec};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc, time::Duration};

proxy! {
    /// A queue in a manager's server, made by [`Manager::queue`](crate::Manager::queue). Its items
    /// may hold proxies.
    ///
    /// An item is in the server when `put` returns. Those who wait are served in the order in which
    /// they came. One who dies while it waits takes no item; one that was sent to a process which
    /// dies before it can look at it is lost with it.
    ///
    /// ```
    /// use procpool::{Manager, Process, QueueProxy};
    ///
    /// let manager = Manager::start()?;
    /// let queue = manager.queue(8)?;
    /// let produce = |queue: QueueProxy<String>| queue.put(&"an item".to_owned()).is_ok();
    /// let producer = Process::start(produce, queue.clone())?;
    /// assert_eq!(queue.get()?, "an item");
    /// assert!(producer.result()?);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    QueueProxy<T>
}

proxy! {
    /// A [`QueueProxy`] that knows when everything that was put is done, made by
    /// [`Manager::joinable_queue`](crate::Manager::joinable_queue).
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let queue = manager.joinable_queue(8)?;
    /// queue.put(&1)?;
    /// queue.get()?;
    /// queue.task_done()?;
    /// queue.join()?;
    /// # Ok::<(), procpool::Error>(())
    /// ```
    JoinableQueueProxy<T>
}

macro_rules! queue_proxy {
    ($name:ident) => {
        impl<T: Wire + Send + 'static> $name<T> {
            /// Puts an item at the end, waiting as long as the queue is full.
            ///
            /// # Errors
            ///
            /// [`Codec`](crate::ErrorKind::Codec) when it cannot be encoded,
            /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it is larger than the server's
            /// [`message_limit`](crate::ManagerBuilder::message_limit),
            /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone or the
            /// queue closed.
            pub fn put(&self, item: &T) -> Result<()> {
                put_with(&self.0, item, WaitLimit::Forever)
            }

            /// Puts an item at the end if there is room.
            ///
            /// # Errors
            ///
            /// [`Full`](crate::ErrorKind::Full) if there is none; else as [`put`](Self::put).
            pub fn try_put(&self, item: &T) -> Result<()> {
                put_with(&self.0, item, WaitLimit::Never)
            }

            /// Puts an item at the end, waiting at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut); else as [`put`](Self::put).
            pub fn put_timeout(&self, item: &T, limit: Duration) -> Result<()> {
                put_with(&self.0, item, WaitLimit::AtMost(limit))
            }

            /// Takes the first item, waiting until there is one.
            ///
            /// # Errors
            ///
            /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone, or the
            /// queue is closed and empty; [`Codec`](crate::ErrorKind::Codec) when the item cannot
            /// be decoded, which is gone then.
            pub fn get(&self) -> Result<T> {
                self.0.ask(get::<T>, &WaitLimit::Forever)
            }

            /// Takes the first item if there is one.
            ///
            /// # Errors
            ///
            /// [`Empty`](crate::ErrorKind::Empty) if there is none; else as [`get`](Self::get).
            pub fn try_get(&self) -> Result<T> {
                self.0.ask(get::<T>, &WaitLimit::Never)
            }

            /// Takes the first item, waiting at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut); else as [`get`](Self::get).
            pub fn get_timeout(&self, limit: Duration) -> Result<T> {
                self.0.ask(get::<T>, &WaitLimit::AtMost(limit))
            }

            /// Puts items one behind the other, in one message: as many at once as there is room
            /// for, waiting for room for the others. Those who put single items without waiting, or
            /// with a limit, may come between. If this process dies while it waits, the first ones
            /// stay.
            ///
            /// # Errors
            ///
            /// As [`put`](Self::put). Nothing was put if an item cannot be encoded; if the queue is
            /// closed while this waits for room, the first ones were.
            pub fn put_many(&self, items: &[T]) -> Result<()> {
                let encode = |message: &mut Vec<u8>| codec::encode_slice(items, message);
                let put = WireMethod::handler(put_many::<T>)?;
                self.0.call(put, encode, |reply| codec::decode(reply))
            }

            /// Waits for an item, then takes what is there, `most` at the most, in one message.
            /// None only if `most` is 0.
            ///
            /// # Errors
            ///
            /// As [`get`](Self::get). Those that the server cannot encode are gone then, and the
            /// others stay.
            pub fn get_many(&self, most: usize) -> Result<Vec<T>> {
                self.0.ask(get_many::<T>, &most)
            }

            /// How many items there are.
            ///
            /// # Errors
            ///
            /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone, here and
            /// below.
            pub fn len(&self) -> Result<usize> {
                Ok(self.0.ask::<_, _, (usize, usize)>(size::<T>, &())?.0)
            }

            /// Whether there are none.
            pub fn is_empty(&self) -> Result<bool> {
                Ok(self.len()? == 0)
            }

            /// Whether there is no room for another.
            pub fn is_full(&self) -> Result<bool> {
                let (len, capacity): (usize, usize) = self.0.ask(size::<T>, &())?;
                Ok(len >= capacity)
            }

            /// How many items there is room for; none if for any number.
            pub fn capacity(&self) -> Result<Option<usize>> {
                let (_, capacity): (usize, usize) = self.0.ask(size::<T>, &())?;
                Ok(Some(capacity).filter(|it| *it < usize::MAX))
            }

            /// Closes it for everybody: nothing more can be put, and what is there can be taken.
            pub fn close(&self) -> Result<()> {
                self.0.ask(close::<T>, &())
            }
        }
    };
}

queue_proxy!(QueueProxy);
queue_proxy!(JoinableQueueProxy);

impl<T: Wire + Send + 'static> JoinableQueueProxy<T> {
    /// Says that an item which was taken is done.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when it is said more often than items were put;
    /// [`Disconnected`](ErrorKind::Disconnected) when the server is gone.
    pub fn task_done(&self) -> Result<()> {
        self.0.ask(task_done::<T>, &())
    }

    /// Waits until all that was put is done.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](ErrorKind::Disconnected) when the server is gone.
    pub fn join(&self) -> Result<()> {
        self.0.ask(join::<T>, &WaitLimit::Forever)
    }

    /// As [`push`](Self::push), at most for `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](ErrorKind::TimedOut); else as there.
    pub fn join_timeout(&self, limit: Duration) -> Result<()> {
        self.0.ask(join::<T>, &WaitLimit::AtMost(limit))
    }
}

/// The limit, and then the item: that may be bytes.
fn put_with<T: Wire + Send + 'static>(
    reference: &Reference,
    item: &T,
    wait: WaitLimit,
) -> Result<()> {
    let handler: MethodHandler<ServerQueue<T>> = match wait {
        WaitLimit::Forever => put::<T>,
        WaitLimit::Never => try_put::<T>,
        WaitLimit::AtMost(_) => put_timeout::<T>,
    };
    reference.call(
        WireMethod::handler(handler)?,
        |message| {
            if let WaitLimit::AtMost(limit) = wait {
                message.extend(limit.as_secs().to_le_bytes());
                message.extend(limit.subsec_nanos().to_le_bytes());
            }
            codec::encode(item, message)
        },
        |reply| codec::decode(reply),
    )
}

struct ServerQueue<T>(Arc<Mutex<ServerQueueState<T>>>);

struct ServerQueueState<T> {
    items: VecDeque<T>,
    capacity: usize,
    is_closed: bool,
    /// Items that were put and not said to be done.
    unfinished: usize,
    getters: WaitQueue,
    putters: WaitQueue,
    joiners: WaitQueue,
}

/// Makes one for so many items.
pub(in crate::manager) fn create<T: Wire + Send + 'static>(
    server: &Server,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let capacity = call.decode()?;
    if capacity == 0 {
        let message = "a queue cannot be for 0 items";
        return Err(CallError::Refused(
            ErrorKind::InvalidInput,
            message.to_owned(),
        ));
    }
    let state = ServerQueueState::<T> {
        items: VecDeque::new(),
        capacity,
        is_closed: false,
        unfinished: 0,
        getters: WaitQueue::fifo(),
        putters: WaitQueue::fifo(),
        joiners: WaitQueue::broadcast(),
    };
    server.create(ServerQueue(Arc::new(Mutex::new(state))), call)
}

fn put<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let item = call.decode()?;
    queue.put(item, WaitLimit::Forever, call)
}

fn try_put<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let item = call.decode()?;
    queue.put(item, WaitLimit::Never, call)
}

fn put_timeout<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    use codec::ByteSource;
    let (mut seconds, mut nanos) = ([0; 8], [0; 4]);
    if !call.argument.take(&mut seconds) || !call.argument.take(&mut nanos) {
        return Err(CallError::Decode("the message ends too early".to_owned()));
    }
    let (seconds, nanos) = (u64::from_le_bytes(seconds), u32::from_le_bytes(nanos));
    let limit = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
    let item = call.decode()?;
    queue.put(item, WaitLimit::AtMost(limit), call)
}

impl<T: Wire + Send + 'static> ServerQueue<T> {
    fn put(&self, item: T, wait: WaitLimit, call: &Invocation<'_>) -> HandlerResult {
        let mut item = Some(item);
        let attempt = |it: &mut ServerQueueState<T>| {
            if it.is_closed {
                return Some(Err(err_closed()));
            }
            (it.items.len() < it.capacity).then(|| {
                it.items.extend(item.take());
                it.unfinished += 1;
                it.getters.wake();
                Ok(())
            })
        };
        let put = wait_until(
            &self.0,
            |it| &mut it.putters,
            Session::of(call),
            wait,
            attempt,
        );
        put.map_err(|it| it.into_call_error(wait, ErrorKind::Full, "the queue is full"))?
    }

    /// What nobody has got is first again.
    fn requeue(&self, items: impl DoubleEndedIterator<Item = T>) {
        let mut state = self.0.lock();
        items.rev().for_each(|it| state.items.push_front(it));
        state.getters.wake();
    }

    fn requeue_if_undelivered<I>(&self, items: I, session: &Session)
    where
        I: IntoIterator<Item = T, IntoIter: DoubleEndedIterator> + Send + 'static,
    {
        let queue = Self(Arc::clone(&self.0));
        session.on_undelivered(move || queue.requeue(items.into_iter()));
    }
}

fn get<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let (wait, session): (WaitLimit, _) = (call.decode()?, Session::of(call));
    let attempt = |it: &mut ServerQueueState<T>| match it.items.pop_front() {
        None => it.is_closed.then(|| Err(err_closed())),
        Some(item) => {
            it.putters.wake();
            Some(Ok(item))
        }
    };
    let got = wait_until(&queue.0, |it| &mut it.getters, session, wait, attempt);
    let item =
        got.map_err(|it| it.into_call_error(wait, ErrorKind::Empty, "the queue is empty"))??;
    call.encode(&item)?;
    queue.requeue_if_undelivered([item], session);
    Ok(())
}

fn put_many<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let items: Vec<T> = call.decode()?;
    if items.is_empty() {
        return Ok(());
    }
    let mut items = items.into_iter().peekable();
    let attempt = |it: &mut ServerQueueState<T>| {
        if it.is_closed && items.peek().is_some() {
            return Some(Err(err_closed()));
        }
        let room = it.capacity.saturating_sub(it.items.len());
        let before = it.items.len();
        it.items.extend(items.by_ref().take(room));
        it.unfinished += it.items.len() - before;
        it.getters.wake();
        items.peek().is_none().then_some(Ok(()))
    };
    let put = wait_until(
        &queue.0,
        |it| &mut it.putters,
        Session::of(call),
        WaitLimit::Forever,
        attempt,
    );
    put.map_err(|it| it.into_call_error(WaitLimit::Forever, ErrorKind::Full, "the queue is full"))?
}

fn get_many<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let (max, session): (usize, _) = (call.decode()?, Session::of(call));
    if max == 0 {
        return call.encode(&Vec::<T>::new());
    }
    let attempt = |it: &mut ServerQueueState<T>| {
        if it.items.is_empty() {
            return it.is_closed.then(|| Err(err_closed()));
        }
        let count = max.min(it.items.len());
        let items: Vec<T> = it.items.drain(..count).collect();
        it.putters.wake();
        Some(Ok(items))
    };
    let wait = WaitLimit::Forever;
    let got = wait_until(&queue.0, |it| &mut it.getters, session, wait, attempt);
    let items =
        got.map_err(|it| it.into_call_error(wait, ErrorKind::Empty, "the queue is empty"))??;
    if let Err(error) = call.encode_slice(&items) {
        // The failure is that of some; the others are there for whoever asks next.
        let others: Vec<T> = items
            .into_iter()
            .filter(|it| call.encode(it).is_ok())
            .collect();
        queue.requeue(others.into_iter());
        return Err(error);
    }
    queue.requeue_if_undelivered(items, session);
    Ok(())
}

fn size<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let size = {
        let state = queue.0.lock();
        (state.items.len(), state.capacity)
    };
    call.encode(&size)
}

fn close<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    _: &mut Invocation<'_>,
) -> HandlerResult {
    let mut state = queue.0.lock();
    state.is_closed = true;
    state.getters.wake();
    state.putters.wake();
    Ok(())
}

fn task_done<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    _: &mut Invocation<'_>,
) -> HandlerResult {
    let mut state = queue.0.lock();
    let Some(unfinished) = state.unfinished.checked_sub(1) else {
        let message = "more tasks are done than items were put";
        return Err(CallError::Refused(
            ErrorKind::InvalidInput,
            message.to_owned(),
        ));
    };
    state.unfinished = unfinished;
    state.joiners.wake();
    Ok(())
}

fn join<T: Wire + Send + 'static>(
    queue: &ServerQueue<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let wait: WaitLimit = call.decode()?;
    let attempt = |it: &mut ServerQueueState<T>| (it.unfinished == 0).then_some(());
    let joined = wait_until(
        &queue.0,
        |it| &mut it.joiners,
        Session::of(call),
        wait,
        attempt,
    );
    joined.map_err(|it| it.into_call_error(wait, ErrorKind::WouldBlock, "not everything is done"))
}

fn err_closed() -> CallError {
    let message = "the queue is closed";
    CallError::Refused(ErrorKind::Disconnected, message.to_owned())
}
