//! Functions on the wire: a module and an offset, twice, and what calls them on the other side.
//!
//! A `fn` pointer means nothing in another process. Its place inside the module that holds it does, as long as the other
//! process has loaded the same build of that module. The types of argument and result are known where the call is made
//! only, so beside the user's function travels one of the generic *trampolines* below, made there for just those types:
//! it decodes, calls, encodes. The two may lie in different modules (a plug-in's function, called through a trampoline that
//! was instantiated in the program), so each has its own.

#![expect(unsafe_code, reason = "addresses become functions again")]

use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Buffer, Cursor};
use crate::sys::modules::{self, ModuleId};
use crate::wire::{
    Wire, codec,
    handle::{self, Descriptor},
};
use serde::Serialize;
use std::{
    any::{Any, type_name},
    fmt, mem,
    os::fd::OwnedFd,
    ptr,
};

/// Code, by its module and the offset from where that module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Location {
    module: ModuleId,
    offset: u64,
}

impl Location {
    /// Bytes on the wire.
    pub(crate) const SIZE: usize = 16;

    fn of(address: usize) -> Result<Self> {
        let program = modules::program();
        if let Some(offset) = program.offset_of(address) {
            return Ok(Self {
                module: program.id,
                offset,
            });
        }
        let module = modules::containing(address);
        let place = module.and_then(|it| Some((it.id, it.offset_of(address)?)));
        let (module, offset) = place.ok_or_else(|| {
            unknown("the function lies in no loaded module, so no other process can find it")
        })?;
        Ok(Self { module, offset })
    }

    fn address(self) -> Result<usize> {
        if self.module == ModuleId::PROGRAM {
            return modules::program()
                .address_of(self.offset)
                .ok_or_else(|| unknown("the function's address holds no code"));
        }
        let module = modules::with_id(self.module)
            .ok_or_else(|| unknown("the function's module is not loaded in the worker"))?;
        module
            .address_of(self.offset)
            .ok_or_else(|| unknown("the function's address holds no code"))
    }

    /// The offset, if the program holds it and it has 32 bits.
    fn short(self) -> Option<u32> {
        let offset = u32::try_from(self.offset).ok()?;
        (self.module == ModuleId::PROGRAM).then_some(offset)
    }

    fn in_program(offset: u32) -> Self {
        Self {
            module: ModuleId::PROGRAM,
            offset: offset.into(),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.module.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (module, offset) = bytes.split_at(8);
        let word = |it: &[u8]| u64::from_le_bytes(it.try_into().expect("half of 16 bytes"));
        Self {
            module: ModuleId(word(module)),
            offset: word(offset),
        }
    }
}

fn unknown(message: &str) -> Error {
    Error::new(ErrorKind::UnknownFunction, message)
}

/// What a process that was started is given.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// What was passed, and behind it the mark of a process that runs on, as long as it is open.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) bytes: Vec<u8>,
}

/// What a process that was started runs; it gives its exit code.
pub(crate) type ChildMain = fn(Given) -> i32;

/// Names a child's main function.
pub(crate) fn locate_main(main: ChildMain) -> Result<Location> {
    Location::of(main as usize)
}

/// Finds a child's main function in the fork server.
pub(crate) fn resolve_main(location: Location) -> Result<ChildMain> {
    let address = ptr::with_exposed_provenance::<()>(location.address()?);
    // SAFETY: locations reach the fork server from its owner only, which runs the same build, and there from `locate_main`:
    // what lies at this offset is a `ChildMain`.
    Ok(unsafe { mem::transmute::<*const (), ChildMain>(address) })
}

/// Why a call gave no value, when it did not panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The argument could not be decoded.
    Decode(codec::Reason),
    /// The result could not be encoded.
    Encode(codec::Reason),
    /// An initializer returned this error.
    Initializer(String),
    /// What was called has said no.
    Refused(ErrorKind, String),
}

/// What a trampoline works on.
pub(crate) struct Invocation<'a> {
    /// The encoded argument.
    pub(crate) argument: Cursor<'a>,
    /// The decoded context of a `map_with`.
    pub(crate) context: Option<&'a dyn Any>,
    /// Where the encoded result goes.
    pub(crate) result: &'a mut Buffer,
    /// The handles in argument and result.
    pub(crate) handles: &'a mut Handles,
}

/// Descriptors beside a call.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    /// Those in its argument.
    pub(crate) given: Vec<OwnedFd>,
    /// Those in its result.
    pub(crate) left: Vec<Descriptor>,
}

impl Invocation<'_> {
    /// Decodes the argument. The list of handles is there meanwhile, not while the user's function runs.
    #[inline]
    pub(crate) fn decode<A: Wire>(&mut self) -> Result<A, Failure> {
        let argument = &mut self.argument;
        let decoded = if self.handles.given.is_empty() {
            codec::decode(argument)
        } else {
            let given = mem::take(&mut self.handles.given);
            handle::provide(given, || codec::decode(argument))
        };
        decoded.map_err(Failure::Decode)
    }

    /// Encodes the result, or what serde takes for it.
    #[inline]
    pub(crate) fn encode<R: Serialize>(&mut self, value: &R) -> Result<(), Failure> {
        let result = &mut *self.result;
        let left = &mut self.handles.left;
        let encoded = handle::collect(left, || codec::encode(value, result));
        encoded.map_err(Failure::Encode)
    }

    /// Encodes a slice that is decoded as a `Vec<R>`.
    pub(crate) fn encode_slice<R: Serialize>(&mut self, items: &[R]) -> Result<(), Failure> {
        let result = &mut *self.result;
        let left = &mut self.handles.left;
        let encoded = handle::collect(left, || codec::encode_slice(items, result));
        encoded.map_err(Failure::Encode)
    }

    /// Encodes a result that is decoded as a `Vec<R>`.
    pub(crate) fn encode_items<'a, R: Serialize + 'a>(
        &mut self,
        items: impl IntoIterator<Item = &'a R>,
    ) -> Result<(), Failure> {
        let result = &mut *self.result;
        let left = &mut self.handles.left;
        let encoded = handle::collect(left, || codec::encode_items(items, result));
        encoded.map_err(Failure::Encode)
    }
}

/// An object whose users take turns.
pub(crate) trait Exclusive<T> {
    /// Has one turn.
    fn with<X>(&self, turn: impl FnOnce(&mut T) -> X) -> Result<X, Failure>;
}

/// An object of keys and values, of which some can be dropped.
pub(crate) trait Retain<K, V> {
    /// Drops those that `keep` says no to: all of them, or none if it panics.
    fn retain(&self, keep: impl FnMut(&K, &mut V) -> bool) -> Result<(), Failure>;
}

/// What a call on an object of this crate's does: it decodes, acts and encodes itself.
pub(crate) type Handler<O> = fn(&O, &mut Invocation<'_>) -> Result<(), Failure>;

type MethodTrampoline = fn(Address, &dyn Any, &mut Invocation<'_>) -> Result<(), Failure>;
type Trampoline = fn(Address, &mut Invocation<'_>) -> Result<(), Failure>;
type ContextTrampoline = fn(&mut Cursor<'_>) -> Result<Box<dyn Any>, Failure>;

/// The address of a user's function, typeless until its trampoline says what it is.
#[derive(Clone, Copy)]
struct Address(*const ());

/// A user's function and its trampoline, as they travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Function {
    trampoline: Location,
    function: Location,
}

impl Function {
    /// Bytes on the wire.
    pub(crate) const SIZE: usize = 2 * Location::SIZE;

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
            trampoline: Location::of(trampoline as usize)?,
            function: Location::of(function)?,
        })
    }

    /// Finds both in this process.
    pub(crate) fn resolve(self) -> Result<Callable> {
        let trampoline = ptr::with_exposed_provenance::<()>(self.trampoline.address()?);
        let function = ptr::with_exposed_provenance::<()>(self.function.address()?);
        // SAFETY: a `Function` is made by `pair` alone, of a `Trampoline`, in a process that has loaded the same build of
        // the same module; its bytes reach us from our owner only, through a pipe that nobody else can write to.
        let trampoline = unsafe { mem::transmute::<*const (), Trampoline>(trampoline) };
        Ok(Callable {
            trampoline,
            function: Address(function),
        })
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..Location::SIZE].copy_from_slice(&self.trampoline.to_bytes());
        bytes[Location::SIZE..].copy_from_slice(&self.function.to_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let half = |at| Location::from_bytes(bytes[at..].first_chunk().expect("half of 32 bytes"));
        Self {
            trampoline: half(0),
            function: half(Location::SIZE),
        }
    }
}

/// A function that can be called in this process.
#[derive(Clone, Copy)]
pub(crate) struct Callable {
    trampoline: Trampoline,
    function: Address,
}

impl Callable {
    /// Decodes, calls, encodes. A panic of the user's code comes through.
    pub(crate) fn invoke(self, call: &mut Invocation<'_>) -> Result<(), Failure> {
        (self.trampoline)(self.function, call)
    }
}

/// A function on an object that another process has, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Method(Function);

impl Method {
    /// Bytes on the wire.
    pub(crate) const SIZE: usize = Function::SIZE;

    /// Two offsets in the program follow, of 4 bytes each.
    const SHORT: u8 = 0;
    /// Modules and offsets follow.
    const LONG: u8 = 1;

    /// A user's function, on what lies in an `O`.
    pub(crate) fn of_user<O, T, A, R>(f: fn(&mut T, A) -> R) -> Result<Self>
    where
        O: Exclusive<T> + 'static,
        T: 'static,
        A: Wire,
        R: Wire,
    {
        Self::pair(call_method::<O, T, A, R>, f as usize)
    }

    /// A user's function that chooses, on what lies in an `O`.
    pub(crate) fn of_choice<O, K, V, A>(f: fn(&K, &mut V, &A) -> bool) -> Result<Self>
    where
        O: Retain<K, V> + 'static,
        K: 'static,
        V: 'static,
        A: Wire,
    {
        Self::pair(call_choice::<O, K, V, A>, f as usize)
    }

    /// One of this crate's.
    pub(crate) fn handler<O: 'static>(f: Handler<O>) -> Result<Self> {
        Self::pair(call_handler::<O>, f as usize)
    }

    fn pair(trampoline: MethodTrampoline, function: usize) -> Result<Self> {
        Ok(Self(Function {
            trampoline: Location::of(trampoline as usize)?,
            function: Location::of(function)?,
        }))
    }

    /// Finds it in this process, and calls it. A panic of the user's code comes through.
    pub(crate) fn call(self, object: &dyn Any, call: &mut Invocation<'_>) -> Result<(), Failure> {
        let address = |it: Location| {
            let found = it.address().map(ptr::with_exposed_provenance::<()>);
            found.map_err(|it| Failure::Refused(it.kind(), it.to_string()))
        };
        let (trampoline, function) = (address(self.0.trampoline)?, address(self.0.function)?);
        // SAFETY: a `Method` is made by `pair` alone, of a `MethodTrampoline`; its bytes reach us from clients only that have
        // proved that they know the key and have said that they run the same build, as the manager's handshake sees to.
        let trampoline = unsafe { mem::transmute::<*const (), MethodTrampoline>(trampoline) };
        trampoline(Address(function), object, call)
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        self.0.to_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        Self(Function::from_bytes(bytes))
    }

    /// Appends it, in few bytes if it lies in the program, as it mostly does: a small request is read in one piece then.
    #[inline]
    pub(crate) fn put(self, message: &mut Vec<u8>) {
        let (trampoline, function) = (self.0.trampoline.short(), self.0.function.short());
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

    /// What [`put`](Self::put) has put, and what follows it.
    #[inline]
    pub(crate) fn split_off(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (kind, bytes) = bytes.split_first()?;
        if *kind == Self::LONG {
            let (method, rest) = bytes.split_first_chunk()?;
            return Some((Self::from_bytes(method), rest));
        }
        let (trampoline, bytes) = bytes.split_first_chunk()?;
        let (function, rest) = bytes.split_first_chunk()?;
        let method = Self(Function {
            trampoline: Location::in_program(u32::from_le_bytes(*trampoline)),
            function: Location::in_program(u32::from_le_bytes(*function)),
        });
        Some((method, rest))
    }
}

/// The decoder of a context's type, as it travels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContextLoader(Location);

impl ContextLoader {
    pub(crate) fn new<C: Wire + 'static>() -> Result<Self> {
        Ok(Self(Location::of(
            load_context::<C> as ContextTrampoline as usize,
        )?))
    }

    /// Decodes the context.
    pub(crate) fn load(self, bytes: &mut Cursor<'_>) -> Result<Result<Box<dyn Any>, Failure>> {
        let address = ptr::with_exposed_provenance::<()>(self.0.address()?);
        // SAFETY: as in `Function::resolve`; `new` is the only maker, of a `ContextTrampoline`.
        let load = unsafe { mem::transmute::<*const (), ContextTrampoline>(address) };
        Ok(load(bytes))
    }

    pub(crate) fn to_bytes(self) -> [u8; Location::SIZE] {
        self.0.to_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8; Location::SIZE]) -> Self {
        Self(Location::from_bytes(bytes))
    }
}

fn load_context<C: Wire + 'static>(bytes: &mut Cursor<'_>) -> Result<Box<dyn Any>, Failure> {
    Ok(Box::new(
        codec::decode::<C>(bytes).map_err(Failure::Decode)?,
    ))
}

fn call_unary<A: Wire, R: Wire>(
    function: Address,
    call: &mut Invocation<'_>,
) -> Result<(), Failure> {
    // SAFETY: `Function::unary::<A, R>` alone pairs this trampoline with an address, that of a `fn(A) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(A) -> R>(function.0) };
    let argument = call.decode()?;
    call.encode(&function(argument))
}

fn call_binary<A: Wire, B: Wire, R: Wire>(
    function: Address,
    call: &mut Invocation<'_>,
) -> Result<(), Failure> {
    // SAFETY: `Function::binary::<A, B, R>` alone pairs this trampoline with an address, that of a `fn(A, B) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(A, B) -> R>(function.0) };
    let (a, b) = call.decode()?;
    call.encode(&function(a, b))
}

fn call_contextual<C: Wire + 'static, A: Wire + 'static, R: Wire + 'static>(
    function: Address,
    call: &mut Invocation<'_>,
) -> Result<(), Failure> {
    // SAFETY: `Function::contextual::<C, A, R>` alone pairs this trampoline with an address, that of a `fn(&C, A) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(&C, A) -> R>(function.0) };
    let context = call.context.and_then(|it| it.downcast_ref::<C>());
    let context = context.expect("the context was sent before the call and has its type");
    let argument = call.decode()?;
    call.encode(&function(context, argument))
}

fn call_initializer<A: Wire + 'static, E: fmt::Display + 'static>(
    function: Address,
    call: &mut Invocation<'_>,
) -> Result<(), Failure> {
    // SAFETY: `Function::initializer::<A, E>` alone pairs this trampoline with an address, that of such a function.
    let function = unsafe { mem::transmute::<*const (), fn(A) -> Result<(), E>>(function.0) };
    let argument = call.decode()?;
    function(argument).map_err(|error| Failure::Initializer(error.to_string()))
}

fn call_method<O, T, A, R>(
    function: Address,
    object: &dyn Any,
    call: &mut Invocation<'_>,
) -> Result<(), Failure>
where
    O: Exclusive<T> + 'static,
    T: 'static,
    A: Wire,
    R: Wire,
{
    // SAFETY: `Method::of_user::<O, T, A, R>` alone pairs this trampoline with an address, that of a `fn(&mut T, A) -> R`.
    let function = unsafe { mem::transmute::<*const (), fn(&mut T, A) -> R>(function.0) };
    let object: &O = of_type(object)?;
    let argument = call.decode()?;
    let result = object.with(|it| function(it, argument))?;
    call.encode(&result)
}

fn call_choice<O, K, V, A>(
    function: Address,
    object: &dyn Any,
    call: &mut Invocation<'_>,
) -> Result<(), Failure>
where
    O: Retain<K, V> + 'static,
    K: 'static,
    V: 'static,
    A: Wire,
{
    // SAFETY: `Method::of_choice::<O, K, V, A>` alone pairs this trampoline with an address, that of a
    // `fn(&K, &mut V, &A) -> bool`.
    let choose = unsafe { mem::transmute::<*const (), fn(&K, &mut V, &A) -> bool>(function.0) };
    let object: &O = of_type(object)?;
    let argument = call.decode()?;
    object.retain(|key, value| choose(key, value, &argument))
}

fn call_handler<O: 'static>(
    function: Address,
    object: &dyn Any,
    call: &mut Invocation<'_>,
) -> Result<(), Failure> {
    // SAFETY: `Method::handler::<O>` alone pairs this trampoline with an address, that of a `Handler<O>`.
    let function = unsafe { mem::transmute::<*const (), Handler<O>>(function.0) };
    function(of_type(object)?, call)
}

/// The object, which a proxy of another type may name.
fn of_type<O: 'static>(object: &dyn Any) -> Result<&O, Failure> {
    object.downcast_ref().ok_or_else(|| {
        let message = format!("the object is no {}", type_name::<O>());
        Failure::Refused(ErrorKind::Codec, message)
    })
}
