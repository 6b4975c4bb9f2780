//! The stack of a panic: recorded as offsets in modules in the process that panics, named in the
//! process that asks for the text.
//!
//! Naming takes up to a second, because it reads the debug information of the program. Recording
//! takes microseconds. An offset in a module means the same in every process that has loaded the
//! module, at any address.

use super::{
    modules::{self, Module, ModuleId},
    symbols::{self, FrameFunction},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    ffi::{c_int, c_void},
    fmt::{self, Write},
    path::Path,
    sync::{Arc, OnceLock},
};

/// Maximum number of recorded calls, from the innermost outwards.
const MAX_FRAMES: usize = 128;

/// The function of std that calls the panic hook. The calls inside it are not part of the panic's
/// cause.
const PANIC_HOOK: &str = "__rust_end_short_backtrace";

/// The functions of this crate that call the user's functions. The calls outside them are not part
/// of the panic's cause.
const CALLER: &str = "procpool::process::function::";

/// The call sites in the code, in a form that another process can resolve.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Frames {
    modules: Vec<ModuleOrigin>,
    /// From the innermost outwards.
    offsets: Vec<FrameOffset>,
}

/// A module, as another process identifies it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ModuleOrigin {
    id: u64,
    /// The file name; empty for the program.
    name: String,
}

/// A return address.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct FrameOffset {
    /// The index of its module; one past the end if the module is unknown.
    module: u32,
    /// Counted from the module's load address, or from zero without a module.
    offset: u64,
}

impl Frames {
    /// Records the current calls of this thread.
    pub(crate) fn here() -> Self {
        let mut walk = Walk {
            addresses: [0; MAX_FRAMES],
            count: 0,
        };
        // SAFETY: `note` is called before this returns, with the walk that is passed here.
        unsafe { _Unwind_Backtrace(note, (&raw mut walk).cast()) };
        Self::at(&walk.addresses[..walk.count])
    }

    fn at(addresses: &[usize]) -> Self {
        let modules = modules::holding(addresses);
        let place = |address: &usize| {
            let mut offsets = modules.iter().map(|(module, _)| module.offset_of(*address));
            let module = offsets.position(|it| it.is_some());
            let offset = module.and_then(|index| modules[index].0.offset_of(*address));
            FrameOffset {
                module: module.unwrap_or(modules.len()) as u32,
                offset: offset.unwrap_or(*address as u64),
            }
        };
        let places = addresses.iter().map(place).collect();
        let origin = |(module, name): (modules::Module, String)| ModuleOrigin {
            id: module.id.0,
            name,
        };
        Self {
            offsets: places,
            modules: modules.into_iter().map(origin).collect(),
        }
    }

    /// Names the calls in the format of `std::backtrace`. `is_ours` is whether they belong to this
    /// program.
    fn text(&self, is_ours: bool) -> String {
        let mut functions = self.functions(is_ours);
        let is_hook = |it: &FrameFunction| it.name.contains(PANIC_HOOK);
        let hook = functions.iter().rposition(is_hook);
        functions.drain(..hook.map_or(0, |index| index + 1));
        let caller = functions
            .iter()
            .position(|function| function.name.contains(CALLER));
        functions.truncate(caller.unwrap_or(functions.len()));
        let directory = std::env::current_dir().unwrap_or_default();
        let mut text = String::new();
        for (number, function) in functions.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = function.write(number, &directory, &mut text);
        }
        text
    }

    /// Returns the functions at the offsets; several for an offset with inlined functions.
    fn functions(&self, is_ours: bool) -> Vec<FrameFunction> {
        let find = |origin: &ModuleOrigin| {
            let id = ModuleId(origin.id);
            (is_ours || id != ModuleId::PROGRAM).then(|| modules::with_id(id))?
        };
        let loaded: Vec<_> = self.modules.iter().map(find).collect();
        let mut functions = Vec::new();
        // The frames may come from another process, and may be more.
        for place in self.offsets.iter().take(MAX_FRAMES) {
            let module = loaded.get(place.module as usize).and_then(Option::as_ref);
            let known = functions.len();
            functions.extend(
                module
                    .map(|module| named(module, place.offset))
                    .unwrap_or_default(),
            );
            if functions.len() == known {
                functions.push(self.unnamed(*place));
            }
        }
        functions
    }

    /// Describes a call whose function has no name in this process.
    fn unnamed(&self, place: FrameOffset) -> FrameFunction {
        let origin = self.modules.get(place.module as usize);
        let name = match origin.map(|origin| origin.name.as_str()) {
            None => format!("{:#x}", place.offset),
            Some("") => format!("program+{:#x}", place.offset),
            Some(module) => format!("{module}+{:#x}", place.offset),
        };
        FrameFunction { name, source: None }
    }
}

/// Appends a frame's return address. Ends the walk if the array is full.
extern "C" fn note(frame: *mut c_void, walk: *mut c_void) -> c_int {
    /// `_URC_NO_REASON`.
    const GO_ON: c_int = 0;
    /// `_URC_END_OF_STACK`.
    const END: c_int = 5;
    // SAFETY: `here` passes its walk and does not access it during the call.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let Some(free) = walk.addresses.get_mut(walk.count) else {
        return END;
    };
    // SAFETY: the unwinder passes a frame that is valid during this call.
    *free = unsafe { _Unwind_GetIP(frame) };
    walk.count += 1;
    GO_ON
}

/// The result of a walk. It is on the stack: a process that panics may be out of memory.
struct Walk {
    addresses: [usize; MAX_FRAMES],
    count: usize,
}

// The unwinder of the language, which std links into every program.
unsafe extern "C" {
    fn _Unwind_Backtrace(
        trace: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(frame: *mut c_void) -> usize;
}

/// Returns the functions that contain the call which returns to an offset.
fn named(module: &Module, offset: u64) -> Vec<FrameFunction> {
    let address = module.address_of(offset);
    // The call is the instruction before. Another function may begin after it.
    let call = offset.saturating_sub(1);
    address
        .map(|address| symbols::functions(module, address, call))
        .unwrap_or_default()
}

impl FrameFunction {
    fn write(&self, number: usize, directory: &Path, text: &mut String) -> fmt::Result {
        writeln!(text, "{number:>4}: {}", self.name)?;
        let Some(source) = &self.source else {
            return Ok(());
        };
        let inside = source.file.strip_prefix(directory).ok();
        let file = inside.map_or_else(|| source.file.clone(), |inside| Path::new(".").join(inside));
        write!(text, "             at {}:{}", file.display(), source.line)?;
        let column = source.column.map(|column| format!(":{column}"));
        writeln!(text, "{}", column.unwrap_or_default())
    }
}

/// The stack of a panic in this program or another, and its text after the first request. Clones
/// share them.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<TraceInner>);

#[derive(Default)]
struct TraceInner {
    frames: Frames,
    /// The [`modules::build`] of the other program; `None` for this one.
    build: Option<u64>,
    text: OnceLock<String>,
}

impl Trace {
    /// Returns the stack of a process of this program.
    pub(crate) fn of_this_program(calls: Frames) -> Self {
        Self::new(calls, None)
    }

    fn new(calls: Frames, build: Option<u64>) -> Self {
        Self(Arc::new(TraceInner {
            frames: calls,
            build,
            text: OnceLock::new(),
        }))
    }

    /// Returns the names of the calls. The first call reads them from the program's file.
    pub(crate) fn text(&self) -> &str {
        let TraceInner {
            frames: calls,
            build,
            text,
        } = &*self.0;
        text.get_or_init(|| calls.text(build.is_none_or(|build| build == modules::build())))
    }
}

/// Sends the calls and the program's build without the text, which is slow to compute and may never
/// be needed.
impl Serialize for Trace {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let build = self.0.build.unwrap_or_else(modules::build);
        (&self.0.frames, build).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Trace {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (calls, build) = <(Frames, u64)>::deserialize(from)?;
        Ok(Self::new(calls, Some(build)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_where_they_are_asked_for() {
        let stack = Trace::of_this_program(Frames::here());
        assert!(
            stack.text().contains("calls_are_named_where"),
            "{}",
            stack.text()
        );
    }

    #[test]
    fn calls_of_another_program_are_places() {
        let calls = Frames::here();
        let text = Trace::new(calls, Some(modules::build() ^ 1))
            .text()
            .to_owned();
        assert!(text.starts_with("   0: program+0x"), "{text}");
    }

    #[test]
    fn calls_in_a_module_that_is_not_here_are_places() {
        let module = ModuleOrigin {
            id: 7,
            name: "libplugin.so".to_owned(),
        };
        let place = |module, offset| FrameOffset { module, offset };
        let calls = Frames {
            modules: vec![module],
            offsets: vec![place(0, 0x10), place(1, 0x20), place(u32::MAX, u64::MAX)],
        };
        let expected = "   0: libplugin.so+0x10\n   1: 0x20\n   2: 0xffffffffffffffff\n";
        assert_eq!(calls.text(true), expected);
    }
}
