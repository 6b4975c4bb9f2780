//! A value and an array in the server.

use crate::error::{Error, ErrorKind, Result};
use crate::manager::proxies::object::{copy, proxy};
use crate::wire::Wire;
use serde::{Deserialize, Serialize};
use std::ops::RangeBounds;

proxy! {
    /// A value in a manager's server, created by [`Manager::value`](crate::Manager::value).
    ///
    /// Methods fail like [`Proxy::call`](crate::Proxy::call).
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let counter = manager.value(1)?;
    /// assert_eq!(counter.call(|it, by| { *it += by; *it }, 2)?, 3);
    /// counter.set(7)?;
    /// assert_eq!(counter.get()?, 7);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ValueProxy<T>
}

impl<T: Wire + Send + 'static> ValueProxy<T> {
    /// Returns a copy of the value.
    ///
    /// # Errors
    ///
    /// Fails like [`Proxy::call`](crate::Proxy::call), as do all other methods.
    pub fn get(&self) -> Result<T> {
        self.0.ask(copy::<T>, &())
    }

    /// Replaces the value.
    pub fn set(&self, value: T) -> Result<()> {
        self.0.apply(|place, value| *place = value, &value)
    }

    /// Replaces the value and returns the previous one.
    pub fn replace(&self, value: T) -> Result<T> {
        self.0
            .apply(|place, value| std::mem::replace(place, value), &value)
    }

    /// Runs `f` on the value in the server, with exclusive access.
    pub fn call<A: Wire, R: Wire>(&self, f: fn(&mut T, A) -> R, arg: A) -> Result<R> {
        self.0.apply(f, &arg)
    }
}

proxy! {
    /// An array of fixed length in a manager's server, created by
    /// [`Manager::array`](crate::Manager::array).
    ///
    /// Methods fail like [`Proxy::call`](crate::Proxy::call).
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let array = manager.array(vec![0; 3])?;
    /// array.set(1, 7)?;
    /// assert_eq!((array.len()?, array.to_vec()?), (3, vec![0, 7, 0]));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ArrayProxy<T>
}

impl<T: Wire + Send + 'static> ArrayProxy<T> {
    /// Returns the number of items.
    ///
    /// # Errors
    ///
    /// Fails like [`Proxy::call`](crate::Proxy::call), as do all other methods.
    pub fn len(&self) -> Result<usize> {
        self.0.apply(|array: &mut Vec<T>, ()| array.len(), &())
    }

    /// Whether the array is empty.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Returns a copy of an item.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `index` is out of bounds.
    pub fn get(&self, index: usize) -> Result<T> {
        let item = super::list::item(&self.0, index)?;
        item.ok_or_else(|| err_out_of_range(index))
    }

    /// Replaces an item.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `index` is out of bounds.
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        let set = |array: &mut Vec<T>, placed| set(array, placed);
        let is_set = self.0.apply(set, &IndexedValue { index, value })?;
        is_set.then_some(()).ok_or_else(|| err_out_of_range(index))
    }

    /// Returns copies of the items in a range, without the part of the range that is out of bounds,
    /// in one message. A range whose end is before its start is empty.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>> {
        super::list::items(&self.0, range)
    }

    /// Replaces the items from `index` on, in one message.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if some items would be out of bounds; no item is
    /// replaced.
    pub fn set_slice(&self, index: usize, values: Vec<T>) -> Result<()> {
        let end = index.saturating_add(values.len());
        let set = |array: &mut Vec<T>, (index, values): (usize, Vec<T>)| {
            let places = array
                .get_mut(index..)
                .and_then(|tail| tail.get_mut(..values.len()));
            let replace = |places: &mut [T]| {
                places
                    .iter_mut()
                    .zip(values)
                    .for_each(|(place, value)| *place = value)
            };
            places.map(replace).is_some()
        };
        let is_set = self.0.apply(set, &(index, values))?;
        is_set
            .then_some(())
            .ok_or_else(|| err_out_of_range(end.saturating_sub(1).max(index)))
    }

    /// Returns copies of all items, in one message.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.0.ask(copy::<Vec<T>>, &())
    }
}

/// An item and its index.
#[derive(Serialize, Deserialize)]
struct IndexedValue<T> {
    index: usize,
    value: T,
}

fn set<T>(array: &mut [T], IndexedValue { index, value }: IndexedValue<T>) -> bool {
    let place = array.get_mut(index);
    place.map(|place| *place = value).is_some()
}

fn err_out_of_range(index: usize) -> Error {
    let message = format!("index {index} is out of bounds for the array");
    Error::new(ErrorKind::InvalidInput, message)
}
