//! The queue that only puts and gets.

use super::macros::handle;
use super::ring::Limit;
use super::typed_ring::TypedRing;
use crate::error::Result;
use crate::shm::ObjectKind;
use crate::wire::Wire;

/// An unbounded first-in, first-out queue that any number of processes share: like
/// [`Queue`](crate::Queue), with only the basic methods.
pub struct SimpleQueue<T>(TypedRing<T>);

handle!(SimpleQueue);

impl<T: Wire> SimpleQueue<T> {
    /// Creates a queue. It uses a descriptor and a page of memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the memory or the descriptor cannot be created.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Process, SimpleQueue};
    ///
    /// let queue = SimpleQueue::new()?;
    /// let greet = |queue: SimpleQueue<String>| queue.put(&"hello".to_owned()).is_ok();
    /// let child = Process::start(greet, queue.clone())?;
    /// assert_eq!(queue.get()?, "hello");
    /// assert!(child.result()? && queue.is_empty());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn new() -> Result<Self> {
        TypedRing::create(ObjectKind::SimpleQueue, None).map(Self)
    }

    /// Puts an item, like [`Queue::put`](crate::Queue::put). Never waits for room.
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn put(&self, item: &T) -> Result<()> {
        self.0.put(item, Limit::ENDLESS)
    }

    /// Takes an item, like [`Queue::get`](crate::Queue::get).
    ///
    /// # Errors
    ///
    /// The same as there.
    pub fn get(&self) -> Result<T> {
        self.0.get(Limit::ENDLESS)
    }

    /// Whether the queue is empty. Other processes may put items at any time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.ring().len() == 0
    }
}
