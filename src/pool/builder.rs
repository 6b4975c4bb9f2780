//! How a pool is built.

use super::{
    ProcessPoolExecutor,
    shared::{Settings, Shared},
};
use crate::error::{Error, ErrorKind, Result};
use crate::process::call::EncodedCall;
use crate::process::{cpu_count, function::Function};
use crate::wire::{Wire, codec};
use std::{fmt, sync::Arc, thread};

/// Settings of a pool that is yet to be built; see [`ProcessPoolExecutor::builder`].
///
/// ```
/// let pool = procpool::ProcessPoolExecutor::builder().workers(2).chunk_size(16).build()?;
/// assert_eq!(pool.workers(), 2);
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "no worker is started before `build`"]
pub struct ProcessPoolBuilder {
    workers: Option<usize>,
    initializer: Option<Result<EncodedCall>>,
    chunk_size: Option<usize>,
    window: Option<usize>,
}

impl ProcessPoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            workers: None,
            initializer: None,
            chunk_size: None,
            window: None,
        }
    }

    /// Worker processes; by default as many as [`cpu_count`](crate::cpu_count) says. 0 is refused.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Has every worker call `f` before its first task, replacements too.
    ///
    /// If it fails or panics, the pool is broken: every future and every later call gives
    /// [`ErrorKind::StartFailed`] with what it said. A worker that dies in it is replaced a few times first.
    ///
    /// ```
    /// let check = |path: String| std::fs::metadata(path).map(drop);
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).initializer(check, "/nowhere".to_string()).build()?;
    /// let error = pool.apply(|()| (), ()).unwrap_err();
    /// assert_eq!(error.kind(), procpool::ErrorKind::StartFailed);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn initializer<A, E>(mut self, f: fn(A) -> std::result::Result<(), E>, arg: A) -> Self
    where
        A: Wire + Send + 'static,
        E: fmt::Display + 'static,
    {
        self.initializer = Some(encode_initializer(f, &arg));
        self
    }

    /// Items of a map that travel together, unless a call says otherwise; see
    /// [`TaskOptions::chunk_size`](crate::TaskOptions::chunk_size). 0 is refused.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.chunk_size = Some(items);
        self
    }

    /// Items of a map that are read ahead, unless a call says otherwise; see
    /// [`TaskOptions::window`](crate::TaskOptions::window). 0 is refused.
    pub fn window(mut self, items: usize) -> Self {
        self.window = Some(items);
        self
    }

    /// Starts the workers, and returns when they are forked; initializers may still run.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for a setting of 0, [`ErrorKind::Codec`] for an initializer's argument that cannot be
    /// encoded, [`ErrorKind::StartFailed`] if no worker can be had.
    pub fn build(self) -> Result<ProcessPoolExecutor> {
        let workers = self.workers.unwrap_or_else(cpu_count);
        let numbers = [
            ("workers", Some(workers)),
            ("a chunk", self.chunk_size),
            ("a window", self.window),
        ];
        if let Some((what, _)) = numbers.into_iter().find(|it| it.1 == Some(0)) {
            let message = format!("a pool cannot be built with {what} of size 0");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let (chunk_size, window) = (self.chunk_size, self.window);
        let initializer = self.initializer.transpose()?;
        let shared = Shared::start(Settings {
            workers,
            initializer,
            chunk_size,
            window,
        })?;
        let background = Arc::clone(&shared);
        let thread = thread::Builder::new().name("procpool".to_owned());
        let thread = thread
            .spawn(move || background.run_in_background())
            .map_err(|it| {
                Error::io("failed to start the pool's thread", it).with_kind(ErrorKind::StartFailed)
            })?;
        Ok(ProcessPoolExecutor::new_started(shared, thread))
    }
}

fn encode_initializer<A: Wire + 'static, E: fmt::Display + 'static>(
    f: fn(A) -> std::result::Result<(), E>,
    arg: &A,
) -> Result<EncodedCall> {
    let mut argument = Vec::new();
    codec::encode(arg, &mut argument).map_err(|reason| {
        let message = format!("failed to encode the initializer's argument: {reason}");
        Error::new(ErrorKind::Codec, message)
    })?;
    Ok(EncodedCall {
        function: Function::initializer(f)?.to_bytes(),
        argument,
    })
}
