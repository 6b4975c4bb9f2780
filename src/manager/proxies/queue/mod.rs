//! Queues in the server: plain queues, and joinable queues, which count unfinished tasks.

mod handlers;

pub(in crate::manager) use handlers::create;

use crate::error::Result;
use crate::manager::{
    client::reference::Reference, proxies::object::proxy, server::wait_queue::WaitLimit,
};
use crate::process::function::{MethodHandler, WireMethod};
use crate::wire::{Wire, codec};
use handlers::{
    ServerQueue, close, get, get_many, join, put, put_many, put_timeout, size, task_done, try_put,
};
use std::time::Duration;

proxy! {
    /// A queue in a manager's server, created by [`Manager::queue`](crate::Manager::queue). Its
    /// items may hold proxies.
    ///
    /// An item is in the server when `put` returns. Waiters are served in the order of their
    /// arrival. A process that dies during its wait takes no item. An item is lost if its receiver
    /// dies after the server has sent it.
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
    /// A [`QueueProxy`] that counts unfinished tasks, created by
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
            /// Appends an item. Blocks while the queue is full.
            ///
            /// # Errors
            ///
            /// [`Codec`](crate::ErrorKind::Codec) if the item cannot be encoded.
            /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is larger than the server's
            /// [`message_limit`](crate::ManagerBuilder::message_limit).
            /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited or the
            /// queue is closed.
            pub fn put(&self, item: &T) -> Result<()> {
                put_with(&self.0, item, WaitLimit::Forever)
            }

            /// Appends an item if the queue has room.
            ///
            /// # Errors
            ///
            /// [`Full`](crate::ErrorKind::Full) if the queue is full; else fails like
            /// [`put`](Self::put).
            pub fn try_put(&self, item: &T) -> Result<()> {
                put_with(&self.0, item, WaitLimit::Never)
            }

            /// Appends an item. Blocks for at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut) if the queue stays full; else fails like
            /// [`put`](Self::put).
            pub fn put_timeout(&self, item: &T, limit: Duration) -> Result<()> {
                put_with(&self.0, item, WaitLimit::AtMost(limit))
            }

            /// Removes and returns the first item. Blocks while the queue is empty.
            ///
            /// # Errors
            ///
            /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited, or if the
            /// queue is closed and empty. [`Codec`](crate::ErrorKind::Codec) if the item cannot be
            /// decoded; the item is lost.
            pub fn get(&self) -> Result<T> {
                self.0.ask(get::<T>, &WaitLimit::Forever)
            }

            /// Removes and returns the first item if there is one.
            ///
            /// # Errors
            ///
            /// [`Empty`](crate::ErrorKind::Empty) if the queue is empty; else fails like
            /// [`get`](Self::get).
            pub fn try_get(&self) -> Result<T> {
                self.0.ask(get::<T>, &WaitLimit::Never)
            }

            /// Removes and returns the first item. Blocks for at most `limit`.
            ///
            /// # Errors
            ///
            /// [`TimedOut`](crate::ErrorKind::TimedOut) if the queue stays empty; else fails like
            /// [`get`](Self::get).
            pub fn get_timeout(&self, limit: Duration) -> Result<T> {
                self.0.ask(get::<T>, &WaitLimit::AtMost(limit))
            }

            /// Appends items in order, in one message. Blocks for room if not all of them fit at
            /// once. Items from `try_put` or `put_timeout` of other callers may come between them.
            /// If this process dies during the wait, the items that were already appended stay.
            ///
            /// # Errors
            ///
            /// Fails like [`put`](Self::put). No item is appended if one of them cannot be encoded.
            /// If the queue is closed during the wait, the items that were already appended stay.
            pub fn put_many(&self, items: &[T]) -> Result<()> {
                let encode = |message: &mut Vec<u8>| codec::encode_slice(items, message);
                let put = WireMethod::handler(put_many::<T>)?;
                self.0.call(put, encode, |reply| codec::decode(reply))
            }

            /// Waits for an item, then removes and returns the available items, at most `most`, in
            /// one message. Returns no items only if `most` is 0.
            ///
            /// # Errors
            ///
            /// Fails like [`get`](Self::get). Items that the server cannot encode are lost, and the
            /// others stay.
            pub fn get_many(&self, most: usize) -> Result<Vec<T>> {
                self.0.ask(get_many::<T>, &most)
            }

            /// Returns the number of items.
            ///
            /// # Errors
            ///
            /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited, here and
            /// below.
            pub fn len(&self) -> Result<usize> {
                Ok(self.0.ask::<_, _, (usize, usize)>(size::<T>, &())?.0)
            }

            /// Whether the queue is empty.
            pub fn is_empty(&self) -> Result<bool> {
                Ok(self.len()? == 0)
            }

            /// Whether the queue is full.
            pub fn is_full(&self) -> Result<bool> {
                let (len, capacity): (usize, usize) = self.0.ask(size::<T>, &())?;
                Ok(len >= capacity)
            }

            /// Returns the maximum number of items, or `None` if the queue is unbounded.
            pub fn capacity(&self) -> Result<Option<usize>> {
                let (_, capacity): (usize, usize) = self.0.ask(size::<T>, &())?;
                Ok(Some(capacity).filter(|item| *item < usize::MAX))
            }

            /// Closes the queue for all processes. No more items can be put; the remaining items
            /// can be taken.
            pub fn close(&self) -> Result<()> {
                self.0.ask(close::<T>, &())
            }
        }
    };
}

queue_proxy!(QueueProxy);
queue_proxy!(JoinableQueueProxy);

impl<T: Wire + Send + 'static> JoinableQueueProxy<T> {
    /// Marks one taken item as done.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if called more often than items were put.
    /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited.
    pub fn task_done(&self) -> Result<()> {
        self.0.ask(task_done::<T>, &())
    }

    /// Blocks until all items that were put are done.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited.
    pub fn join(&self) -> Result<()> {
        self.0.ask(join::<T>, &WaitLimit::Forever)
    }

    /// Like [`join`](Self::join), but blocks for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if items are still unfinished; else fails like
    /// [`join`](Self::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<()> {
        self.0.ask(join::<T>, &WaitLimit::AtMost(limit))
    }
}

/// Sends the limit, then the item, which may be bytes.
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
