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
    /// A list in a manager's server, made by [`Manager::list`](crate::Manager::list).
    ///
    /// Its methods are those of `Vec`, each one message there and back and none in the middle of
    /// another; what none of them does, a function sent with [`call`](Self::call) does. Clones, and
    /// copies that were sent elsewhere, mean the same list. It may hold proxies.
    ///
    /// Items that take up no bytes, `()` say, can be copied or taken out together only up to four
    /// million: more are taken for a lie about their number.
    ///
    /// Every method blocks while a function that was sent with `call` runs on this list. Its errors
    /// are those of [`Proxy::call`](crate::Proxy::call).
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
    /// As [`Proxy::call`](crate::Proxy::call), here and in all other methods.
    pub fn push(&self, item: T) -> Result<()> {
        self.0.apply(Vec::<T>::push, &item)
    }

    /// A copy of an item; none behind the end.
    pub fn get(&self, index: usize) -> Result<Option<T>> {
        item(&self.0, index)
    }

    /// A copy of the first item.
    pub fn first(&self) -> Result<Option<T>> {
        self.get(0)
    }

    /// A copy of the last item.
    pub fn last(&self) -> Result<Option<T>> {
        call_option(&self.0, last::<T>, 0)
    }

    /// Replaces an item.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) behind the end.
    pub fn set(&self, index: usize, item: T) -> Result<()> {
        let replace = |list: &mut Vec<T>, placed| replace(list, placed);
        let replaced = self.0.apply(replace, &IndexedItem { index, item })?;
        replaced.map_err(|len| err_out_of_range(index, len))
    }

    /// Puts an item before the one at `index`, or at the end.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) behind the end.
    pub fn insert(&self, index: usize, item: T) -> Result<()> {
        let inserted = self.0.apply(insert::<T>, &IndexedItem { index, item })?;
        inserted.map_err(|len| err_out_of_range(index, len))
    }

    /// Takes an item out.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) behind the end.
    pub fn remove(&self, index: usize) -> Result<T> {
        let removed = call_option(&self.0, remove::<T>, index)?;
        removed.ok_or_else(|| err_out_of_range(index, "fewer"))
    }

    /// Takes an item out, and puts the last in its place.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) behind the end.
    pub fn swap_remove(&self, index: usize) -> Result<T> {
        let removed = call_option(&self.0, swap_remove::<T>, index)?;
        removed.ok_or_else(|| err_out_of_range(index, "fewer"))
    }

    /// Takes the last item out.
    pub fn pop(&self) -> Result<Option<T>> {
        call_option(&self.0, pop::<T>, 0)
    }

    /// How many items there are.
    pub fn len(&self) -> Result<usize> {
        self.0.apply(|list: &mut Vec<T>, ()| list.len(), &())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Turns the order around.
    pub fn reverse(&self) -> Result<()> {
        self.0.apply(|list: &mut Vec<T>, ()| list.reverse(), &())
    }

    /// Sorts; equal items keep their order.
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

    /// Copies of all items, in one message.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.0.ask(copy::<Vec<T>>, &())
    }

    /// Copies of the items in a range, of which what lies behind the end is left out; a range that
    /// ends before it starts has none.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>> {
        items(&self.0, range)
    }

    /// Takes the items in a range out, of which what lies behind the end is left out.
    pub fn drain(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>> {
        self.splice(range, [])
    }

    /// Takes the items in a range out, of which what lies behind the end is left out, and puts
    /// others in their place.
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

    /// Takes out the first item that is like this one; whether there was one.
    pub fn remove_item(&self, item: &T) -> Result<bool>
    where
        T: PartialEq,
    {
        let remove = |list: &mut Vec<T>, item: T| {
            let index = list.iter().position(|it| *it == item);
            index.map(|it| drop(list.remove(it))).is_some()
        };
        self.0.apply(remove, item)
    }

    /// Drops all but the first of several items in a row that are the same.
    pub fn dedup(&self) -> Result<()>
    where
        T: PartialEq,
    {
        self.0.apply(|list: &mut Vec<T>, ()| list.dedup(), &())
    }

    /// Takes all items out.
    pub fn take(&self) -> Result<Vec<T>> {
        self.0
            .apply(|list: &mut Vec<T>, ()| std::mem::take(list), &())
    }

    /// Whether an item is there.
    pub fn contains(&self, item: &T) -> Result<bool>
    where
        T: PartialEq,
    {
        Ok(self.position(item)?.is_some())
    }

    /// The index of the first such item.
    pub fn position(&self, item: &T) -> Result<Option<usize>>
    where
        T: PartialEq,
    {
        let find = |list: &mut Vec<T>, item: T| list.iter().position(|it| *it == item);
        self.0.apply(find, item)
    }

    /// How many such items there are.
    pub fn count(&self, item: &T) -> Result<usize>
    where
        T: PartialEq,
    {
        let count = |list: &mut Vec<T>, item: T| list.iter().filter(|it| **it == item).count();
        self.0.apply(count, item)
    }

    /// Swaps two items.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) behind the end.
    pub fn swap(&self, a: usize, b: usize) -> Result<()> {
        let swap = |list: &mut Vec<T>, places| swap(list, places);
        let swapped = self.0.apply(swap, &(a, b))?;
        swapped.map_err(|len| err_out_of_range(a.max(b), len))
    }

    /// Drops what is behind the first `len` items.
    pub fn truncate(&self, len: usize) -> Result<()> {
        self.0.apply(Vec::<T>::truncate, &len)
    }

    /// Drops all items.
    pub fn clear(&self) -> Result<()> {
        self.0.apply(|list: &mut Vec<T>, ()| list.clear(), &())
    }

    /// Calls a function on the whole list, in the server, while nobody else uses it: for all that
    /// takes a function, as `retain` and `sort_by_key` do, and for several steps at once.
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let list = manager.list::<i32>()?;
    /// list.extend(0..10)?;
    /// list.call(|list, least| list.retain(|it| *it >= least), 8)?;
    /// assert_eq!(list.to_vec()?, [8, 9]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn call<A: Wire, R: Wire>(&self, f: fn(&mut Vec<T>, A) -> R, arg: A) -> Result<R> {
        self.0.apply(f, &arg)
    }
}

/// A copy of an item of a list or an array.
pub(in crate::manager) fn item<T: Wire + Send + 'static>(
    reference: &Reference,
    index: usize,
) -> Result<Option<T>> {
    call_option(reference, get::<T>, index)
}

/// Copies of some items of a list or an array.
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

/// An item and where it goes.
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

/// Makes one without items.
pub(in crate::manager) fn create<T: Wire + Send + 'static>(
    server: &Server,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    server.create(Guarded::new(Vec::<T>::new()), call)
}

fn get<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let index: usize = call.decode()?;
    list.with(|it| encode_option(it.get(index), call))?
}

fn last<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    list.with(|it| encode_option(it.last(), call))?
}

fn pop<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let item = list.with(Vec::pop)?;
    encode_option(item.as_ref(), call)
}

fn remove<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let index: usize = call.decode()?;
    let item = list.with(|it| (index < it.len()).then(|| it.remove(index)))?;
    encode_option(item.as_ref(), call)
}

fn swap_remove<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let index: usize = call.decode()?;
    let item = list.with(|it| (index < it.len()).then(|| it.swap_remove(index)))?;
    encode_option(item.as_ref(), call)
}

fn slice<T: Wire + Send>(list: &ServerList<T>, call: &mut Invocation<'_>) -> HandlerResult {
    let (start, end): (usize, usize) = call.decode()?;
    list.with(|it| call.encode_slice(&it[clamp_range(it, start, end)]))?
}

/// As much of a range as lies in a list.
fn clamp_range<T>(list: &[T], start: usize, end: usize) -> Range<usize> {
    let end = end.min(list.len());
    start.min(end)..end
}

/// A range as its first index and the first behind it.
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
    let message = format!("there is no place {index} in a list with {len} items");
    Error::new(ErrorKind::InvalidInput, message)
}
