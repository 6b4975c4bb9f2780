//! The table of a dict in the server: entries in insertion order, and the wire form of keys.

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

/// The bounds of keys and values.
pub(super) trait DictPart: Wire + Send {}

impl<T: Wire + Send> DictPart for T {}

/// The entries in insertion order, and the position of each key. Removing a key takes logarithmic
/// time; a vector of entries would take linear time.
pub(in crate::manager) struct Table<K, V> {
    pub(super) numbers: HashMap<Arc<[u8]>, u64>,
    pub(super) entries: BTreeMap<u64, DictEntry<K, V>>,
    next: u64,
}

pub(super) struct DictEntry<K, V> {
    /// The encoded key.
    pub(super) bytes: Arc<[u8]>,
    pub(super) key: K,
    /// In a cell, so that a user's function can borrow it.
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
        let entry = self.entries.remove(&number)?;
        Some(entry.value.into_inner())
    }

    pub(super) fn take_item(&mut self, entry: DictEntry<K, V>) -> (K, V) {
        self.numbers.remove(&entry.bytes);
        (entry.key, entry.value.into_inner())
    }
}

/// An encoded key in a sequence, as one byte string; serde would encode each element by itself.
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
