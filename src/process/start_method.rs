//! Which start method is used where none is asked for.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU8, Ordering};

/// How a child process comes to exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StartMethod {
    /// Forked from a copy of the program that has one thread and never reached `main`: fast,
    /// whatever this process is like. The child has what it is passed, and statics as they are
    /// initialised.
    #[default]
    ForkServer,
    /// The program, executed again: slower, and nothing of another process is left in it.
    Spawn,
    /// A copy of this process as it is: the child sees the parent's statics and whatever else is in
    /// its memory. Only for a process with one thread, and without a guard of a
    /// [`Value`](crate::Value) or an [`Array`](crate::Array) that is held or leaked: the copy would
    /// have its references, too. Any other process is refused with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    Fork,
}

impl StartMethod {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ForkServer, Self::Spawn, Self::Fork];
}

static DEFAULT_METHOD: AtomicU8 = AtomicU8::new(StartMethod::ForkServer as u8);

/// Chooses the method for every process that is started without one of its own, from now on, in
/// this process and in those that it starts.
///
/// # Errors
///
/// None for now.
pub fn set_start_method(m: StartMethod) -> Result<()> {
    DEFAULT_METHOD.store(m as u8, Ordering::Relaxed);
    Ok(())
}

/// The method for processes that are started without one of their own: [`StartMethod::ForkServer`]
/// unless another was set.
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
    let mut all = StartMethod::ALL.into_iter();
    all.find(|it| *it as u8 == chosen).unwrap_or_default()
}
