//! A dict in the server, in insertion order.

mod handlers;
mod table;

pub(in crate::manager) use handlers::create;

use crate::error::Result;
use crate::manager::{
    protocol::{decode_option, encode_key, put_len_prefixed},
    proxies::object::proxy,
    server::Guarded,
};
use crate::process::function::{MethodHandler, WireMethod};
use crate::shm::Cursor;
use crate::wire::{
    Wire,
    codec::{self, ByteSink, CodecErrorText},
};
use std::cell::RefCell;
use table::{EncodedKey, Table};

proxy! {
    /// A dict in a manager's server, created by [`Manager::dict`](crate::Manager::dict).
    ///
    /// Its methods are those of `HashMap`. Each sends one message, waits for the reply, and is
    /// atomic. Keys need not implement `Hash`: two keys are equal if they encode to the same bytes
    /// (`0.0` and `-0.0` do not). Items are in insertion order. Clones and copies in other
    /// processes refer to the same dict. The dict may hold proxies.
    ///
    /// Methods fail like [`Proxy::call`](crate::Proxy::call).
    ///
    /// ```
    /// use procpool::{DictProxy, Manager, Process};
    ///
    /// let manager = Manager::start()?;
    /// let words = manager.dict::<String, u64>()?;
    /// words.update(["one", "two"].map(|word| (word.to_owned(), 1)))?;
    /// let count = |words: DictProxy<String, u64>| {
    ///     words.modify(&"two".to_owned(), |count, by| *count += by, 1).is_ok()
    /// };
    /// assert!(Process::start(count, words.clone())?.result()?);
    /// assert_eq!(words.items()?, [("one".to_owned(), 1), ("two".to_owned(), 2)]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    DictProxy<K, V>
}

type ServerDict<K, V> = Guarded<Table<K, V>>;

impl<K: Wire + Send + 'static, V: Wire + Send + 'static> DictProxy<K, V> {
    /// Sets the value of a key. Returns its previous value.
    ///
    /// # Errors
    ///
    /// Fails like [`Proxy::call`](crate::Proxy::call), as do all other methods.
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        self.with_value(handlers::insert::<K, V>, &key, &value, decode_option)
    }

    /// Returns a copy of the value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.with_key(handlers::get::<K, V>, key, decode_option)
    }

    /// Returns a copy of the value of a key, after setting it to `value` if the key is missing.
    pub fn get_or_insert(&self, key: K, value: V) -> Result<V> {
        self.with_value(handlers::get_or_insert::<K, V>, &key, &value, |reply| {
            codec::decode(reply)
        })
    }

    /// Removes a key. Returns its value.
    pub fn remove(&self, key: &K) -> Result<Option<V>> {
        self.with_key(handlers::remove::<K, V>, key, decode_option)
    }

    /// Returns copies of the values of several keys, in one message.
    pub fn get_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Option<V>>> {
        self.with_keys(handlers::get_many::<K, V>, keys)
    }

    /// Removes several keys, in one message. Returns their values.
    pub fn remove_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Option<V>>> {
        self.with_keys(handlers::remove_many::<K, V>, keys)
    }

    /// Removes the keys for which `f` returns false. The server runs `f` on each key and value,
    /// with exclusive access to the dict. If `f` panics, no key is removed, but its changes to
    /// values stay.
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
            WireMethod::of_predicate::<ServerDict<K, V>, K, V, A>(f)?,
            |message| codec::encode(&arg, message),
            |reply| codec::decode(reply),
        )
    }

    /// Removes and returns the oldest key and its value.
    pub fn pop_first(&self) -> Result<Option<(K, V)>> {
        self.0.ask(handlers::pop_first::<K, V>, &())
    }

    /// Removes and returns the newest key and its value.
    pub fn pop_last(&self) -> Result<Option<(K, V)>> {
        self.0.ask(handlers::pop_last::<K, V>, &())
    }

    /// Whether the dict has this key.
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        self.with_key(handlers::contains_key::<K, V>, key, |reply| {
            codec::decode(reply)
        })
    }

    /// Runs `f` on the value of a key in the server, with exclusive access to the dict. Returns
    /// `None` if the key is missing.
    pub fn modify<A: Wire, R: Wire>(
        &self,
        key: &K,
        f: fn(&mut V, A) -> R,
        arg: A,
    ) -> Result<Option<R>> {
        let method = WireMethod::of_user::<RefCell<V>, V, A, R>(f)?;
        self.0.call(
            WireMethod::handler(handlers::modify::<K, V>)?,
            |message| {
                put_len_prefixed(&encode_key(key)?, message);
                message.put(&method.to_bytes());
                codec::encode(&arg, message)
            },
            decode_option,
        )
    }

    /// Returns the number of keys.
    pub fn len(&self) -> Result<usize> {
        self.0.ask(handlers::len::<K, V>, &())
    }

    /// Whether the dict is empty.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Returns copies of all keys, in one message.
    pub fn keys(&self) -> Result<Vec<K>> {
        self.0.ask(handlers::keys::<K, V>, &())
    }

    /// Returns copies of all values, in one message.
    pub fn values(&self) -> Result<Vec<V>> {
        self.0.ask(handlers::values::<K, V>, &())
    }

    /// Returns copies of all keys and values, in one message.
    pub fn items(&self) -> Result<Vec<(K, V)>> {
        self.0.ask(handlers::items::<K, V>, &())
    }

    /// Removes and returns all keys and values.
    pub fn take(&self) -> Result<Vec<(K, V)>> {
        self.0.ask(handlers::take::<K, V>, &())
    }

    /// Sets the values of all these keys, in one message.
    pub fn update(&self, items: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        let keyed = |(key, value)| Ok((EncodedKey(encode_key(&key)?), value));
        self.0.call(
            WireMethod::handler(handlers::update::<K, V>)?,
            |message| {
                let items = items.into_iter().map(keyed);
                let items: Vec<(EncodedKey, V)> = items.collect::<Result<_, CodecErrorText>>()?;
                codec::encode(&items, message)
            },
            |reply| codec::decode(reply),
        )
    }

    /// Removes all keys.
    pub fn clear(&self) -> Result<()> {
        self.0.ask(handlers::clear::<K, V>, &())
    }

    fn with_keys<'a>(
        &self,
        handler: MethodHandler<ServerDict<K, V>>,
        keys: impl IntoIterator<Item = &'a K>,
    ) -> Result<Vec<Option<V>>> {
        self.0.call(
            WireMethod::handler(handler)?,
            |message| {
                let keys = keys.into_iter().map(|key| encode_key(key).map(EncodedKey));
                codec::encode(
                    &keys.collect::<Result<Vec<EncodedKey>, CodecErrorText>>()?,
                    message,
                )
            },
            |reply| codec::decode(reply),
        )
    }

    fn with_key<R>(
        &self,
        handler: MethodHandler<ServerDict<K, V>>,
        key: &K,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, CodecErrorText>,
    ) -> Result<R> {
        let encode = |message: &mut Vec<u8>| codec::encode(key, message);
        self.0.call(WireMethod::handler(handler)?, encode, decode)
    }

    fn with_value<R>(
        &self,
        handler: MethodHandler<ServerDict<K, V>>,
        key: &K,
        value: &V,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, CodecErrorText>,
    ) -> Result<R> {
        let encode = |message: &mut Vec<u8>| {
            put_len_prefixed(&encode_key(key)?, message);
            codec::encode(value, message)
        };
        self.0.call(WireMethod::handler(handler)?, encode, decode)
    }
}
