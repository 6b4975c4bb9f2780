//! The queue that only puts and gets.

use super::macros::handle;
use super::ring::Limit;
use super::typed_ring::TypedRing;
use crate::error::Result;
use crate::shm::ObjectKind;
use crate::wire::Wire;

/// A first-in, first-out queue without a bound that any number of processes share:
/// [`Queue`](crate::Queue) with nothing but what everybody needs.
pub struct SimpleQueue<T>(TypedRing<T>);

handle!(SimpleQueue);

impl<T: Wire> SimpleQueue<T> {
    /// Makes a queue, which costs a descriptor and a page of memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when this process has no room for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Process, SimpleQueue};
    ///
    /// let queue = SimpleQueue::new()?;
    /// let child = Process::start(|queue: SimpleQueue<String>| queue.put(&"hello".to_owned()).is_ok(), queue.clone())?;
    /// assert_eq!(queue.get()?, "hello");
    /// assert!(child.result()? && queue.is_empty());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn new() -> Result<Self> {
        TypedRing::create(ObjectKind::SimpleQueue, None).map(Self)
    }

    /// As [`Queue::put`](crate::Queue::put), which never waits for room here.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn put(&self, item: &T) -> Result<()> {
        self.0.put(item, Limit::ENDLESS)
    }

    /// As [`Queue::get`](crate::Queue::get).
    ///
    /// # Errors
    ///
    /// The same.
    pub fn get(&self) -> Result<T> {
        self.0.get(Limit::ENDLESS)
    }

    /// Whether no item waits. Others may put one at any time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.ring().len() == 0
    }
}
