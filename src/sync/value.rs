//! Plain data protected by a lock: a value, an array.

use super::{
    handle::{Handle, handle},
    held::{LockWait, lock_error},
    lock_error::{LockError, LockResult},
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Cells, CellsError, CellsGuard, Object, ObjectKind, fingerprint};
use crate::sys::robust::LockState;
use bytemuck::Pod;
use std::ops::{Deref, DerefMut};

/// A value in shared memory, accessible only under its lock.
///
/// Its type is plain data ([`Pod`]): if a process is killed in the middle of a change, the bytes
/// are still a valid value. The next holder is told of the death, once, like by
/// [`Lock`](crate::Lock). Derive `Pod` for your own structs with the `bytemuck` crate and its
/// `derive` feature.
///
/// This process cannot be forked (`StartMethod::Fork`, [`fork_map`](crate::fork_map)) while it
/// holds a guard, or has leaked one whose handle still exists: the copy would have the guard's
/// references, too.
///
/// A thread must not end with a leaked guard (`mem::forget`) while its handle exists. References
/// from that guard might still be in use, so the value becomes inaccessible to all processes.
///
/// # Examples
///
/// ```
/// use procpool::{Process, Value};
///
/// let counter = Value::new(0u64)?;
/// let add = |counter: Value<u64>| {
///     for _ in 0..100 {
///         *counter.lock().expect("no holder died") += 1;
///     }
/// };
/// let process = Process::start(add, counter.clone())?;
/// add(counter.clone());
/// process.result()?;
/// assert_eq!(counter.get()?, 200);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Value<T> {
    object: Object,
    cells: Cells<T>,
}

/// A fixed number of items in shared memory, accessible only under their lock.
///
/// Otherwise it works like [`Value`].
///
/// # Examples
///
/// ```
/// let array = procpool::Array::from_slice(&[3.0, 1.0, 2.0])?;
/// array.lock()?.sort_by(f64::total_cmp);
/// array.set(0, 10.0)?;
/// assert_eq!(array.to_vec()?, [10.0, 2.0, 3.0]);
/// assert_eq!(array.get(3).unwrap_err().kind(), procpool::ErrorKind::InvalidInput);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Array<T> {
    object: Object,
    cells: Cells<T>,
}

/// Holds the lock of a [`Value`] until it is dropped.
///
/// # Panics
///
/// If it is dereferenced in a forked copy of the process that holds the lock.
#[must_use = "dropping a guard releases its lock"]
#[derive(Debug)]
pub struct ValueGuard<'a, T>(CellsGuard<'a, T>);

/// Holds the lock of an [`Array`] until it is dropped.
///
/// # Panics
///
/// If it is dereferenced in a forked copy of the process that holds the lock.
#[must_use = "dropping a guard releases its lock"]
#[derive(Debug)]
pub struct ArrayGuard<'a, T>(CellsGuard<'a, T>);

/// Creates an object of `count` items.
fn create<T>(kind: ObjectKind, count: usize) -> Result<Object> {
    let bytes = Cells::<T>::size(Object::BODY, count).ok_or_else(|| {
        let message = format!("memory cannot hold {count} items");
        Error::new(ErrorKind::InvalidInput, message)
    })?;
    let object = Object::create(kind, fingerprint::<T>(), bytes)?;
    let cells = Cells::<T>::create(object.view().clone(), Object::BODY, kind, count);
    cells.map_err(|error| Error::io(format_args!("failed to create a {kind}"), error))?;
    Ok(object)
}

/// Returns the length in bytes of an object of `count` items.
fn least<T>(count: usize) -> usize {
    Cells::<T>::size(Object::BODY, count).map_or(usize::MAX, |size| Object::BODY + size)
}

#[inline]
fn lock<'a, T: Pod, G>(
    cells: &'a Cells<T>,
    kind: ObjectKind,
    guard: impl FnOnce(CellsGuard<'a, T>) -> G,
) -> LockResult<G> {
    match cells.lock() {
        Ok((held, LockState::Clean)) => Ok(guard(held)),
        Ok((held, LockState::OwnerDied)) => Err(LockError::owner_died(kind, guard(held))),
        Err(CellsError::Refused(refusal)) => {
            Err(lock_error(refusal, kind, LockWait::Forever).into())
        }
        Err(CellsError::Leaked) => {
            let message = format!(
                "the {kind} is inaccessible: a thread ended with a leaked guard that may be in use"
            );
            Err(Error::new(ErrorKind::OwnerDied, message).into())
        }
    }
}

impl<T: Pod> Value<T> {
    /// Creates a value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the memory or the descriptor cannot be created.
    pub fn new(value: T) -> Result<Self> {
        let made = create::<T>(Self::KIND, 1).map(Self::of)?;
        made.set(value)?;
        Ok(made)
    }

    /// Takes the lock. Blocks until it is free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OwnerDied`], with the lock in the error, if the last holder died;
    /// [`ErrorKind::InvalidInput`] if this thread holds it already.
    #[inline]
    pub fn lock(&self) -> LockResult<ValueGuard<'_, T>> {
        lock(&self.cells, Self::KIND, ValueGuard)
    }

    /// Returns a copy of the value. Blocks until the lock is free.
    ///
    /// # Errors
    ///
    /// Like [`lock`](Self::lock); after `OwnerDied`, the next call succeeds.
    pub fn get(&self) -> Result<T> {
        Ok(*self.lock()?)
    }

    /// Changes the value. Blocks until the lock is free.
    ///
    /// # Errors
    ///
    /// Like [`get`](Self::get). The value is unchanged then.
    pub fn set(&self, value: T) -> Result<()> {
        *self.lock()? = value;
        Ok(())
    }
}

impl<T: Pod> Array<T> {
    /// Creates an array of `len` items whose bytes are all zero. It may be empty.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the memory or the descriptor cannot be created;
    /// [`ErrorKind::InvalidInput`] if memory cannot hold that many items.
    pub fn new(len: usize) -> Result<Self> {
        create::<T>(Self::KIND, len).map(Self::of)
    }

    /// Creates an array with copies of these items.
    ///
    /// # Errors
    ///
    /// Like [`new`](Self::new).
    pub fn from_slice(items: &[T]) -> Result<Self> {
        let made = Self::new(items.len())?;
        made.lock()?.copy_from_slice(items);
        Ok(made)
    }

    /// Returns the number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.count()
    }

    /// Whether there are no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the lock. Blocks until it is free.
    ///
    /// # Errors
    ///
    /// Like [`Value::lock`].
    #[inline]
    pub fn lock(&self) -> LockResult<ArrayGuard<'_, T>> {
        lock(&self.cells, Self::KIND, ArrayGuard)
    }

    /// Returns a copy of one item. Blocks until the lock is free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the index is out of bounds; otherwise like [`Value::get`].
    pub fn get(&self, index: usize) -> Result<T> {
        self.check(index)?;
        Ok(self.lock()?[index])
    }

    /// Changes one item. Blocks until the lock is free.
    ///
    /// # Errors
    ///
    /// Like [`get`](Self::get). The item is unchanged then.
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        self.check(index)?;
        self.lock()?[index] = value;
        Ok(())
    }

    /// Returns a copy of all items, all from the same moment.
    ///
    /// # Errors
    ///
    /// Like [`Value::get`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        Ok(self.lock()?.to_vec())
    }

    fn check(&self, index: usize) -> Result<()> {
        if index < self.len() {
            return Ok(());
        }
        let message = format!(
            "index {index} is out of bounds for an array of length {}",
            self.len()
        );
        Err(Error::new(ErrorKind::InvalidInput, message))
    }
}

impl<T: Pod> Deref for ValueGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0[0]
    }
}

impl<T: Pod> DerefMut for ValueGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0[0]
    }
}

impl<T: Pod> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Pod> DerefMut for ArrayGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> Handle for Value<T> {
    const KIND: ObjectKind = ObjectKind::Value;

    fn least() -> usize {
        least::<T>(1)
    }

    fn fingerprint() -> u64 {
        fingerprint::<T>()
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn of(object: Object) -> Self {
        let cells = Cells::open(object.view().clone(), Object::BODY, Self::KIND);
        Self { object, cells }
    }
}

impl<T> Handle for Array<T> {
    const KIND: ObjectKind = ObjectKind::Array;

    fn least() -> usize {
        least::<T>(0)
    }

    fn fingerprint() -> u64 {
        fingerprint::<T>()
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn of(object: Object) -> Self {
        let cells = Cells::open(object.view().clone(), Object::BODY, Self::KIND);
        Self { object, cells }
    }
}

handle!(Value<T>);
handle!(Array<T>);
