//! A list in the server.

use crate::error::{Error, ErrorKind, Result};
use crate::manager::{
    client::reference::Reference,
    protocol::{HandlerResult, decode_option, encode_option},
    proxies::object::{copy, proxy},
    server::{Guarded, Server},
};
use crate::process::function::{Exclusive, Invocation, MethodHandler, WireMethod};
use crate::wire::{Wire, codec};
use std::ops::{Bound, Range, RangeBounds};

proxy! {
    /// A list in a manager's server, created by [`Manager::list`](crate::Manager::list).
    ///
    /// Its methods are those of `Vec`. Each sends one message, waits for the reply, and is atomic.
    /// For other operations, send a function with [`call`](Self::call). Clones and copies in other
    /// processes refer to the same list. The list may hold proxies.
    ///
    /// Items that encode to zero bytes, such as `()`, can be copied or removed together only up to
    /// four million: a higher count is treated as a corrupt message.
    ///
    /// Every method blocks while a function that was sent with `call` runs on this list. Methods
    /// fail like [`Proxy::call`](crate::Proxy::call).
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let list = manager.list()?;
    /// list.extend([3, 1, 2])?;
    /// list.sort()?;
    /// assert_eq!((list.pop()?, list.to_vec()?), (Some(3), vec![1, 2]));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ListProxy<T>
}

type ServerList<T> = Guarded<Vec<T>>;

impl<T: Wire + Send + 'static> ListProxy<T> {
    /// Appends an item.
    ///
    /// # Errors
    ///
    /// Fails like [`Proxy::call`](crate::Proxy::call), as do all other methods.
    pub fn push(&self, item: T) -> Result<()> {
        self.0.apply(Vec::<T>::push, &item)
    }

    /// Returns a copy of an item, or `None` if `index` is out of bounds.
    pub fn get(&self, index: usize) -> Result<Option<T>> {
        item(&self.0, index)
    }

    /// Returns a copy of the first item.
    pub fn first(&self) -> Result<Option<T>> {
        self.get(0)
    }

    /// Returns a copy of the last item.
    pub fn last(&self) -> Result<Option<T>> {
        call_option(&self.0, last::<T>, 0)
    }

    /// Replaces an item.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `index` is out of bounds.
    pub fn set(&self, index: usize, item: T) -> Result<()> {
        let replace = |list: &mut Vec<T>, placed| replace(list, placed);
        let replaced = self.0.apply(replace, &IndexedItem { index, item })?;
        replaced.map_err(|len| err_out_of_range(index, len))
    }

    /// Inserts an item before the one at `index`, or at the end.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `index` is greater than the length.
    pub fn insert(&self, index: usize, item: T) -> Result<()> {
        let inserted = self.0.apply(insert::<T>, &IndexedItem { index, item })?;
        inserted.map_err(|len| err_out_of_range(index, len))
    }

    /// Removes and returns an item.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `index` is out of bounds.
    pub fn remove(&self, index: usize) -> Result<T> {
        let removed = call_option(&self.0, remove::<T>, index)?;
        removed.ok_or_else(|| err_out_of_range(index, "fewer"))
    }

    /// Removes and returns an item, and moves the last item to its place.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `index` is out of bounds.
    pub fn swap_remove(&self, index: usize) -> Result<T> {
        let removed = call_option(&self.0, swap_remove::<T>, index)?;
        removed.ok_or_else(|| err_out_of_range(index, "fewer"))
    }

    /// Removes and returns the last item.
    pub fn pop(&self) -> Result<Option<T>> {
        call_option(&self.0, pop::<T>, 0)
    }

    /// Returns the number of items.
    pub fn len(&self) -> Result<usize> {
        self.0.apply(|list: &mut Vec<T>, ()| list.len(), &())
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reverses the order of the items.
    pub fn reverse(&self) -> Result<()> {
        self.0.apply(|list: &mut Vec<T>, ()| list.reverse(), &())
    }

    /// Sorts the items; equal items keep their order.
    pub fn sort(&self) -> Result<()>
    where
        T: Ord,
    {
        self.0.apply(|list: &mut Vec<T>, ()| list.sort(), &())
    }

    /// Appends all items, in one message.
    pub fn extend(&self, items: impl IntoIterator<Item = T>) -> Result<()> {
        let items: Vec<T> = items.into_iter().collect();
        self.0.apply(
            |list: &mut Vec<T>, items: Vec<T>| list.extend(items),
            &items,
        )
    }

    /// Returns copies of all items, in one message.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.0.ask(copy::<Vec<T>>, &())
    }

    /// Returns copies of the items in a range, without the part of the range that is out of bounds.
    /// A range whose end is before its start is empty.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>> {
        items(&self.0, range)
    }

    /// Removes and returns the items in a range, without the part of the range that is out of
    /// bounds.
    pub fn drain(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>> {
        self.splice(range, [])
    }

    /// Removes and returns the items in a range, like [`drain`](Self::drain), and inserts `items`
    /// in their place.
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let list = manager.list()?;
    /// list.extend([1, 2, 3, 4])?;
    /// assert_eq!(list.splice(1..3, [7, 8, 9])?, [2, 3]);
    /// assert_eq!(list.to_vec()?, [1, 7, 8, 9, 4]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn splice(
        &self,
        range: impl RangeBounds<usize>,
        items: impl IntoIterator<Item = T>,
    ) -> Result<Vec<T>> {
        let (start, end) = index_bounds(range);
        let items: Vec<T> = items.into_iter().collect();
        let splice = |list: &mut Vec<T>, (start, end, items): (usize, usize, Vec<T>)| {
            list.splice(clamp_range(list, start, end), items).collect()
        };
        self.0.apply(splice, &(start, end, items))
    }

    /// Removes the first item that is equal to `item`. Returns whether there was one.
    pub fn remove_item(&self, item: &T) -> Result<bool>
    where
        T: PartialEq,
    {
        let remove = |list: &mut Vec<T>, item: T| {
            let index = list.iter().position(|other| *other == item);
            index.map(|index| drop(list.remove(index))).is_some()
        };
        self.0.apply(remove, item)
    }

    /// Removes consecutive equal items except the first of each run.
    pub fn dedup(&self) -> Result<()>
    where
        T: PartialEq,
    {
        self.0.apply(|list: &mut Vec<T>, ()| list.dedup(), &())
    }

    /// Removes and returns all items.
    pub fn take(&self) -> Result<Vec<T>> {
        self.0
            .apply(|list: &mut Vec<T>, ()| std::mem::take(list), &())
    }

    /// Whether the list has an item that is equal to `item`.
    pub fn contains(&self, item: &T) -> Result<bool>
    where
        T: PartialEq,
    {
        Ok(self.position(item)?.is_some())
    }

    /// Returns the index of the first item that is equal to `item`.
    pub fn position(&self, item: &T) -> Result<Option<usize>>
    where
        T: PartialEq,
    {
        let find = |list: &mut Vec<T>, item: T| list.iter().position(|other| *other == item);
        self.0.apply(find, item)
    }

    /// Returns the number of items that are equal to `item`.
    pub fn count(&self, item: &T) -> Result<usize>
    where
        T: PartialEq,
    {
        let count = |list: &mut Vec<T>, item: T| {
            let equal = list.iter().filter(|other| **other == item);
            equal.count()
        };
        self.0.apply(count, item)
    }

    /// Swaps two items.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if an index is out of bounds.
    pub fn swap(&self, a: usize, b: usize) -> Result<()> {
        let swap = |list: &mut Vec<T>, places| swap(list, places);
        let swapped = self.0.apply(swap, &(a, b))?;
        swapped.map_err(|len| err_out_of_range(a.max(b), len))
    }

    /// Removes all items after the first `len`.
    pub fn truncate(&self, len: usize) -> Result<()> {
        self.0.apply(Vec::<T>::truncate, &len)
    }

    /// Removes all items.
    pub fn clear(&self) -> Result<()> {
        self.0.apply(|list: &mut Vec<T>, ()| list.clear(), &())
    }

    /// Runs `f` on the whole list in the server, with exclusive access. Use it for operations that
    /// take a function, like `retain` and `sort_by_key`, and for several steps at once.
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let list = manager.list::<i32>()?;
    /// list.extend(0..10)?;
    /// list.call(|list, least| list.retain(|number| *number >= least), 8)?;
    /// assert_eq!(list.to_vec()?, [8, 9]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn call<A: Wire, R: Wire>(&self, f: fn(&mut Vec<T>, A) -> R, arg: A) -> Result<R> {
        self.0.apply(f, &arg)
    }
}

/// Returns a copy of an item of a list or an array.
pub(in crate::manager) fn item<T: Wire + Send + 'static>(
    reference: &Reference,
    index: usize,
) -> Result<Option<T>> {
    call_option(reference, get::<T>, index)
}

/// Returns copies of some items of a list or an array.
pub(in crate::manager) fn items<T: Wire + Send + 'static>(
    reference: &Reference,
    range: impl RangeBounds<usize>,
) -> Result<Vec<T>> {
    reference.ask(slice::<T>, &index_bounds(range))
}

fn call_option<T: Wire + Send + 'static>(
    reference: &Reference,
    handler: MethodHandler<ServerList<T>>,
    index: usize,
) -> Result<Option<T>> {
    reference.call(
        WireMethod::handler(handler)?,
        |message| codec::encode(&index, message),
        decode_option,
    )
}

/// An item and its index.
#[derive(serde::Serialize, serde::Deserialize)]
struct IndexedItem<T> {
    index: usize,
    item: T,
}

fn replace<T>(list: &mut [T], IndexedItem { index, item }: IndexedItem<T>) -> Result<(), usize> {
    let len = list.len();
    *list.get_mut(index).ok_or(len)? = item;
    Ok(())
}

fn insert<T>(list: &mut Vec<T>, IndexedItem { index, item }: IndexedItem<T>) -> Result<(), usize> {
    if index > list.len() {
        return Err(list.len());
    }
    list.insert(index, item);
    Ok(())
}

fn swap<T>(list: &mut [T], (a, b): (usize, usize)) -> Result<(), usize> {
    if a.max(b) >= list.len() {
        return Err(list.len());
    }
    list.swap(a, b);
    Ok(())
}

/// Creates an empty list.
pub(in crate::manager) fn create<T: Wire + Send + 'static>(
    server: &Server,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    server.create(Guarded::new(Vec::<T>::new()), call)
}

fn get<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let index: usize = call.decode()?;
    list.with(|items| encode_option(items.get(index), call))?
}

fn last<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    list.with(|items| encode_option(items.last(), call))?
}

fn pop<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let item = list.with(Vec::pop)?;
    encode_option(item.as_ref(), call)
}

fn remove<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let index: usize = call.decode()?;
    let item = list.with(|items| (index < items.len()).then(|| items.remove(index)))?;
    encode_option(item.as_ref(), call)
}

fn swap_remove<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let index: usize = call.decode()?;
    let item = list.with(|items| (index < items.len()).then(|| items.swap_remove(index)))?;
    encode_option(item.as_ref(), call)
}

fn slice<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let (start, end): (usize, usize) = call.decode()?;
    list.with(|items| call.encode_slice(&items[clamp_range(items, start, end)]))?
}

/// Returns the part of a range that is within the bounds of a list.
fn clamp_range<T>(list: &[T], start: usize, end: usize) -> Range<usize> {
    let end = end.min(list.len());
    start.min(end)..end
}

/// Converts a range to its first index and the index after its last.
fn index_bounds(range: impl RangeBounds<usize>) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => usize::MAX,
    };
    (start, end)
}

fn err_out_of_range(index: usize, len: impl std::fmt::Display) -> Error {
    let message = format!("index {index} is out of bounds for a list with {len} items");
    Error::new(ErrorKind::InvalidInput, message)
}
