//! Values of any types by their names, in the server.

use super::{
    protocol::{Answer, answer_option, put_part, take_option, take_part},
    proxy::proxy,
    server::{Guarded, Server},
};
use crate::error::{ErrorKind, Result};
use crate::process::function::{Exclusive, Failure, Invocation, Method};
use crate::wire::{Wire, codec};
use std::{
    any::{Any, type_name},
    collections::BTreeMap,
};

proxy! {
    /// Values of any types by their names in a manager's server, made by [`Manager::namespace`](crate::Manager::namespace); one
    /// is there from the start, [`Manager::globals`](crate::Manager::globals), where those who connect find proxies.
    ///
    /// Its errors are those of [`Proxy::call`](crate::Proxy::call).
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
    /// As [`Proxy::call`](crate::Proxy::call), here and in all other methods.
    pub fn set<T: Wire + Send + 'static>(&self, name: &str, value: T) -> Result<()> {
        self.0.call(
            Method::handler(set::<T>)?,
            |message| {
                put_part(name.as_bytes(), message);
                codec::encode(&value, message)
            },
            |reply| codec::decode(reply),
        )
    }

    /// A copy of a value; none if there is none of this name.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) when a value of another type was set.
    pub fn get<T: Wire + Send + 'static>(&self, name: &str) -> Result<Option<T>> {
        self.0.call(
            Method::handler(get::<T>)?,
            |message| codec::encode(&name, message),
            take_option,
        )
    }

    /// Drops a value; whether there was one.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.0.ask(remove, &name)
    }

    /// Whether there is a value of this name.
    pub fn contains(&self, name: &str) -> Result<bool> {
        self.0.ask(contains, &name)
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> Result<Vec<String>> {
        self.0.ask(names, &())
    }
}

type Names = Guarded<BTreeMap<String, Box<dyn Any + Send>>>;

/// One without values.
pub(super) fn empty() -> Names {
    Guarded::new(BTreeMap::new())
}

/// Makes one without values.
pub(super) fn create(server: &Server, call: &mut Invocation<'_>) -> Answer {
    server.create(empty(), call)
}

fn set<T: Wire + Send + 'static>(namespace: &Names, call: &mut Invocation<'_>) -> Answer {
    let name = take_part(&mut call.argument).map_err(Failure::Decode)?;
    let name = String::from_utf8(name).map_err(|it| Failure::Decode(it.to_string()))?;
    let value: T = call.decode()?;
    let before = namespace.with(|it| it.insert(name, Box::new(value)))?;
    drop(before);
    Ok(())
}

fn get<T: Wire + Send + 'static>(namespace: &Names, call: &mut Invocation<'_>) -> Answer {
    let name: String = call.decode()?;
    namespace.with(|it| {
        let Some(value) = it.get(&name) else {
            return answer_option::<T>(None, call);
        };
        let value: &T = value.downcast_ref().ok_or_else(|| {
            let message = format!("the value {name:?} is no {}", type_name::<T>());
            Failure::Refused(ErrorKind::Codec, message)
        })?;
        answer_option(Some(value), call)
    })?
}

fn remove(namespace: &Names, call: &mut Invocation<'_>) -> Answer {
    let name: String = call.decode()?;
    let value = namespace.with(|it| it.remove(&name))?;
    call.encode(&value.is_some())
}

fn contains(namespace: &Names, call: &mut Invocation<'_>) -> Answer {
    let name: String = call.decode()?;
    let is_there = namespace.with(|it| it.contains_key(&name))?;
    call.encode(&is_there)
}

fn names(namespace: &Names, call: &mut Invocation<'_>) -> Answer {
    namespace.with(|it| call.encode(&it.keys().collect::<Vec<_>>()))?
}
