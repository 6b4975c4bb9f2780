//! `WireMethod`: a function on an object in another process.

#![expect(unsafe_code, reason = "addresses become functions again")]

use super::{
    FunctionPtr, WireFunction,
    invocation::{CallError, Exclusive, Invocation, Retain},
    location::CodeLocation,
};
use crate::error::{ErrorKind, Result};
use crate::wire::Wire;
use std::{
    any::{Any, type_name},
    mem, ptr,
};

/// A method of an object of this crate; it decodes its argument and encodes its result itself.
pub(crate) type MethodHandler<O> = fn(&O, &mut Invocation<'_>) -> Result<(), CallError>;

type MethodTrampoline = fn(FunctionPtr, &dyn Any, &mut Invocation<'_>) -> Result<(), CallError>;

/// A function on an object in another process, as sent to that process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WireMethod(WireFunction);

impl WireMethod {
    /// Bytes on the wire.
    pub(crate) const SIZE: usize = WireFunction::SIZE;

    /// The encoding of a method in the program: two offsets of 4 bytes follow.
    const SHORT: u8 = 0;
    /// The encoding of any other method: modules and offsets follow.
    const LONG: u8 = 1;

    /// Encodes a user's function on the value in an `O`.
    pub(crate) fn of_user<O, T, A, R>(f: fn(&mut T, A) -> R) -> Result<Self>
    where
        O: Exclusive<T> + 'static,
        T: 'static,
        A: Wire,
        R: Wire,
    {
        Self::pair(call_method::<O, T, A, R>, f as usize)
    }

    /// Encodes a user's predicate on the entries of an `O`.
    pub(crate) fn of_predicate<O, K, V, A>(f: fn(&K, &mut V, &A) -> bool) -> Result<Self>
    where
        O: Retain<K, V> + 'static,
        K: 'static,
        V: 'static,
        A: Wire,
    {
        Self::pair(call_predicate::<O, K, V, A>, f as usize)
    }

    /// Encodes a method of this crate.
    pub(crate) fn handler<O: 'static>(f: MethodHandler<O>) -> Result<Self> {
        Self::pair(call_handler::<O>, f as usize)
    }

    fn pair(trampoline: MethodTrampoline, function: usize) -> Result<Self> {
        Ok(Self(WireFunction {
            trampoline: CodeLocation::of(trampoline as usize)?,
            function: CodeLocation::of(function)?,
        }))
    }

    /// Finds the method in this process and calls it. A panic of the user's code propagates.
    pub(crate) fn call(self, object: &dyn Any, call: &mut Invocation<'_>) -> Result<(), CallError> {
        let address = |location: CodeLocation| {
            let found = location.address().map(ptr::with_exposed_provenance::<()>);
            found.map_err(|error| CallError::Refused(error.kind(), error.to_string()))
        };
        let (trampoline, function) = (address(self.0.trampoline)?, address(self.0.function)?);
        // SAFETY: only `pair` creates a `WireMethod`, from a `MethodTrampoline`. Its bytes reach
        // this process only from clients that have proved that they know the key and have declared
        // the same build; the manager's handshake checks both.
        let trampoline = unsafe { mem::transmute::<*const (), MethodTrampoline>(trampoline) };
        trampoline(FunctionPtr(function), object, call)
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        self.0.to_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        Self(WireFunction::from_bytes(bytes))
    }

    /// Appends the method. A method in the program takes few bytes, so that a small request is read
    /// in one piece.
    #[inline]
    pub(crate) fn put(self, message: &mut Vec<u8>) {
        let (trampoline, function) = (
            self.0.trampoline.program_offset(),
            self.0.function.program_offset(),
        );
        match trampoline.zip(function) {
            Some((trampoline, function)) => {
                message.push(Self::SHORT);
                message.extend_from_slice(&trampoline.to_le_bytes());
                message.extend_from_slice(&function.to_le_bytes());
            }
            None => {
                message.push(Self::LONG);
                message.extend_from_slice(&self.to_bytes());
            }
        }
    }

    /// Splits off a method that [`put`](Self::put) appended; returns it and the remaining bytes.
    #[inline]
    pub(crate) fn split_off(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (kind, bytes) = bytes.split_first()?;
        if *kind == Self::LONG {
            let (method, rest) = bytes.split_first_chunk()?;
            return Some((Self::from_bytes(method), rest));
        }
        let (trampoline, bytes) = bytes.split_first_chunk()?;
        let (function, rest) = bytes.split_first_chunk()?;
        let method = Self(WireFunction {
            trampoline: CodeLocation::in_program(u32::from_le_bytes(*trampoline)),
            function: CodeLocation::in_program(u32::from_le_bytes(*function)),
        });
        Some((method, rest))
    }
}

fn call_method<O, T, A, R>(
    function: FunctionPtr,
    object: &dyn Any,
    call: &mut Invocation<'_>,
) -> Result<(), CallError>
where
    O: Exclusive<T> + 'static,
    T: 'static,
    A: Wire,
    R: Wire,
{
    // SAFETY: only `WireMethod::of_user::<O, T, A, R>` pairs this trampoline with an address, and
    // it is the address of a `fn(&mut T, A) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(&mut T, A) -> R>(function.0) };
    let object: &O = downcast_object(object)?;
    let argument = call.decode()?;
    let result = object.with(|value| function(value, argument))?;
    call.encode(&result)
}

fn call_predicate<O, K, V, A>(
    function: FunctionPtr,
    object: &dyn Any,
    call: &mut Invocation<'_>,
) -> Result<(), CallError>
where
    O: Retain<K, V> + 'static,
    K: 'static,
    V: 'static,
    A: Wire,
{
    // SAFETY: only `WireMethod::of_predicate::<O, K, V, A>` pairs this trampoline with an address,
    // and it is the address of a `fn(&K, &mut V, &A) -> bool`.
    let keep = unsafe { mem::transmute::<*const (), fn(&K, &mut V, &A) -> bool>(function.0) };
    let object: &O = downcast_object(object)?;
    let argument = call.decode()?;
    object.retain(|key, value| keep(key, value, &argument))
}

fn call_handler<O: 'static>(
    function: FunctionPtr,
    object: &dyn Any,
    call: &mut Invocation<'_>,
) -> Result<(), CallError> {
    // SAFETY: only `WireMethod::handler::<O>` pairs this trampoline with an address, and it is the
    // address of a `MethodHandler<O>`.
    let function = unsafe { mem::transmute::<*const (), MethodHandler<O>>(function.0) };
    function(downcast_object(object)?, call)
}

/// Downcasts the object. Fails if the client's proxy names another type.
fn downcast_object<O: 'static>(object: &dyn Any) -> Result<&O, CallError> {
    object.downcast_ref().ok_or_else(|| {
        let message = format!("the object is not a {}", type_name::<O>());
        CallError::Refused(ErrorKind::Codec, message)
    })
}
