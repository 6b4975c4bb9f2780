//! The start methods, and the default one.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU8, Ordering};

/// How a child process comes to exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StartMethod {
    /// Forks the child from the fork server: a copy of the program that has one thread and never
    /// reaches `main`. Fast, and works in a process with threads. The child has its arguments, and
    /// statics in their initial state.
    #[default]
    ForkServer,
    /// Executes the program again. Slower, but the child inherits no memory of another process.
    Spawn,
    /// Forks this process as it is: the child sees the parent's statics and the rest of its memory.
    ///
    /// Fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) in a process that has
    /// more than one thread. It also fails while a guard of a [`Value`](crate::Value) or an
    /// [`Array`](crate::Array) is held or leaked, because the child would share its references.
    Fork,
}

impl StartMethod {
    /// All start methods.
    pub const ALL: [Self; 3] = [Self::ForkServer, Self::Spawn, Self::Fork];
}

static DEFAULT_METHOD: AtomicU8 = AtomicU8::new(StartMethod::ForkServer as u8);

/// Sets the default start method of this process, and of the processes that it starts from now on.
///
/// # Errors
///
/// None at present.
pub fn set_start_method(m: StartMethod) -> Result<()> {
    DEFAULT_METHOD.store(m as u8, Ordering::Relaxed);
    Ok(())
}

/// Returns the default start method: [`StartMethod::ForkServer`] unless [`set_start_method`] set
/// another.
///
/// ```
/// use procpool::{StartMethod, set_start_method, start_method};
///
/// assert_eq!(start_method(), StartMethod::ForkServer);
/// set_start_method(StartMethod::Spawn)?;
/// assert_eq!(start_method(), StartMethod::Spawn);
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn start_method() -> StartMethod {
    let chosen = DEFAULT_METHOD.load(Ordering::Relaxed);
    let mut methods = StartMethod::ALL.into_iter();
    let method = methods.find(|method| *method as u8 == chosen);
    method.unwrap_or_default()
}
