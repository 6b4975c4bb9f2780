//! A request frame: a function, its context, and the arguments of one or more items.

use crate::pool::{protocol::RequestHeader, worker::fd_receiver::FdReceiver};
use crate::process::{
    function::{Callable, ContextLoader, WireFunction},
    panic,
    task_error::TaskError,
};
use crate::shm::{Cursor, Slab};
use crate::wire::handle::{self, Attached};
use std::{any::Any, collections::HashMap, mem};

/// The parts that all items of a frame share.
pub(crate) struct Frame<'a> {
    pub(super) callable: Callable,
    pub(super) context: Option<&'a dyn Any>,
    /// The slab that holds the argument, and its length, if it is not part of the frame.
    slab: Option<(&'a Slab, usize)>,
}

impl<'a> Frame<'a> {
    pub(super) fn prepare(
        header: RequestHeader,
        fds: &'a mut FdReceiver,
        contexts: &'a mut HashMap<u32, LoadedContext>,
        functions: &mut FunctionCache,
    ) -> Result<Self, TaskError> {
        let unmapped =
            || TaskError::Decode("failed to map its shared memory in the worker".to_owned());
        let slab = match header.slab {
            0 => None,
            id => {
                let slab = fds.slab(id, header.slab_length).ok_or_else(unmapped)?;
                Some((slab, header.slab_length as usize))
            }
        };
        let function = header
            .function
            .ok_or_else(|| TaskError::UnknownFunction("no function was sent".to_owned()))?;
        let callable = functions.find(function)?;
        let context = match contexts.get_mut(&header.context) {
            None => None,
            Some(context) => Some(context.decoded()?),
        };
        Ok(Self {
            callable,
            context,
            slab,
        })
    }

    pub(super) fn argument<'b>(&'b self, bytes: &'b [u8]) -> Cursor<'b> {
        match self.slab {
            None => Cursor::new(bytes),
            Some((slab, length)) => slab.read(length),
        }
    }
}

/// The context of a map, decoded for the first item that uses it.
pub(crate) enum LoadedContext {
    Encoded(ContextLoader, Box<[u8]>, Vec<Attached>),
    Decoded(Result<Box<dyn Any>, TaskError>),
}

impl LoadedContext {
    fn decoded(&mut self) -> Result<&dyn Any, TaskError> {
        if let Self::Encoded(loader, bytes, handles) = self {
            let handles = mem::take(handles);
            let load = || handle::provide(handles, || loader.load(&mut Cursor::new(bytes)));
            let loaded = panic::catch(load);
            let decoded = loaded.map_err(|panic| *panic).and_then(|found| {
                let context =
                    found.map_err(|error| TaskError::UnknownFunction(error.to_string()))?;
                context.map_err(TaskError::from)
            });
            *self = Self::Decoded(decoded);
        }
        match self {
            Self::Decoded(Ok(context)) => Ok(&**context),
            Self::Decoded(Err(error)) => Err(error.clone()),
            Self::Encoded(..) => unreachable!("it was decoded above"),
        }
    }
}

/// The items of a frame: a single item without its length, or several, each after its length.
pub(crate) struct FrameItems<'a> {
    bytes: &'a [u8],
    is_single: bool,
}

impl<'a> FrameItems<'a> {
    pub(super) fn new(bytes: &'a [u8], count: u32) -> Self {
        Self {
            bytes,
            is_single: count == 1,
        }
    }

    pub(super) fn next(&mut self) -> Option<&'a [u8]> {
        if self.is_single {
            return Some(self.bytes);
        }
        let (length, rest) = self.bytes.split_first_chunk()?;
        let (item, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.bytes = rest;
        Some(item)
    }
}

/// A cache of the functions called last, because most calls repeat one.
#[derive(Default)]
pub(super) struct FunctionCache(Vec<(WireFunction, Callable)>);

impl FunctionCache {
    /// The largest number of cached functions.
    const MAX_ENTRIES: usize = 16;

    fn find(&mut self, function: WireFunction) -> Result<Callable, TaskError> {
        if let Some((_, callable)) = self.0.iter().find(|(cached, _)| *cached == function) {
            return Ok(*callable);
        }
        let callable = function
            .resolve()
            .map_err(|error| TaskError::UnknownFunction(error.to_string()))?;
        if self.0.len() == Self::MAX_ENTRIES {
            self.0.remove(0);
        }
        self.0.push((function, callable));
        Ok(callable)
    }
}
