//! What the queues have in common: being handles, and the methods of `Queue` and `JoinableQueue`.

/// What makes a handle of a type that holds its items.
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

/// The methods that `Queue` and `JoinableQueue` have in common.
macro_rules! queue {
    ($Queue:ident) => {
        impl<T: Wire> $Queue<T> {
            /// Makes a queue in which at most `capacity` items wait at a time. It costs a
            /// descriptor and a page of memory.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a capacity of 0;
            /// [`ErrorKind::Io`](crate::ErrorKind::Io) when this process has no room for the queue.
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

            /// Makes a queue in which any number of items can wait. It costs a descriptor and a
            /// page of memory.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Io`](crate::ErrorKind::Io) when this process has no room for it.
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

            /// Puts an item behind the others; waits while a bounded queue is full.
            ///
            /// The item is encoded first. If this process dies in the call, the item is there as a
            /// whole or not at all.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Disconnected`](crate::ErrorKind::Disconnected) when the queue is
            /// closed, or lost because something else has written to its memory,
            /// [`ErrorKind::Codec`](crate::ErrorKind::Codec) when the item cannot be encoded,
            /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when there is a handle in
            /// it, a connection say: they cannot lie in memory.
            /// [`ErrorKind::Io`](crate::ErrorKind::Io) when this process cannot map memory for it.
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

            /// As [`put`](Self::put), without waiting.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Full`](crate::ErrorKind::Full) when there is no room; also, after a
            /// tenth of a second, if another process was stopped while it copied an item.
            pub fn try_put(&self, item: &T) -> Result<()> {
                self.0.put(item, Limit::None)
            }

            /// As [`put`](Self::put), waiting so long at the most.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when there was no room in time.
            pub fn put_timeout(&self, item: &T, limit: Duration) -> Result<()> {
                self.0.put(item, Limit::after(limit))
            }

            /// Puts items one behind the other, as many at once as there is room for: if none has
            /// to wait, nobody else's come between them, and all are there or none, also if this
            /// process dies.
            ///
            /// # Errors
            ///
            /// Those of [`put`](Self::put). Nothing was put if an item cannot be encoded; if the
            /// queue is closed while this waits for room, the first ones were.
            pub fn put_many(&self, items: &[T]) -> Result<()> {
                self.0.put_many(items, Limit::ENDLESS)
            }

            /// Takes the first item; waits while there is none.
            ///
            /// It is decoded after it was taken. If this process dies in the call, the item is
            /// still there, or it is gone.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Disconnected`](crate::ErrorKind::Disconnected) when the queue is closed
            /// and nothing is left in it, or lost as in [`put`](Self::put);
            /// [`ErrorKind::Codec`](crate::ErrorKind::Codec) when the item, which is gone then,
            /// cannot be decoded.
            #[inline]
            pub fn get(&self) -> Result<T> {
                self.0.get(Limit::ENDLESS)
            }

            /// As [`get`](Self::get), without waiting.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Empty`](crate::ErrorKind::Empty) when no item is there; also, after a
            /// tenth of a second, if another process was stopped while it copied one.
            pub fn try_get(&self) -> Result<T> {
                self.0.get(Limit::None)
            }

            /// As [`get`](Self::get), waiting so long at the most.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when no item has come in time.
            pub fn get_timeout(&self, limit: Duration) -> Result<T> {
                self.0.get(Limit::after(limit))
            }

            /// Waits for an item, then takes what is there: `most` at the most, at once. None only
            /// if `most` is 0.
            ///
            /// # Errors
            ///
            /// Those of [`get`](Self::get). If an item cannot be decoded, those before it are
            /// returned, the error is that of this handle's next call, and those behind it come
            /// after that.
            pub fn get_many(&self, most: usize) -> Result<Vec<T>> {
                self.0.get_many(most, Limit::ENDLESS)
            }

            /// How many items wait. Others may put and take some at any time.
            #[must_use]
            pub fn len(&self) -> usize {
                self.0.ring().len()
            }

            /// Whether no item waits.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Whether no item can be put now; never so without a bound.
            #[must_use]
            pub fn is_full(&self) -> bool {
                self.capacity() == Some(self.len())
            }

            /// How many items can wait at a time; none is any number.
            #[must_use]
            pub fn capacity(&self) -> Option<usize> {
                self.0.ring().capacity()
            }

            /// Closes the queue for all processes: no item can be put any more, and whoever takes
            /// the last one finds it disconnected then. Everybody who waits is told. Closing it
            /// again does nothing.
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
