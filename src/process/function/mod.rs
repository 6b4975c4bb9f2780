//! Functions on the wire. A function is sent as two pairs of module and offset: its own, and that
//! of the trampoline that calls it.
//!
//! A `fn` pointer is meaningless in another process. Its offset in its module is meaningful, if the
//! other process has loaded the same build of that module. Only the caller knows the types of the
//! argument and the result, so it sends one of the generic *trampolines* below, instantiated for
//! those types, along with the function. The trampoline decodes the argument, calls the function
//! and encodes the result. The two may be in different modules: a plug-in's function can be called
//! through a trampoline that was instantiated in the program.

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

/// The arguments of a child's main function.
#[derive(Debug, Default)]
pub(crate) struct ChildArgs {
    /// The passed descriptors, then the mark of a child that is not a daemon. The mark works while
    /// it is open.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) bytes: Vec<u8>,
}

/// The main function of a child; returns the exit code.
pub(crate) type ChildMain = fn(ChildArgs) -> i32;

/// Returns the location of a child's main function.
pub(crate) fn locate_main(main: ChildMain) -> Result<CodeLocation> {
    CodeLocation::of(main as usize)
}

/// Returns the main function at a location, in the fork server or an executed child.
pub(crate) fn resolve_main(location: CodeLocation) -> Result<ChildMain> {
    let address = ptr::with_exposed_provenance::<()>(location.address()?);
    // SAFETY: locations reach this process from its owner only, which runs the same build and got
    // them from `locate_main`. So the code at this offset is a `ChildMain`.
    Ok(unsafe { mem::transmute::<*const (), ChildMain>(address) })
}

type Trampoline = fn(FunctionPtr, &mut Invocation<'_>) -> Result<(), CallError>;
type ContextTrampoline = fn(&mut Cursor<'_>) -> Result<Box<dyn Any>, CallError>;

/// The address of a user's function. Only its trampoline knows the type.
#[derive(Clone, Copy)]
struct FunctionPtr(*const ());

/// A user's function and its trampoline, as sent to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WireFunction {
    trampoline: CodeLocation,
    function: CodeLocation,
}

impl WireFunction {
    /// Bytes on the wire.
    pub(crate) const SIZE: usize = 2 * CodeLocation::SIZE;

    /// Encodes a function of one argument.
    pub(crate) fn unary<A: Wire, R: Wire>(f: fn(A) -> R) -> Result<Self> {
        Self::pair(call_unary::<A, R>, f as usize)
    }

    /// Encodes a function of two arguments, which are sent as a pair.
    pub(crate) fn binary<A: Wire, B: Wire, R: Wire>(f: fn(A, B) -> R) -> Result<Self> {
        Self::pair(call_binary::<A, B, R>, f as usize)
    }

    /// Encodes a function of a context and an argument. The worker decodes the context earlier.
    pub(crate) fn contextual<C: Wire + 'static, A: Wire + 'static, R: Wire + 'static>(
        f: fn(&C, A) -> R,
    ) -> Result<Self> {
        Self::pair(call_contextual::<C, A, R>, f as usize)
    }

    /// Encodes a function that runs once, for its side effect or its error.
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

    /// Finds the function and its trampoline in this process.
    pub(crate) fn resolve(self) -> Result<Callable> {
        let trampoline = ptr::with_exposed_provenance::<()>(self.trampoline.address()?);
        let function = ptr::with_exposed_provenance::<()>(self.function.address()?);
        // SAFETY: only `pair` creates a `WireFunction`, from a `Trampoline`, in a process that has
        // loaded the same build of the same module. Its bytes reach this process from its owner
        // only, through memory and sockets that no other process can write to.
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
    /// Decodes the argument, calls the function and encodes the result. A panic of the user's code
    /// propagates.
    pub(crate) fn invoke(self, call: &mut Invocation<'_>) -> Result<(), CallError> {
        (self.trampoline)(self.function, call)
    }
}

/// The decoder for the type of a context, as sent to a worker.
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
        // SAFETY: like in `WireFunction::resolve`; only `new` creates it, from a
        // `ContextTrampoline`.
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
    // SAFETY: only `WireFunction::unary::<A, R>` pairs this trampoline with an address, and it is
    // the address of a `fn(A) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(A) -> R>(function.0) };
    let argument = call.decode()?;
    call.encode(&function(argument))
}

fn call_binary<A: Wire, B: Wire, R: Wire>(
    function: FunctionPtr,
    call: &mut Invocation<'_>,
) -> Result<(), CallError> {
    // SAFETY: only `WireFunction::binary::<A, B, R>` pairs this trampoline with an address, and it
    // is the address of a `fn(A, B) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(A, B) -> R>(function.0) };
    let (a, b) = call.decode()?;
    call.encode(&function(a, b))
}

fn call_contextual<C: Wire + 'static, A: Wire + 'static, R: Wire + 'static>(
    function: FunctionPtr,
    call: &mut Invocation<'_>,
) -> Result<(), CallError> {
    // SAFETY: only `WireFunction::contextual::<C, A, R>` pairs this trampoline with an address, and
    // it is the address of a `fn(&C, A) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(&C, A) -> R>(function.0) };
    let context = call.context.and_then(|context| context.downcast_ref::<C>());
    let context = context.expect("the context was sent before the call and has its type");
    let argument = call.decode()?;
    call.encode(&function(context, argument))
}

fn call_initializer<A: Wire + 'static, E: fmt::Display + 'static>(
    function: FunctionPtr,
    call: &mut Invocation<'_>,
) -> Result<(), CallError> {
    // SAFETY: only `WireFunction::initializer::<A, E>` pairs this trampoline with an address, and
    // it is the address of a `fn(A) -> Result<(), E>`.
    let function = unsafe { mem::transmute::<*const (), fn(A) -> Result<(), E>>(function.0) };
    let argument = call.decode()?;
    function(argument).map_err(|error| CallError::Initializer(error.to_string()))
}
