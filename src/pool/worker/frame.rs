//! What one frame of requests asks for: a function, its context, and the arguments of one item or
//! several.

use crate::pool::{protocol::RequestHeader, worker::fd_receiver::FdReceiver};
use crate::process::{
    function::{Callable, ContextLoader, WireFunction},
    panic,
    task_error::TaskError,
};
use crate::shm::{Cursor, Slab};
use crate::wire::handle::{self, Attached};
use std::{any::Any, collections::HashMap, mem};

/// What the items of a frame have in common.
pub(crate) struct Frame<'a> {
    pub(super) callable: Callable,
    pub(super) context: Option<&'a dyn Any>,
    /// Where the argument lies, and its length, if not among the frame's bytes.
    slab: Option<(&'a Slab, usize)>,
}

impl<'a> Frame<'a> {
    pub(super) fn prepare(
        header: RequestHeader,
        inbox: &'a mut FdReceiver,
        contexts: &'a mut HashMap<u32, LoadedContext>,
        callables: &mut FunctionCache,
    ) -> std::result::Result<Self, TaskError> {
        let unmapped =
            || TaskError::Decode("its shared memory could not be mapped in the worker".to_owned());
        let slab = match header.slab {
            0 => None,
            id => {
                let slab = inbox.slab(id, header.slab_length).ok_or_else(unmapped)?;
                Some((slab, header.slab_length as usize))
            }
        };
        let function = header
            .function
            .ok_or_else(|| TaskError::UnknownFunction("no function was sent".to_owned()))?;
        let callable = callables.find(function)?;
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

/// A map's context, decoded for the first item that needs it.
pub(crate) enum LoadedContext {
    Encoded(ContextLoader, Box<[u8]>, Vec<Attached>),
    Decoded(std::result::Result<Box<dyn Any>, TaskError>),
}

impl LoadedContext {
    fn decoded(&mut self) -> std::result::Result<&dyn Any, TaskError> {
        if let Self::Encoded(loader, bytes, handles) = self {
            let handles = mem::take(handles);
            let load = || handle::provide(handles, || loader.load(&mut Cursor::new(bytes)));
            let loaded = panic::catch(load);
            let decoded = loaded.map_err(|it| *it).and_then(|loaded| {
                let loaded =
                    loaded.map_err(|error| TaskError::UnknownFunction(error.to_string()))?;
                loaded.map_err(TaskError::from)
            });
            *self = Self::Decoded(decoded);
        }
        match self {
            Self::Decoded(Ok(context)) => Ok(&**context),
            Self::Decoded(Err(fault)) => Err(fault.clone()),
            Self::Encoded(..) => unreachable!("it was decoded just now"),
        }
    }
}

/// The items of a frame: one without its length, or several with.
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

/// The functions called last, found: most calls repeat one.
#[derive(Default)]
pub(super) struct FunctionCache(Vec<(WireFunction, Callable)>);

impl FunctionCache {
    /// Functions remembered at most.
    const MOST: usize = 16;

    fn find(&mut self, function: WireFunction) -> std::result::Result<Callable, TaskError> {
        if let Some((_, callable)) = self.0.iter().find(|it| it.0 == function) {
            return Ok(*callable);
        }
        let callable = function
            .resolve()
            .map_err(|error| TaskError::UnknownFunction(error.to_string()))?;
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push((function, callable));
        Ok(callable)
    }
}
