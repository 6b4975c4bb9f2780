//! Values of any types by their names, in the server.

use crate::error::{ErrorKind, Result};
use crate::manager::{
    protocol::{HandlerResult, decode_option, encode_option, put_len_prefixed, take_len_prefixed},
    proxies::object::proxy,
    server::{Guarded, Server},
};
use crate::process::function::{CallError, Exclusive, Invocation, WireMethod};
use crate::wire::{Wire, codec};
use std::{
    any::{Any, type_name},
    collections::BTreeMap,
};

proxy! {
    /// Values of any types by their names in a manager's server, created by
    /// [`Manager::namespace`](crate::Manager::namespace). Every server has one from the start,
    /// [`Manager::globals`](crate::Manager::globals), in which connecting processes find proxies.
    ///
    /// Methods fail like [`Proxy::call`](crate::Proxy::call).
    ///
    /// ```
    /// use procpool::{ErrorKind, Manager};
    ///
    /// let manager = Manager::start()?;
    /// let settings = manager.namespace()?;
    /// settings.set("tries", 3u32)?;
    /// assert_eq!(settings.get::<u32>("tries")?, Some(3));
    /// assert_eq!(settings.get::<String>("tries").unwrap_err().kind(), ErrorKind::Codec);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    Namespace
}

impl Namespace {
    /// Sets a value.
    ///
    /// # Errors
    ///
    /// Fails like [`Proxy::call`](crate::Proxy::call), as do all other methods.
    pub fn set<T: Wire + Send + 'static>(&self, name: &str, value: T) -> Result<()> {
        self.0.call(
            WireMethod::handler(set::<T>)?,
            |message| {
                put_len_prefixed(name.as_bytes(), message);
                codec::encode(&value, message)
            },
            |reply| codec::decode(reply),
        )
    }

    /// Returns a copy of a value, or `None` if no value has this name.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) if the value has another type.
    pub fn get<T: Wire + Send + 'static>(&self, name: &str) -> Result<Option<T>> {
        self.0.call(
            WireMethod::handler(get::<T>)?,
            |message| codec::encode(&name, message),
            decode_option,
        )
    }

    /// Removes a value. Returns whether there was one.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.0.ask(remove, &name)
    }

    /// Whether a value has this name.
    pub fn contains(&self, name: &str) -> Result<bool> {
        self.0.ask(contains, &name)
    }

    /// Returns all names in alphabetical order.
    pub fn names(&self) -> Result<Vec<String>> {
        self.0.ask(names, &())
    }
}

type ServerNamespace = Guarded<BTreeMap<String, Box<dyn Any + Send>>>;

/// Returns an empty namespace.
pub(in crate::manager) fn empty() -> ServerNamespace {
    Guarded::new(BTreeMap::new())
}

/// Creates an empty namespace.
pub(in crate::manager) fn create(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    server.create(empty(), call)
}

fn set<T: Wire + Send + 'static>(
    namespace: &ServerNamespace,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let name = take_len_prefixed(&mut call.argument).map_err(CallError::Decode)?;
    let name = String::from_utf8(name).map_err(|error| CallError::Decode(error.to_string()))?;
    let value: T = call.decode()?;
    let before = namespace.with(|values| values.insert(name, Box::new(value)))?;
    drop(before);
    Ok(())
}

fn get<T: Wire + Send + 'static>(
    namespace: &ServerNamespace,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let name: String = call.decode()?;
    namespace.with(|values| {
        let Some(value) = values.get(&name) else {
            return encode_option::<T>(None, call);
        };
        let value: &T = value.downcast_ref().ok_or_else(|| {
            let message = format!("the value {name:?} is not a `{}`", type_name::<T>());
            CallError::Refused(ErrorKind::Codec, message)
        })?;
        encode_option(Some(value), call)
    })?
}

fn remove(namespace: &ServerNamespace, call: &mut Invocation<'_>) -> HandlerResult {
    let name: String = call.decode()?;
    let value = namespace.with(|values| values.remove(&name))?;
    call.encode(&value.is_some())
}

fn contains(namespace: &ServerNamespace, call: &mut Invocation<'_>) -> HandlerResult {
    let name: String = call.decode()?;
    let is_there = namespace.with(|values| values.contains_key(&name))?;
    call.encode(&is_there)
}

fn names(namespace: &ServerNamespace, call: &mut Invocation<'_>) -> HandlerResult {
    namespace.with(|values| call.encode(&values.keys().collect::<Vec<_>>()))?
}
