//! The handlers of a dict's methods in the server.

use super::{
    ServerDict,
    table::{DictPart, EncodedKey, Table},
};
use crate::manager::{
    protocol::{HandlerResult, encode_option, take_len_prefixed},
    server::{Guarded, Server},
};
use crate::process::function::{CallError, Exclusive, Invocation, Retain, WireMethod};
use crate::wire::{Wire, codec};
use std::{cell::RefCell, sync::Arc};

/// Decodes an argument that is a key.
fn decode_key(call: &mut Invocation<'_>) -> Result<Vec<u8>, CallError> {
    use codec::ByteSource;
    let out_of_memory = || CallError::Decode("out of memory".to_owned());
    call.argument.take_all().ok_or_else(out_of_memory)
}

/// Decodes an argument that is a key and a value.
fn decode_key_and_value<V: Wire>(call: &mut Invocation<'_>) -> Result<(Vec<u8>, V), CallError> {
    let key = take_len_prefixed(&mut call.argument).map_err(CallError::Decode)?;
    Ok((key, call.decode()?))
}

/// Creates an empty dict.
pub(in crate::manager) fn create<K, V>(server: &Server, call: &mut Invocation<'_>) -> HandlerResult
where
    K: Wire + Send + 'static,
    V: Wire + Send + 'static,
{
    server.create(Guarded::new(Table::<K, V>::default()), call)
}

pub(super) fn insert<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let (key, value) = decode_key_and_value(call)?;
    let before = dict.with(|table| table.insert(&key, value))??;
    encode_option(before.as_ref(), call)
}

pub(super) fn get<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let key = decode_key(call)?;
    dict.with(|table| encode_option(table.get(&key).map(|value| &*value), call))?
}

pub(super) fn get_or_insert<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let (key, value) = decode_key_and_value(call)?;
    dict.with(|table| {
        if table.get(&key).is_none() {
            table.insert(&key, value)?;
        }
        let value = table
            .get(&key)
            .expect("it was inserted if table was missing");
        call.encode(value)
    })?
}

pub(super) fn remove<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let key = decode_key(call)?;
    let value = dict.with(|table| table.remove(&key))?;
    encode_option(value.as_ref(), call)
}

pub(super) fn get_many<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let keys: Vec<EncodedKey> = call.decode()?;
    dict.with(|table| {
        let value = |key: &EncodedKey| Some(&table.entries.get(table.numbers.get(&*key.0)?)?.value);
        call.encode(&keys.iter().map(value).collect::<Vec<Option<&RefCell<V>>>>())
    })?
}

pub(super) fn remove_many<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let keys: Vec<EncodedKey> = call.decode()?;
    let values = dict.with(|table| keys.iter().map(|key| table.remove(&key.0)).collect())?;
    call.encode::<Vec<Option<V>>>(&values)
}

impl<K: Wire, V> Retain<K, V> for ServerDict<K, V> {
    fn retain(&self, mut keep: impl FnMut(&K, &mut V) -> bool) -> Result<(), CallError> {
        let dropped: Vec<V> = self.with(|table| {
            let entries = table.entries.values_mut();
            let unwanted = entries.filter_map(|entry| {
                let is_kept = keep(&entry.key, entry.value.get_mut());
                (!is_kept).then(|| Arc::clone(&entry.bytes))
            });
            let unwanted: Vec<_> = unwanted.collect();
            unwanted
                .iter()
                .filter_map(|key| table.remove(key))
                .collect()
        })?;
        // The values' destructors are user code and run without the lock.
        drop(dropped);
        Ok(())
    }
}

pub(super) fn pop_first<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let item = dict.with(|table| {
        let (_, entry) = table.entries.pop_first()?;
        Some(table.take_item(entry))
    })?;
    call.encode(&item)
}

pub(super) fn pop_last<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let item = dict.with(|table| {
        let (_, entry) = table.entries.pop_last()?;
        Some(table.take_item(entry))
    })?;
    call.encode(&item)
}

pub(super) fn contains_key<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let key = decode_key(call)?;
    let is_there = dict.with(|table| table.numbers.contains_key(&*key))?;
    call.encode(&is_there)
}

pub(super) fn modify<K, V>(dict: &ServerDict<K, V>, call: &mut Invocation<'_>) -> HandlerResult
where
    K: Wire + Send + 'static,
    V: Wire + Send + 'static,
{
    use codec::ByteSource;
    let key = take_len_prefixed(&mut call.argument).map_err(CallError::Decode)?;
    let mut method = [0; WireMethod::SIZE];
    if !call.argument.take(&mut method) {
        return Err(CallError::Decode("the message ends too early".to_owned()));
    }
    dict.with(|table| {
        let number = table.numbers.get(&*key);
        let Some(entry) = number.and_then(|number| table.entries.get(number)) else {
            return encode_option::<()>(None, call);
        };
        encode_option(Some(&()), call)?;
        WireMethod::from_bytes(&method).call(&entry.value, call)
    })?
}

pub(super) fn len<K, V>(dict: &ServerDict<K, V>, call: &mut Invocation<'_>) -> HandlerResult {
    let len = dict.with(|table| table.entries.len())?;
    call.encode(&len)
}

pub(super) fn keys<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    dict.with(|table| call.encode_items(table.entries.values().map(|entry| &entry.key)))?
}

pub(super) fn values<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    dict.with(|table| {
        let values = table.entries.values_mut();
        call.encode_items(values.map(|entry| &*entry.value.get_mut()))
    })?
}

pub(super) fn items<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    dict.with(|table| {
        let items = table.entries.values_mut();
        let items = items.map(|entry| (&entry.key, &*entry.value.get_mut()));
        call.encode(&items.collect::<Vec<(&K, &V)>>())
    })?
}

pub(super) fn take<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let table = dict.with(std::mem::take)?;
    let entries = table.entries.into_values();
    let items = entries.map(|entry| (entry.key, entry.value.into_inner()));
    call.encode(&items.collect::<Vec<(K, V)>>())
}

pub(super) fn update<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let items: Vec<(EncodedKey, V)> = call.decode()?;
    dict.with(|table| {
        for (EncodedKey(key), value) in items {
            table.insert(&key, value)?;
        }
        Ok(())
    })?
}

pub(super) fn clear<K: DictPart, V: DictPart>(
    dict: &ServerDict<K, V>,
    _: &mut Invocation<'_>,
) -> HandlerResult {
    drop(dict.with(std::mem::take)?);
    Ok(())
}
