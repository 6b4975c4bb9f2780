//! What a dict is in the server: entries that know their order, and how keys travel.

use crate::process::encoded_call::bytes;
use crate::process::function::CallError;
use crate::shm::Cursor;
use crate::wire::{Wire, codec};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What keys and values are.
pub(super) trait DictPart: Wire + Send {}

impl<T: Wire + Send> DictPart for T {}

/// The entries by the order in which their keys came, and where each key is. Taking one out costs
/// the logarithm of how many there are, which a vector of entries in order would not.
pub(in crate::manager) struct Table<K, V> {
    pub(super) numbers: HashMap<Arc<[u8]>, u64>,
    pub(super) entries: BTreeMap<u64, DictEntry<K, V>>,
    next: u64,
}

pub(super) struct DictEntry<K, V> {
    /// The encoded key.
    pub(super) bytes: Arc<[u8]>,
    pub(super) key: K,
    /// In a cell, which a user's function can be given.
    pub(super) value: RefCell<V>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            entries: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<K: Wire, V> Table<K, V> {
    pub(super) fn get(&mut self, key: &[u8]) -> Option<&mut V> {
        let entry = self.entries.get_mut(self.numbers.get(key)?)?;
        Some(entry.value.get_mut())
    }

    pub(super) fn insert(&mut self, bytes: &[u8], value: V) -> Result<Option<V>, CallError> {
        if let Some(old) = self.get(bytes) {
            return Ok(Some(std::mem::replace(old, value)));
        }
        let key = codec::decode(&mut Cursor::new(bytes)).map_err(CallError::Decode)?;
        let bytes: Arc<[u8]> = bytes.into();
        let entry = DictEntry {
            bytes: Arc::clone(&bytes),
            key,
            value: RefCell::new(value),
        };
        self.numbers.insert(bytes, self.next);
        self.entries.insert(self.next, entry);
        self.next += 1;
        Ok(None)
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<V> {
        let number = self.numbers.remove(key)?;
        self.entries.remove(&number).map(|it| it.value.into_inner())
    }

    pub(super) fn take_item(&mut self, entry: DictEntry<K, V>) -> (K, V) {
        self.numbers.remove(&entry.bytes);
        (entry.key, entry.value.into_inner())
    }
}

/// An encoded key among others, in one piece: serde's own way is an element at a time.
pub(super) struct EncodedKey(pub(super) Vec<u8>);

impl Serialize for EncodedKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EncodedKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        bytes::deserialize(from).map(Self)
    }
}
