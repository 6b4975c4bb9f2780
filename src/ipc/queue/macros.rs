//! Code that the queues share: handle traits, and the methods of `Queue` and `JoinableQueue`.

/// Implements the traits of a handle for a queue type.
macro_rules! handle {
    ($Queue:ident) => {
        impl<T> Clone for $Queue<T> {
            fn clone(&self) -> Self {
                Self(self.0.clone())
            }
        }

        impl<T> std::fmt::Debug for $Queue<T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(stringify!($Queue), f)
            }
        }

        impl<T> serde::Serialize for $Queue<T> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(ObjectKind::$Queue, serializer)
            }
        }

        impl<'de, T> serde::Deserialize<'de> for $Queue<T> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                TypedRing::deserialize(ObjectKind::$Queue, deserializer).map(Self)
            }
        }
    };
}
pub(super) use handle;

/// Implements the methods that `Queue` and `JoinableQueue` share.
macro_rules! queue {
    ($Queue:ident) => {
        impl<T: Wire> $Queue<T> {
            /// Creates a queue that holds at most `capacity` items. It uses a descriptor and a page
            /// of memory.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if `capacity` is 0;
            /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the memory or the descriptor cannot be
            /// created.
            ///
            /// # Examples
            ///
            /// ```
            #[doc = concat!("let queue = procpool::", stringify!($Queue), "::bounded(1)?;")]
            /// queue.put(&1)?;
            /// assert_eq!(queue.try_put(&2).unwrap_err().kind(), procpool::ErrorKind::Full);
            /// assert_eq!(queue.get()?, 1);
            /// # Ok::<(), procpool::Error>(())
            /// ```
            pub fn bounded(capacity: usize) -> Result<Self> {
                TypedRing::create(ObjectKind::$Queue, Some(capacity)).map(Self)
            }

            /// Creates a queue that holds any number of items. It uses a descriptor and a page of
            /// memory.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the memory or the descriptor cannot be
            /// created.
            ///
            /// # Examples
            ///
            /// ```
            #[doc = concat!("let queue = procpool::", stringify!($Queue), "::unbounded()?;")]
            /// queue.put_many(&(0..1000).collect::<Vec<u32>>())?;
            /// assert_eq!((queue.get()?, queue.len()), (0, 999));
            /// # Ok::<(), procpool::Error>(())
            /// ```
            pub fn unbounded() -> Result<Self> {
                TypedRing::create(ObjectKind::$Queue, None).map(Self)
            }

            /// Puts an item at the end of the queue. Blocks while a bounded queue is full.
            ///
            /// The item is encoded first. If this process dies during the call, the whole item is
            /// in the queue, or nothing of it.
            ///
            /// # Errors
            ///
            /// - [`ErrorKind::Disconnected`](crate::ErrorKind::Disconnected) if the queue is
            ///   closed, or unusable because something else has written to its memory.
            /// - [`ErrorKind::Codec`](crate::ErrorKind::Codec) if the item cannot be encoded.
            /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the item contains a
            ///   handle, for example a connection: memory cannot hold descriptors.
            /// - [`ErrorKind::Io`](crate::ErrorKind::Io) if this process cannot map memory for the
            ///   item.
            ///
            /// # Examples
            ///
            /// ```
            #[doc = concat!("let queue = procpool::", stringify!($Queue), "::unbounded()?;")]
            /// queue.put(&("any", vec![1.5, 2.5]).1)?;
            /// assert_eq!(queue.get()?, [1.5, 2.5]);
            /// # Ok::<(), procpool::Error>(())
            /// ```
            #[inline]
            pub fn put(&self, item: &T) -> Result<()> {
                self.0.put(item, Limit::ENDLESS)
            }

            /// Like [`put`](Self::put), but does not wait for room.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Full`](crate::ErrorKind::Full) if the queue is full, or if another
            /// process has kept the queue locked for 100 ms, which means that it is stopped.
            /// Otherwise like [`put`](Self::put).
            pub fn try_put(&self, item: &T) -> Result<()> {
                self.0.put(item, Limit::None)
            }

            /// Like [`put`](Self::put), but waits for at most `limit`.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) if the queue stays full.
            /// Otherwise like [`put`](Self::put).
            pub fn put_timeout(&self, item: &T, limit: Duration) -> Result<()> {
                self.0.put(item, Limit::after(limit))
            }

            /// Puts items in order, as many at once as there is room for. If there is room for all
            /// of them, no other items come between them, and either all of them or none are in the
            /// queue, even if this process dies.
            ///
            /// # Errors
            ///
            /// Like [`put`](Self::put). If an item cannot be encoded, no item was put. If the queue
            /// is closed during a wait for room, the first items were put.
            pub fn put_many(&self, items: &[T]) -> Result<()> {
                self.0.put_many(items, Limit::ENDLESS)
            }

            /// Takes the first item. Blocks while the queue is empty.
            ///
            /// The item is decoded after it is taken. If this process dies during the call, the
            /// item is still in the queue, or lost.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Disconnected`](crate::ErrorKind::Disconnected) if the queue is closed
            /// and empty, or unusable as described for [`put`](Self::put);
            /// [`ErrorKind::Codec`](crate::ErrorKind::Codec) if the item cannot be decoded. The
            /// item is lost then.
            #[inline]
            pub fn get(&self) -> Result<T> {
                self.0.get(Limit::ENDLESS)
            }

            /// Like [`get`](Self::get), but does not wait for an item.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Empty`](crate::ErrorKind::Empty) if the queue is empty, or if another
            /// process has kept it locked for 100 ms, which means that it is stopped. Otherwise
            /// like [`get`](Self::get).
            pub fn try_get(&self) -> Result<T> {
                self.0.get(Limit::None)
            }

            /// Like [`get`](Self::get), but waits for at most `limit`.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) if no item arrives in time.
            /// Otherwise like [`get`](Self::get).
            pub fn get_timeout(&self, limit: Duration) -> Result<T> {
                self.0.get(Limit::after(limit))
            }

            /// Waits for an item, then takes all available items at once, at most `most`. Returns
            /// an empty vector only if `most` is 0.
            ///
            /// # Errors
            ///
            /// Like [`get`](Self::get). If an item cannot be decoded, the items before it are
            /// returned, the next call of this handle fails, and later calls return the items after
            /// it.
            pub fn get_many(&self, most: usize) -> Result<Vec<T>> {
                self.0.get_many(most, Limit::ENDLESS)
            }

            /// Returns the number of items. Other processes may change it at any time.
            #[must_use]
            pub fn len(&self) -> usize {
                self.0.ring().len()
            }

            /// Whether the queue is empty.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Whether the queue is full; always false for an unbounded one.
            #[must_use]
            pub fn is_full(&self) -> bool {
                self.capacity() == Some(self.len())
            }

            /// Returns the maximum number of items; `None` for an unbounded queue.
            #[must_use]
            pub fn capacity(&self) -> Option<usize> {
                self.0.ring().capacity()
            }

            /// Closes the queue for all processes and wakes all waiters. No item can be put any
            /// more. The remaining items can be taken; after them, taking fails with
            /// `Disconnected`. Closing twice does nothing.
            ///
            /// # Examples
            ///
            /// ```
            /// use procpool::ErrorKind::Disconnected;
            ///
            #[doc = concat!("let queue = procpool::", stringify!($Queue), "::unbounded()?;")]
            /// queue.put(&'a')?;
            /// queue.close();
            /// assert_eq!(queue.put(&'b').unwrap_err().kind(), Disconnected);
            /// assert_eq!(queue.get()?, 'a');
            /// assert_eq!(queue.get().unwrap_err().kind(), Disconnected);
            /// # Ok::<(), procpool::Error>(())
            /// ```
            pub fn close(&self) {
                self.0.ring().close();
            }
        }
    };
}
pub(super) use queue;
