//! What a dict is in the server: entries that know their order, and how keys travel.

use crate::process::call::bytes;
use crate::process::function::Failure;
use crate::shm::Cursor;
use crate::wire::{Wire, codec};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What keys and values are.
pub(super) trait Part: Wire + Send {}

impl<T: Wire + Send> Part for T {}

/// The entries by the order in which their keys came, and where each key is. Taking one out costs the logarithm of how many
/// there are, which a vector of entries in order would not.
pub(in crate::manager) struct Table<K, V> {
    pub(super) places: HashMap<Arc<[u8]>, u64>,
    pub(super) entries: BTreeMap<u64, Entry<K, V>>,
    next: u64,
}

pub(super) struct Entry<K, V> {
    /// The encoded key.
    pub(super) bytes: Arc<[u8]>,
    pub(super) key: K,
    /// In a cell, which a user's function can be given.
    pub(super) value: RefCell<V>,
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
    pub(super) fn get(&mut self, key: &[u8]) -> Option<&mut V> {
        let entry = self.entries.get_mut(self.places.get(key)?)?;
        Some(entry.value.get_mut())
    }

    pub(super) fn insert(&mut self, bytes: &[u8], value: V) -> Result<Option<V>, Failure> {
        if let Some(old) = self.get(bytes) {
            return Ok(Some(std::mem::replace(old, value)));
        }
        let key = codec::decode(&mut Cursor::new(bytes)).map_err(Failure::Decode)?;
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

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<V> {
        let place = self.places.remove(key)?;
        self.entries.remove(&place).map(|it| it.value.into_inner())
    }

    pub(super) fn without_place(&mut self, entry: Entry<K, V>) -> (K, V) {
        self.places.remove(&entry.bytes);
        (entry.key, entry.value.into_inner())
    }
}

/// An encoded key among others, in one piece: serde's own way is an element at a time.
pub(super) struct Key(pub(super) Vec<u8>);

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
