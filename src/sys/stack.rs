//! The calls that led to a panic: noted as places in modules where it happens, named in the process
//! that asks.
//!
//! Naming takes up to a second, as it reads the debug information of the program; noting takes some
//! microseconds. A place is an offset in a module, so that it means the same in every process that
//! has the module loaded, wherever that lies.

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

/// Calls that are noted at most, from the innermost on.
const MAX_FRAMES: usize = 128;

/// The function of std that calls the panic hook: what that calls tells nothing of the panic.
const PANIC_HOOK: &str = "__rust_end_short_backtrace";

/// The functions of this crate that call the user's: what calls them tells nothing of the panic
/// either.
const CALLER: &str = "procpool::process::function::";

/// Where calls stand in the code, as far as it can be told to another process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Frames {
    modules: Vec<ModuleOrigin>,
    /// From the innermost on.
    offsets: Vec<FrameOffset>,
}

/// A module as another process knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ModuleOrigin {
    id: u64,
    /// Of its file; empty for the program.
    name: String,
}

/// Where a call returns to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct FrameOffset {
    /// The number of its module among the origins; one past the end where no module is known.
    module: u32,
    /// From the module's load address or, without a module, from zero.
    offset: u64,
}

impl Frames {
    /// Notes the calls that have led here.
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
            let mut offsets = modules.iter().map(|it| it.0.offset_of(*address));
            let module = offsets.position(|it| it.is_some());
            let offset = module.and_then(|it| modules[it].0.offset_of(*address));
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

    /// Names the calls, as `std::backtrace` prints them; `is_ours` says whether they are of this
    /// program.
    fn text(&self, is_ours: bool) -> String {
        let mut functions = self.functions(is_ours);
        let is_hook = |it: &FrameFunction| it.name.contains(PANIC_HOOK);
        let hook = functions.iter().rposition(is_hook);
        functions.drain(..hook.map_or(0, |it| it + 1));
        let caller = functions.iter().position(|it| it.name.contains(CALLER));
        functions.truncate(caller.unwrap_or(functions.len()));
        let directory = std::env::current_dir().unwrap_or_default();
        let mut text = String::new();
        for (number, function) in functions.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = function.write(number, &directory, &mut text);
        }
        text
    }

    /// Returns the functions at the places; several at one where some were inlined there.
    fn functions(&self, is_ours: bool) -> Vec<FrameFunction> {
        let find = |origin: &ModuleOrigin| {
            let id = ModuleId(origin.id);
            (is_ours || id != ModuleId::PROGRAM).then(|| modules::with_id(id))?
        };
        let loaded: Vec<_> = self.modules.iter().map(find).collect();
        let mut functions = Vec::new();
        // Another process has written them, and may have written more.
        for place in self.offsets.iter().take(MAX_FRAMES) {
            let module = loaded.get(place.module as usize).and_then(Option::as_ref);
            let known = functions.len();
            functions.extend(module.map(|it| named(it, place.offset)).unwrap_or_default());
            if functions.len() == known {
                functions.push(self.unnamed(*place));
            }
        }
        functions
    }

    /// What can be said of a call of which this process knows no name.
    fn unnamed(&self, place: FrameOffset) -> FrameFunction {
        let origin = self.modules.get(place.module as usize);
        let name = match origin.map(|it| it.name.as_str()) {
            None => format!("{:#x}", place.offset),
            Some("") => format!("program+{:#x}", place.offset),
            Some(module) => format!("{module}+{:#x}", place.offset),
        };
        FrameFunction { name, source: None }
    }
}

/// Appends where a frame's call returns to; ends the walk when there is no room for more.
extern "C" fn note(frame: *mut c_void, walk: *mut c_void) -> c_int {
    /// `_URC_NO_REASON`.
    const GO_ON: c_int = 0;
    /// `_URC_END_OF_STACK`.
    const END: c_int = 5;
    // SAFETY: `here` passes its walk and does not touch it during the call.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let Some(free) = walk.addresses.get_mut(walk.count) else {
        return END;
    };
    // SAFETY: the unwinder passes a frame that is valid during this call.
    *free = unsafe { _Unwind_GetIP(frame) };
    walk.count += 1;
    GO_ON
}

/// What a walk has found. It lies on the stack: a panic may be of a process without memory.
struct Walk {
    addresses: [usize; MAX_FRAMES],
    count: usize,
}

// The unwinder of the language: std links it into every program.
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
    // The call is the instruction before: behind the last one another function may begin.
    let call = offset.saturating_sub(1);
    address
        .map(|it| symbols::functions(module, it, call))
        .unwrap_or_default()
}

impl FrameFunction {
    fn write(&self, number: usize, directory: &Path, text: &mut String) -> fmt::Result {
        writeln!(text, "{number:>4}: {}", self.name)?;
        let Some(source) = &self.source else {
            return Ok(());
        };
        let inside = source.file.strip_prefix(directory).ok();
        let file = inside.map_or_else(|| source.file.clone(), |it| Path::new(".").join(it));
        write!(text, "             at {}:{}", file.display(), source.line)?;
        let column = source.column.map(|it| format!(":{it}"));
        writeln!(text, "{}", column.unwrap_or_default())
    }
}

/// The calls that led to a panic in this program or in another, and their text once it was asked
/// for. Clones share that.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<TraceInner>);

#[derive(Default)]
struct TraceInner {
    frames: Frames,
    /// The [`modules::build`] of their program; `None` for this one.
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
        text.get_or_init(|| calls.text(build.is_none_or(|it| it == modules::build())))
    }
}

/// Its calls travel, with the program that they are of, and not its text: that takes long, and may
/// never be asked for.
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
