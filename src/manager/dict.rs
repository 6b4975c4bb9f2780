//! A dict in the server, in the order of insertion.

use super::{
    protocol::{Answer, answer_option, encoded, put_part, take_option, take_part},
    proxy::proxy,
    server::{Guarded, Server},
};
use crate::error::Result;
use crate::process::call::bytes;
use crate::process::function::{Exclusive, Failure, Handler, Invocation, Method, Retain};
use crate::wire::{
    Wire,
    codec::{self, Output, Reason},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

proxy! {
    /// A dict in a manager's server, made by [`Manager::dict`](crate::Manager::dict).
    ///
    /// Its methods are those of `HashMap`, each one message there and back and none in the middle of another. Keys need not
    /// implement `Hash`: two are the same when they are encoded to the same bytes (`0.0` and `-0.0` are not). Items are in the order in
    /// which their keys came. Clones, and copies that were sent elsewhere, mean the same dict. It may hold proxies.
    ///
    /// Its errors are those of [`Proxy::call`](crate::Proxy::call).
    ///
    /// ```
    /// use procpool::{DictProxy, Manager, Process};
    ///
    /// let manager = Manager::start()?;
    /// let words = manager.dict::<String, u64>()?;
    /// words.update(["one", "two"].map(|it| (it.to_owned(), 1)))?;
    /// let count = |words: DictProxy<String, u64>| words.modify(&"two".to_owned(), |count, by| *count += by, 1).is_ok();
    /// assert!(Process::start(count, words.clone())?.result()?);
    /// assert_eq!(words.items()?, [("one".to_owned(), 1), ("two".to_owned(), 2)]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    DictProxy<K, V>
}

type Dict<K, V> = Guarded<Table<K, V>>;

impl<K: Wire + Send + 'static, V: Wire + Send + 'static> DictProxy<K, V> {
    /// Sets the value of a key; what it was before.
    ///
    /// # Errors
    ///
    /// As [`Proxy::call`](crate::Proxy::call), here and in all other methods.
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        self.with_value(insert::<K, V>, &key, &value, take_option)
    }

    /// A copy of the value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.with_key(get::<K, V>, key, take_option)
    }

    /// The value of a key, which is set to this one if it has none.
    pub fn get_or_insert(&self, key: K, value: V) -> Result<V> {
        self.with_value(get_or_insert::<K, V>, &key, &value, |reply| {
            codec::decode(reply)
        })
    }

    /// Takes a key out; what its value was.
    pub fn remove(&self, key: &K) -> Result<Option<V>> {
        self.with_key(remove::<K, V>, key, take_option)
    }

    /// Copies of the values of several keys, in one message.
    pub fn get_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Option<V>>> {
        self.with_keys(get_many::<K, V>, keys)
    }

    /// Takes several keys out, in one message; what their values were.
    pub fn remove_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Option<V>>> {
        self.with_keys(remove_many::<K, V>, keys)
    }

    /// Drops the keys that a function, called in the server with each key and its value, says no to. Nobody else uses the dict
    /// meanwhile. If the function panics, nothing is dropped, but what it has changed stays so.
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let expiry = manager.dict()?;
    /// expiry.update([("a", 10), ("b", 20)].map(|(name, time)| (name.to_owned(), time)))?;
    /// expiry.retain(|_, time, now| *time > *now, 15)?;
    /// assert_eq!(expiry.keys()?, ["b"]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn retain<A: Wire>(&self, f: fn(&K, &mut V, &A) -> bool, arg: A) -> Result<()> {
        self.0.call(
            Method::of_choice::<Dict<K, V>, K, V, A>(f)?,
            |message| codec::encode(&arg, message),
            |reply| codec::decode(reply),
        )
    }

    /// Takes out the key that came first.
    pub fn pop_first(&self) -> Result<Option<(K, V)>> {
        self.0.ask(pop_first::<K, V>, &())
    }

    /// Takes out the key that came last.
    pub fn pop_last(&self) -> Result<Option<(K, V)>> {
        self.0.ask(pop_last::<K, V>, &())
    }

    /// Whether a key is there.
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        self.with_key(contains_key::<K, V>, key, |reply| codec::decode(reply))
    }

    /// Calls a function on the value of a key, in the server, while nobody else uses the dict; none if the key is not there.
    pub fn modify<A: Wire, R: Wire>(
        &self,
        key: &K,
        f: fn(&mut V, A) -> R,
        arg: A,
    ) -> Result<Option<R>> {
        let method = Method::of_user::<RefCell<V>, V, A, R>(f)?;
        self.0.call(
            Method::handler(modify::<K, V>)?,
            |message| {
                put_part(&encoded(key)?, message);
                message.put(&method.to_bytes());
                codec::encode(&arg, message)
            },
            take_option,
        )
    }

    /// How many keys there are.
    pub fn len(&self) -> Result<usize> {
        self.0.ask(len::<K, V>, &())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Copies of all keys, in one message.
    pub fn keys(&self) -> Result<Vec<K>> {
        self.0.ask(keys::<K, V>, &())
    }

    /// Copies of all values, in one message.
    pub fn values(&self) -> Result<Vec<V>> {
        self.0.ask(values::<K, V>, &())
    }

    /// Copies of all keys and values, in one message.
    pub fn items(&self) -> Result<Vec<(K, V)>> {
        self.0.ask(items::<K, V>, &())
    }

    /// Takes everything out.
    pub fn take(&self) -> Result<Vec<(K, V)>> {
        self.0.ask(take::<K, V>, &())
    }

    /// Sets the values of all these keys, in one message.
    pub fn update(&self, items: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        let keyed = |(key, value)| Ok((Key(encoded(&key)?), value));
        self.0.call(
            Method::handler(update::<K, V>)?,
            |message| {
                let items = items.into_iter().map(keyed);
                let items: Vec<(Key, V)> = items.collect::<Result<_, Reason>>()?;
                codec::encode(&items, message)
            },
            |reply| codec::decode(reply),
        )
    }

    /// Drops everything.
    pub fn clear(&self) -> Result<()> {
        self.0.ask(clear::<K, V>, &())
    }

    fn with_keys<'a>(
        &self,
        handler: Handler<Dict<K, V>>,
        keys: impl IntoIterator<Item = &'a K>,
    ) -> Result<Vec<Option<V>>> {
        self.0.call(
            Method::handler(handler)?,
            |message| {
                let keys = keys.into_iter().map(|it| encoded(it).map(Key));
                codec::encode(&keys.collect::<Result<Vec<Key>, Reason>>()?, message)
            },
            |reply| codec::decode(reply),
        )
    }

    fn with_key<R>(
        &self,
        handler: Handler<Dict<K, V>>,
        key: &K,
        decode: impl FnOnce(&mut crate::shm::Cursor<'_>) -> Result<R, Reason>,
    ) -> Result<R> {
        let encode = |message: &mut Vec<u8>| codec::encode(key, message);
        self.0.call(Method::handler(handler)?, encode, decode)
    }

    fn with_value<R>(
        &self,
        handler: Handler<Dict<K, V>>,
        key: &K,
        value: &V,
        decode: impl FnOnce(&mut crate::shm::Cursor<'_>) -> Result<R, Reason>,
    ) -> Result<R> {
        let encode = |message: &mut Vec<u8>| {
            put_part(&encoded(key)?, message);
            codec::encode(value, message)
        };
        self.0.call(Method::handler(handler)?, encode, decode)
    }
}

/// The entries by the order in which their keys came, and where each key is. Taking one out costs the logarithm of how many
/// there are, which a vector of entries in order would not.
pub(super) struct Table<K, V> {
    places: HashMap<Arc<[u8]>, u64>,
    entries: BTreeMap<u64, Entry<K, V>>,
    next: u64,
}

struct Entry<K, V> {
    /// The encoded key.
    bytes: Arc<[u8]>,
    key: K,
    /// In a cell, which a user's function can be given.
    value: RefCell<V>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            entries: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<K: Wire, V> Table<K, V> {
    fn get(&mut self, key: &[u8]) -> Option<&mut V> {
        let entry = self.entries.get_mut(self.places.get(key)?)?;
        Some(entry.value.get_mut())
    }

    fn insert(&mut self, bytes: &[u8], value: V) -> Result<Option<V>, Failure> {
        if let Some(old) = self.get(bytes) {
            return Ok(Some(std::mem::replace(old, value)));
        }
        let key = codec::decode(&mut crate::shm::Cursor::new(bytes)).map_err(Failure::Decode)?;
        let bytes: Arc<[u8]> = bytes.into();
        let entry = Entry {
            bytes: Arc::clone(&bytes),
            key,
            value: RefCell::new(value),
        };
        self.places.insert(bytes, self.next);
        self.entries.insert(self.next, entry);
        self.next += 1;
        Ok(None)
    }

    fn remove(&mut self, key: &[u8]) -> Option<V> {
        let place = self.places.remove(key)?;
        self.entries.remove(&place).map(|it| it.value.into_inner())
    }

    fn without_place(&mut self, entry: Entry<K, V>) -> (K, V) {
        self.places.remove(&entry.bytes);
        (entry.key, entry.value.into_inner())
    }
}

/// An encoded key among others, in one piece: serde's own way is an element at a time.
struct Key(Vec<u8>);

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        bytes::deserialize(from).map(Self)
    }
}

/// The argument is a key.
fn key(call: &mut Invocation<'_>) -> Result<Vec<u8>, Failure> {
    use codec::Input;
    let out_of_memory = || Failure::Decode("out of memory".to_owned());
    call.argument.take_all().ok_or_else(out_of_memory)
}

/// The argument is a key and a value.
fn key_and_value<V: Wire>(call: &mut Invocation<'_>) -> Result<(Vec<u8>, V), Failure> {
    let key = take_part(&mut call.argument).map_err(Failure::Decode)?;
    Ok((key, call.decode()?))
}

/// Makes one without keys.
pub(super) fn create<K, V>(server: &Server, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send + 'static,
    V: Wire + Send + 'static,
{
    server.create(Guarded::new(Table::<K, V>::default()), call)
}

fn insert<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let (key, value) = key_and_value(call)?;
    let before = dict.with(|it| it.insert(&key, value))??;
    answer_option(before.as_ref(), call)
}

fn get<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let key = key(call)?;
    dict.with(|it| answer_option(it.get(&key).map(|it| &*it), call))?
}

fn get_or_insert<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let (key, value) = key_and_value(call)?;
    dict.with(|it| {
        if it.get(&key).is_none() {
            it.insert(&key, value)?;
        }
        let value = it.get(&key).expect("it is there now, if it was not before");
        call.encode(value)
    })?
}

fn remove<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let key = key(call)?;
    let value = dict.with(|it| it.remove(&key))?;
    answer_option(value.as_ref(), call)
}

fn get_many<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let keys: Vec<Key> = call.decode()?;
    dict.with(|it| {
        let value = |key: &Key| Some(&it.entries.get(it.places.get(&*key.0)?)?.value);
        call.encode(&keys.iter().map(value).collect::<Vec<Option<&RefCell<V>>>>())
    })?
}

fn remove_many<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let keys: Vec<Key> = call.decode()?;
    let values = dict.with(|it| keys.iter().map(|key| it.remove(&key.0)).collect())?;
    call.encode::<Vec<Option<V>>>(&values)
}

impl<K: Wire, V> Retain<K, V> for Dict<K, V> {
    fn retain(&self, mut keep: impl FnMut(&K, &mut V) -> bool) -> Result<(), Failure> {
        let dropped: Vec<V> = self.with(|it| {
            let entries = it.entries.values_mut();
            let unwanted = entries.filter_map(|entry| {
                let is_kept = keep(&entry.key, entry.value.get_mut());
                (!is_kept).then(|| Arc::clone(&entry.bytes))
            });
            let unwanted: Vec<_> = unwanted.collect();
            unwanted.iter().filter_map(|key| it.remove(key)).collect()
        })?;
        // The user's, and nobody else's turn is held up by it.
        drop(dropped);
        Ok(())
    }
}

fn pop_first<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let item = dict.with(|it| {
        let (_, entry) = it.entries.pop_first()?;
        Some(it.without_place(entry))
    })?;
    call.encode(&item)
}

fn pop_last<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let item = dict.with(|it| {
        let (_, entry) = it.entries.pop_last()?;
        Some(it.without_place(entry))
    })?;
    call.encode(&item)
}

fn contains_key<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let key = key(call)?;
    let is_there = dict.with(|it| it.places.contains_key(&*key))?;
    call.encode(&is_there)
}

fn modify<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send + 'static,
    V: Wire + Send + 'static,
{
    use codec::Input;
    let key = take_part(&mut call.argument).map_err(Failure::Decode)?;
    let mut method = [0; Method::SIZE];
    if !call.argument.take(&mut method) {
        return Err(Failure::Decode("the message ends too early".to_owned()));
    }
    dict.with(|it| {
        let place = it.places.get(&*key);
        let Some(entry) = place.and_then(|place| it.entries.get(place)) else {
            return answer_option::<()>(None, call);
        };
        answer_option(Some(&()), call)?;
        Method::from_bytes(&method).call(&entry.value, call)
    })?
}

fn len<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let length = dict.with(|it| it.entries.len())?;
    call.encode(&length)
}

fn keys<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    dict.with(|it| call.encode_items(it.entries.values().map(|it| &it.key)))?
}

fn values<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    dict.with(|it| {
        let values = it.entries.values_mut();
        call.encode_items(values.map(|it| &*it.value.get_mut()))
    })?
}

fn items<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    dict.with(|it| {
        let items = it.entries.values_mut();
        let items = items.map(|it| (&it.key, &*it.value.get_mut()));
        call.encode(&items.collect::<Vec<(&K, &V)>>())
    })?
}

fn take<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let table = dict.with(std::mem::take)?;
    let entries = table.entries.into_values();
    let items = entries.map(|it| (it.key, it.value.into_inner()));
    call.encode(&items.collect::<Vec<(K, V)>>())
}

fn update<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    let items: Vec<(Key, V)> = call.decode()?;
    dict.with(|it| {
        for (Key(key), value) in items {
            it.insert(&key, value)?;
        }
        Ok(())
    })?
}

fn clear<K, V>(dict: &Dict<K, V>, _: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send,
    V: Wire + Send,
{
    drop(dict.with(std::mem::take)?);
    Ok(())
}
