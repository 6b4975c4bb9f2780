//! Plain data behind a lock: a value, an array.

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

/// A value in shared memory, which is touched with its lock held alone.
///
/// Its type is plain data ([`Pod`]): a process may be killed in the middle of a change, and what it
/// leaves is a value still. Then the next taker is told, once, as by [`Lock`](crate::Lock). Derive
/// `Pod` for structs of your own with the `bytemuck` crate and its feature `derive`.
///
/// No copy of the process is made (`StartMethod::Fork`, [`fork_map`](crate::fork_map)) while it
/// holds a guard, or has leaked one whose handle lives: the copy would have the guard's references,
/// too.
///
/// A thread must not end with a guard that was leaked (`mem::forget`) while its handle lives: what
/// the guard gave out might be in use, so that nobody gets the value again.
///
/// # Examples
///
/// ```
/// use procpool::{Process, Value};
///
/// let counter = Value::new(0u64)?;
/// let add = |counter: Value<u64>| (0..100).for_each(|_| *counter.lock().expect("nobody died") += 1);
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

/// Items in shared memory, as many as at first, which are touched with their lock held alone.
///
/// In everything else as [`Value`].
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

/// Holds a [`Value`] until it is dropped.
///
/// # Panics
///
/// When it is looked into in a copy of the process that holds the value.
#[must_use = "dropping a guard lets its lock go"]
#[derive(Debug)]
pub struct ValueGuard<'a, T>(CellsGuard<'a, T>);

/// Holds an [`Array`] until it is dropped.
///
/// # Panics
///
/// When it is looked into in a copy of the process that holds the array.
#[must_use = "dropping a guard lets its lock go"]
#[derive(Debug)]
pub struct ArrayGuard<'a, T>(CellsGuard<'a, T>);

/// Makes an object of so many items.
fn create<T>(kind: ObjectKind, count: usize) -> Result<Object> {
    let bytes = Cells::<T>::size(Object::BODY, count).ok_or_else(|| {
        let message = format!("{count} items are more than memory can hold");
        Error::new(ErrorKind::InvalidInput, message)
    })?;
    let object = Object::create(kind, fingerprint::<T>(), bytes)?;
    let cells = Cells::<T>::create(object.view().clone(), Object::BODY, kind, count);
    cells.map_err(|it| Error::io(format_args!("failed to create a {kind}"), it))?;
    Ok(object)
}

/// Bytes of an object of so many items.
fn least<T>(count: usize) -> usize {
    Cells::<T>::size(Object::BODY, count).map_or(usize::MAX, |it| Object::BODY + it)
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
                "a thread has ended and left a guard of the {kind} behind, which may be in use"
            );
            Err(Error::new(ErrorKind::OwnerDied, message).into())
        }
    }
}

impl<T: Pod> Value<T> {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] when the system gives no memory or no descriptor.
    pub fn new(value: T) -> Result<Self> {
        let made = create::<T>(Self::KIND, 1).map(Self::of)?;
        made.set(value)?;
        Ok(made)
    }

    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OwnerDied`], with the lock in the error; [`ErrorKind::InvalidInput`] if this
    /// thread holds it already.
    #[inline]
    pub fn lock(&self) -> LockResult<ValueGuard<'_, T>> {
        lock(&self.cells, Self::KIND, ValueGuard)
    }

    /// A copy of the value, for which the lock is waited for.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); the next call is told nothing of a death.
    pub fn get(&self) -> Result<T> {
        Ok(*self.lock()?)
    }

    /// Changes the value, for which the lock is waited for.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and the value is not changed then.
    pub fn set(&self, value: T) -> Result<()> {
        *self.lock()? = value;
        Ok(())
    }
}

impl<T: Pod> Array<T> {
    /// Makes one of so many items, of which all bytes are zero. It may be empty.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] when the system gives no memory or no descriptor;
    /// [`ErrorKind::InvalidInput`] for more items than memory can hold.
    pub fn new(len: usize) -> Result<Self> {
        create::<T>(Self::KIND, len).map(Self::of)
    }

    /// Makes one of copies of these items.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn from_slice(items: &[T]) -> Result<Self> {
        let made = Self::new(items.len())?;
        made.lock()?.copy_from_slice(items);
        Ok(made)
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// As [`Value::lock`].
    #[inline]
    pub fn lock(&self) -> LockResult<ArrayGuard<'_, T>> {
        lock(&self.cells, Self::KIND, ArrayGuard)
    }

    /// A copy of one item, for which the lock is waited for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if there is none with this index; else as [`Value::get`].
    pub fn get(&self, index: usize) -> Result<T> {
        self.check(index)?;
        Ok(self.lock()?[index])
    }

    /// Changes one item, for which the lock is waited for.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and the item is not changed then.
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        self.check(index)?;
        self.lock()?[index] = value;
        Ok(())
    }

    /// A copy of all items, as they are at one moment.
    ///
    /// # Errors
    ///
    /// As [`Value::get`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        Ok(self.lock()?.to_vec())
    }

    fn check(&self, index: usize) -> Result<()> {
        if index < self.len() {
            return Ok(());
        }
        let message = format!("there is no item {index} in an array of {}", self.len());
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
