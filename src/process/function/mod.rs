//! Functions on the wire: a module and an offset, twice, and what calls them on the other side.
//!
//! A `fn` pointer means nothing in another process. Its place inside the module that holds it does,
//! as long as the other process has loaded the same build of that module. The types of argument and
//! result are known where the call is made only, so beside the user's function travels one of the
//! generic *trampolines* below, made there for just those types: it decodes, calls, encodes. The
//! two may lie in different modules (a plug-in's function, called through a trampoline that was
//! instantiated in the program), so each has its own.

#![expect(unsafe_code, reason = "addresses become functions again")]

mod invocation;
mod location;
mod wire_method;

pub(crate) use invocation::{CallError, CallHandles, Exclusive, Invocation, Retain};
pub(crate) use location::CodeLocation;
pub(crate) use wire_method::{MethodHandler, WireMethod};

use crate::error::Result;
use crate::shm::Cursor;
use crate::wire::{Wire, codec};
use std::{any::Any, fmt, mem, os::fd::OwnedFd, ptr};

/// What a process that was started is given.
#[derive(Debug, Default)]
pub(crate) struct ChildArgs {
    /// What was passed, and behind it the mark of a process that runs on, as long as it is open.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) bytes: Vec<u8>,
}

/// What a process that was started runs; it gives its exit code.
pub(crate) type ChildMain = fn(ChildArgs) -> i32;

/// Names a child's main function.
pub(crate) fn locate_main(main: ChildMain) -> Result<CodeLocation> {
    CodeLocation::of(main as usize)
}

/// Finds a child's main function in the fork server.
pub(crate) fn resolve_main(location: CodeLocation) -> Result<ChildMain> {
    let address = ptr::with_exposed_provenance::<()>(location.address()?);
    // SAFETY: locations reach the fork server from its owner only, which runs the same build, and
    // there from `locate_main`: what lies at this offset is a `ChildMain`.
    Ok(unsafe { mem::transmute::<*const (), ChildMain>(address) })
}

type Trampoline = fn(FunctionPtr, &mut Invocation<'_>) -> Result<(), CallError>;
type ContextTrampoline = fn(&mut Cursor<'_>) -> Result<Box<dyn Any>, CallError>;

/// The address of a user's function, typeless until its trampoline says what it is.
#[derive(Clone, Copy)]
struct FunctionPtr(*const ());

/// A user's function and its trampoline, as they travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WireFunction {
    trampoline: CodeLocation,
    function: CodeLocation,
}

impl WireFunction {
    /// Bytes on the wire.
    pub(crate) const SIZE: usize = 2 * CodeLocation::SIZE;

    /// One argument.
    pub(crate) fn unary<A: Wire, R: Wire>(f: fn(A) -> R) -> Result<Self> {
        Self::pair(call_unary::<A, R>, f as usize)
    }

    /// Two arguments, which travel as a pair.
    pub(crate) fn binary<A: Wire, B: Wire, R: Wire>(f: fn(A, B) -> R) -> Result<Self> {
        Self::pair(call_binary::<A, B, R>, f as usize)
    }

    /// An argument, and a context that the worker has decoded before.
    pub(crate) fn contextual<C: Wire + 'static, A: Wire + 'static, R: Wire + 'static>(
        f: fn(&C, A) -> R,
    ) -> Result<Self> {
        Self::pair(call_contextual::<C, A, R>, f as usize)
    }

    /// Something that is done once, for its effect or its error.
    pub(crate) fn initializer<A: Wire + 'static, E: fmt::Display + 'static>(
        f: fn(A) -> Result<(), E>,
    ) -> Result<Self> {
        Self::pair(call_initializer::<A, E>, f as usize)
    }

    fn pair(trampoline: Trampoline, function: usize) -> Result<Self> {
        Ok(Self {
            trampoline: CodeLocation::of(trampoline as usize)?,
            function: CodeLocation::of(function)?,
        })
    }

    /// Finds both in this process.
    pub(crate) fn resolve(self) -> Result<Callable> {
        let trampoline = ptr::with_exposed_provenance::<()>(self.trampoline.address()?);
        let function = ptr::with_exposed_provenance::<()>(self.function.address()?);
        // SAFETY: a `WireFunction` is made by `pair` alone, of a `Trampoline`, in a process that
        // has loaded the same build of the same module; its bytes reach us from our owner only, in
        // what nobody else can write to.
        let trampoline = unsafe { mem::transmute::<*const (), Trampoline>(trampoline) };
        Ok(Callable {
            trampoline,
            function: FunctionPtr(function),
        })
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..CodeLocation::SIZE].copy_from_slice(&self.trampoline.to_bytes());
        bytes[CodeLocation::SIZE..].copy_from_slice(&self.function.to_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let half =
            |at| CodeLocation::from_bytes(bytes[at..].first_chunk().expect("half of 32 bytes"));
        Self {
            trampoline: half(0),
            function: half(CodeLocation::SIZE),
        }
    }
}

/// A function that can be called in this process.
#[derive(Clone, Copy)]
pub(crate) struct Callable {
    trampoline: Trampoline,
    function: FunctionPtr,
}

impl Callable {
    /// Decodes, calls, encodes. A panic of the user's code comes through.
    pub(crate) fn invoke(self, call: &mut Invocation<'_>) -> Result<(), CallError> {
        (self.trampoline)(self.function, call)
    }
}

/// The decoder of a context's type, as it travels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContextLoader(CodeLocation);

impl ContextLoader {
    pub(crate) fn new<C: Wire + 'static>() -> Result<Self> {
        Ok(Self(CodeLocation::of(
            load_context::<C> as ContextTrampoline as usize,
        )?))
    }

    /// Decodes the context.
    pub(crate) fn load(self, bytes: &mut Cursor<'_>) -> Result<Result<Box<dyn Any>, CallError>> {
        let address = ptr::with_exposed_provenance::<()>(self.0.address()?);
        // SAFETY: as in `WireFunction::resolve`; `new` is the only maker, of a `ContextTrampoline`.
        let load = unsafe { mem::transmute::<*const (), ContextTrampoline>(address) };
        Ok(load(bytes))
    }

    pub(crate) fn to_bytes(self) -> [u8; CodeLocation::SIZE] {
        self.0.to_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8; CodeLocation::SIZE]) -> Self {
        Self(CodeLocation::from_bytes(bytes))
    }
}

fn load_context<C: Wire + 'static>(bytes: &mut Cursor<'_>) -> Result<Box<dyn Any>, CallError> {
    Ok(Box::new(
        codec::decode::<C>(bytes).map_err(CallError::Decode)?,
    ))
}

fn call_unary<A: Wire, R: Wire>(
    function: FunctionPtr,
    call: &mut Invocation<'_>,
) -> Result<(), CallError> {
    // SAFETY: `WireFunction::unary::<A, R>` alone pairs this trampoline with an address, that of a
    // `fn(A) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(A) -> R>(function.0) };
    let argument = call.decode()?;
    call.encode(&function(argument))
}

fn call_binary<A: Wire, B: Wire, R: Wire>(
    function: FunctionPtr,
    call: &mut Invocation<'_>,
) -> Result<(), CallError> {
    // SAFETY: `WireFunction::binary::<A, B, R>` alone pairs this trampoline with an address, that
    // of a `fn(A, B) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(A, B) -> R>(function.0) };
    let (a, b) = call.decode()?;
    call.encode(&function(a, b))
}

fn call_contextual<C: Wire + 'static, A: Wire + 'static, R: Wire + 'static>(
    function: FunctionPtr,
    call: &mut Invocation<'_>,
) -> Result<(), CallError> {
    // SAFETY: `WireFunction::contextual::<C, A, R>` alone pairs this trampoline with an address,
    // that of a `fn(&C, A) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(&C, A) -> R>(function.0) };
    let context = call.context.and_then(|it| it.downcast_ref::<C>());
    let context = context.expect("the context was sent before the call and has its type");
    let argument = call.decode()?;
    call.encode(&function(context, argument))
}

fn call_initializer<A: Wire + 'static, E: fmt::Display + 'static>(
    function: FunctionPtr,
    call: &mut Invocation<'_>,
) -> Result<(), CallError> {
    // SAFETY: `WireFunction::initializer::<A, E>` alone pairs this trampoline with an address, that
    // of such a function.
    let function = unsafe { mem::transmute::<*const (), fn(A) -> Result<(), E>>(function.0) };
    let argument = call.decode()?;
    function(argument).map_err(|error| CallError::Initializer(error.to_string()))
}
