//! The common parts of proxies, and the proxy of user-defined objects.

use crate::error::Result;
use crate::manager::{
    protocol::HandlerResult,
    server::{Guarded, Server},
};
use crate::process::function::{Exclusive, Invocation};
use crate::wire::Wire;

/// Declares a proxy: a typed reference.
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
    /// A user-defined object in a manager's server, created by
    /// [`Manager::object`](crate::Manager::object).
    ///
    /// The server runs its functions, one at a time for each object; other objects are independent.
    /// Clones and copies in other processes refer to the same object. The object is dropped after
    /// the last of them.
    ///
    /// A function may use other proxies. Two objects whose functions call each other can deadlock,
    /// like any two locks. A function that uses its own object fails with
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput).
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
    /// Runs `f` on the object in the server and returns its result. Blocks until earlier calls on
    /// this object and `f` itself have returned. `f` takes `&mut T` and one argument: a tuple for
    /// several, `()` for none.
    ///
    /// # Errors
    ///
    /// [`Panicked`](crate::ErrorKind::Panicked) if `f` panics: the object keeps its state at the
    /// panic and can be called again. [`Codec`](crate::ErrorKind::Codec) if the argument or result
    /// cannot be encoded or decoded. [`InvalidInput`](crate::ErrorKind::InvalidInput) if the
    /// argument is larger than the server allows. [`Disconnected`](crate::ErrorKind::Disconnected)
    /// if the server has exited; `f` may or may not have run.
    pub fn call<A: Wire, R: Wire>(&self, f: fn(&mut T, A) -> R, arg: A) -> Result<R> {
        self.0.apply(f, &arg)
    }

    /// Returns a copy of the object's current value.
    ///
    /// # Errors
    ///
    /// Fails like [`call`](Self::call).
    pub fn get(&self) -> Result<T> {
        self.0.ask(copy::<T>, &())
    }
}

/// Creates an object from a value.
pub(in crate::manager) fn create<T: Wire + Send + 'static>(
    server: &Server,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    let value: T = call.decode()?;
    server.create(Guarded::new(value), call)
}

/// Replies with the whole value.
pub(in crate::manager) fn copy<T: Wire + Send + 'static>(
    object: &Guarded<T>,
    call: &mut Invocation<'_>,
) -> HandlerResult {
    object.with(|it| call.encode(it))?
}
