//! Proxies: what they have in common, and the one for any object of the user's.

use crate::error::Result;
use crate::manager::{
    protocol::HandlerResult,
    server::{Guarded, Server},
};
use crate::process::function::{Exclusive, Invocation};
use crate::wire::Wire;

/// Declares a proxy: a reference with a type.
macro_rules! proxy {
    ($(#[$doc:meta])* $name:ident $(<$($t:ident),+>)?) => {
        $(#[$doc])*
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(bound = "")]
        pub struct $name $(<$($t),+>)? (
            pub(in crate::manager) $crate::manager::client::reference::Reference,
            $(std::marker::PhantomData<fn() -> ($($t,)+)>)?
        );

        impl $(<$($t),+>)? $name $(<$($t),+>)? {
            pub(in crate::manager) fn new(reference: $crate::manager::client::reference::Reference) -> Self {
                Self(reference, $($crate::manager::proxies::object::phantom::<($($t,)+)>())?)
            }
        }

        impl $(<$($t),+>)? Clone for $name $(<$($t),+>)? {
            fn clone(&self) -> Self {
                Self::new(self.0.clone())
            }
        }

        impl $(<$($t),+>)? std::fmt::Debug for $name $(<$($t),+>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.0).finish()
            }
        }
    };
}
pub(in crate::manager) use proxy;

pub(in crate::manager) fn phantom<T>() -> std::marker::PhantomData<fn() -> T> {
    std::marker::PhantomData
}

proxy! {
    /// An object of the user's in a manager's server, made by
    /// [`Manager::object`](crate::Manager::object).
    ///
    /// Its functions run there, one at a time for each object; other objects are independent.
    /// Clones, and copies that were sent elsewhere, mean the same object; it is dropped with the
    /// last of them.
    ///
    /// A function may use other proxies. Two objects whose functions call each other wait for each
    /// other for ever when both are called at once, as with any two locks; a function that uses its
    /// own object is an error of [`InvalidInput`](crate::ErrorKind::InvalidInput).
    ///
    /// ```
    /// use procpool::{Manager, Process, Proxy};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Account {
    ///     balance: i64,
    /// }
    ///
    /// impl Account {
    ///     fn deposit(&mut self, amount: i64) -> i64 {
    ///         self.balance += amount;
    ///         self.balance
    ///     }
    /// }
    ///
    /// let manager = Manager::start()?;
    /// let account = manager.object(Account { balance: 1 })?;
    /// let deposit = |account: Proxy<Account>| account.call(Account::deposit, 41).ok();
    /// assert_eq!(Process::start(deposit, account.clone())?.result()?, Some(42));
    /// assert_eq!(account.get()?.balance, 42);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    Proxy<T>
}

impl<T: Wire + Send + 'static> Proxy<T> {
    /// Calls a function on the object, in the server. Blocks until it has returned, and before that
    /// until those before it have. It takes `&mut T` and one argument: a tuple for several, `()`
    /// for none.
    ///
    /// # Errors
    ///
    /// [`Panicked`](crate::ErrorKind::Panicked) when it panics: the object stays as it is then, and
    /// can be called again. [`Codec`](crate::ErrorKind::Codec) when the argument or the result
    /// cannot be encoded or decoded, [`InvalidInput`](crate::ErrorKind::InvalidInput) when the
    /// argument is larger than the server allows. [`Disconnected`](crate::ErrorKind::Disconnected)
    /// when the server is gone; whether the function has run is not known then.
    pub fn call<A: Wire, R: Wire>(&self, f: fn(&mut T, A) -> R, arg: A) -> Result<R> {
        self.0.apply(f, &arg)
    }

    /// A copy of the object as it is now.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn get(&self) -> Result<T> {
        self.0.ask(copy::<T>, &())
    }
}

/// Makes an object of a value.
pub(in crate::manager) fn create<T: Wire + Send + 'static>(
    server: &Server,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let value: T = call.decode()?;
    server.create(Guarded::new(value), call)
}

/// Answers with the whole value.
pub(in crate::manager) fn copy<T: Wire + Send + 'static>(
    object: &Guarded<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    object.with(|it| call.encode(it))?
}
