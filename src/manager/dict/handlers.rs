//! What the methods of a dict's proxy do in the server.

use super::{
    Dict,
    table::{Key, Part, Table},
};
use crate::manager::{
    protocol::{Answer, answer_option, take_part},
    server::{Guarded, Server},
};
use crate::process::function::{Exclusive, Failure, Invocation, Method, Retain};
use crate::wire::{Wire, codec};
use std::{cell::RefCell, sync::Arc};

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
pub(in crate::manager) fn create<K, V>(server: &Server, call: &mut Invocation<'_>) -> Answer
where
    K: Wire + Send + 'static,
    V: Wire + Send + 'static,
{
    server.create(Guarded::new(Table::<K, V>::default()), call)
}

pub(super) fn insert<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let (key, value) = key_and_value(call)?;
    let before = dict.with(|it| it.insert(&key, value))??;
    answer_option(before.as_ref(), call)
}

pub(super) fn get<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let key = key(call)?;
    dict.with(|it| answer_option(it.get(&key).map(|it| &*it), call))?
}

pub(super) fn get_or_insert<K: Part, V: Part>(
    dict: &Dict<K, V>,
    call: &mut Invocation<'_>,
) -> Answer {
    let (key, value) = key_and_value(call)?;
    dict.with(|it| {
        if it.get(&key).is_none() {
            it.insert(&key, value)?;
        }
        let value = it.get(&key).expect("it is there now, if it was not before");
        call.encode(value)
    })?
}

pub(super) fn remove<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let key = key(call)?;
    let value = dict.with(|it| it.remove(&key))?;
    answer_option(value.as_ref(), call)
}

pub(super) fn get_many<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let keys: Vec<Key> = call.decode()?;
    dict.with(|it| {
        let value = |key: &Key| Some(&it.entries.get(it.places.get(&*key.0)?)?.value);
        call.encode(&keys.iter().map(value).collect::<Vec<Option<&RefCell<V>>>>())
    })?
}

pub(super) fn remove_many<K: Part, V: Part>(
    dict: &Dict<K, V>,
    call: &mut Invocation<'_>,
) -> Answer {
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

pub(super) fn pop_first<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let item = dict.with(|it| {
        let (_, entry) = it.entries.pop_first()?;
        Some(it.without_place(entry))
    })?;
    call.encode(&item)
}

pub(super) fn pop_last<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let item = dict.with(|it| {
        let (_, entry) = it.entries.pop_last()?;
        Some(it.without_place(entry))
    })?;
    call.encode(&item)
}

pub(super) fn contains_key<K: Part, V: Part>(
    dict: &Dict<K, V>,
    call: &mut Invocation<'_>,
) -> Answer {
    let key = key(call)?;
    let is_there = dict.with(|it| it.places.contains_key(&*key))?;
    call.encode(&is_there)
}

pub(super) fn modify<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer
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

pub(super) fn len<K, V>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let length = dict.with(|it| it.entries.len())?;
    call.encode(&length)
}

pub(super) fn keys<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    dict.with(|it| call.encode_items(it.entries.values().map(|it| &it.key)))?
}

pub(super) fn values<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    dict.with(|it| {
        let values = it.entries.values_mut();
        call.encode_items(values.map(|it| &*it.value.get_mut()))
    })?
}

pub(super) fn items<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    dict.with(|it| {
        let items = it.entries.values_mut();
        let items = items.map(|it| (&it.key, &*it.value.get_mut()));
        call.encode(&items.collect::<Vec<(&K, &V)>>())
    })?
}

pub(super) fn take<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let table = dict.with(std::mem::take)?;
    let entries = table.entries.into_values();
    let items = entries.map(|it| (it.key, it.value.into_inner()));
    call.encode(&items.collect::<Vec<(K, V)>>())
}

pub(super) fn update<K: Part, V: Part>(dict: &Dict<K, V>, call: &mut Invocation<'_>) -> Answer {
    let items: Vec<(Key, V)> = call.decode()?;
    dict.with(|it| {
        for (Key(key), value) in items {
            it.insert(&key, value)?;
        }
        Ok(())
    })?
}

pub(super) fn clear<K: Part, V: Part>(dict: &Dict<K, V>, _: &mut Invocation<'_>) -> Answer {
    drop(dict.with(std::mem::take)?);
    Ok(())
}
