//! The loaded executable and shared objects: their addresses, identities and constructors.

use super::{
    elf::{build_id, bytes, constructors, segments},
    resident,
};
use std::{
    collections::hash_map::DefaultHasher,
    ffi::{CStr, c_char, c_int, c_void},
    fs::{self, File},
    hash::{Hash, Hasher},
    io,
    ops::Range,
    slice,
    sync::OnceLock,
};

/// Identifies a build of a module.
///
/// The program itself is [`ModuleId::PROGRAM`]: it is re-executed, so both sides run the same file
/// by construction. Any other module is identified by a hash of its build-id or, if the linker
/// wrote none, of its code. A module whose code is not readable is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModuleId(pub(crate) u64);

impl ModuleId {
    pub(crate) const PROGRAM: Self = Self(0);
}

/// A loaded module.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    pub(crate) id: ModuleId,
    /// The address from which offsets are counted.
    base: usize,
    /// Addresses of its executable segments.
    code: Vec<Range<usize>>,
    /// Address of its dynamic section, if it has one.
    dynamic: Option<usize>,
}

impl Module {
    /// Returns the offset of an address inside this module's code.
    pub(crate) fn offset_of(&self, address: usize) -> Option<u64> {
        self.holds(address).then(|| (address - self.base) as u64)
    }

    /// Returns the address at an offset, if there is code.
    pub(crate) fn address_of(&self, offset: u64) -> Option<usize> {
        let address = self.base.checked_add(usize::try_from(offset).ok()?)?;
        self.holds(address).then_some(address)
    }

    fn holds(&self, address: usize) -> bool {
        self.code.iter().any(|it| it.contains(&address))
    }

    /// Opens its file. `address` is any at which the file is mapped.
    pub(super) fn file(&self, address: usize) -> io::Result<File> {
        // The running file, even if another file has its name by now.
        if self.id == ModuleId::PROGRAM && !is_run_by_loader() {
            return File::open("/proc/self/exe");
        }
        let maps = fs::read_to_string("/proc/self/maps")?;
        let is_there =
            |line: &&str| resident::mapping_in(line).is_some_and(|it| it.contains(&address));
        let line = maps.lines().find(is_there).unwrap_or_default();
        let path = line.find('/').map(|at| &line[at..]);
        File::open(path.ok_or(io::ErrorKind::NotFound)?)
    }

    /// Returns the constructors that the loader runs after the one at `address`, or no constructors
    /// if it is not one of this module's.
    ///
    /// # Safety
    ///
    /// The module must still be loaded.
    pub(crate) unsafe fn constructors_after(&self, address: usize) -> Vec<usize> {
        // SAFETY: it is still loaded at the place that `describe` has found, by the caller's
        // contract.
        let constructors = |dynamic| unsafe { constructors(self.base, dynamic) };
        let all = self.dynamic.map(constructors).unwrap_or_default();
        let own = all.iter().position(|constructor| *constructor == address);
        let after = own.map(|own| &all[own + 1..]).unwrap_or_default();
        // 0 and -1 are fillers, which the loader skips too.
        after
            .iter()
            .copied()
            .filter(|function| *function != 0 && *function != usize::MAX)
            .collect()
    }
}

/// Returns the program's own module: the first that the loader lists, which is never unloaded.
pub(crate) fn program() -> &'static Module {
    static PROGRAM: OnceLock<Module> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut modules = loaded();
        let mut program = modules.swap_remove(0);
        program.id = ModuleId::PROGRAM;
        program
    })
}

/// Whether the kernel has executed the loader with the program as its argument. `/proc/self/exe` is
/// then the loader.
///
/// In this case the kernel's entry point is in another module than the program. The entry point of
/// a program that unpacks itself is in no module.
pub(crate) fn is_run_by_loader() -> bool {
    let auxiliary = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let entry = entry_in(&auxiliary).and_then(containing);
    entry.is_some_and(|module| module.id != ModuleId::PROGRAM)
}

/// Returns the entry point from the kernel's auxiliary vector, which consists of pairs of words.
/// The loader changes its own copy of it.
fn entry_in(auxiliary: &[u8]) -> Option<usize> {
    let words: Vec<usize> = auxiliary
        .chunks_exact(size_of::<usize>())
        .filter_map(|word| word.try_into().ok().map(usize::from_ne_bytes))
        .collect();
    let mut pairs = words.chunks_exact(2);
    let entry = pairs.find(|pair| pair[0] as u64 == libc::AT_ENTRY)?;
    Some(entry[1])
}

/// Returns an identity of this build of the program: a hash of its build-id or, if the linker wrote
/// none, of its code.
pub(crate) fn build() -> u64 {
    static BUILD: OnceLock<u64> = OnceLock::new();
    *BUILD.get_or_init(|| {
        let mut build = 0;
        // SAFETY: `identify_first` is called before this returns, with the number that is passed
        // here.
        unsafe { libc::dl_iterate_phdr(Some(identify_first), (&raw mut build).cast()) };
        build
    })
}

unsafe extern "C" fn identify_first(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    build: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a valid record, which it does not change during the call.
    let info = unsafe { &*info };
    // SAFETY: the loader's record names `dlpi_phnum` headers from `dlpi_phdr` on.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    // SAFETY: the module is loaded while the loader calls this: it holds its lock against
    // `dlclose`.
    let module = unsafe { describe(info.dlpi_addr as usize, headers, false) };
    // SAFETY: `build` passes its local and does not access it during the call.
    unsafe { *build.cast::<u64>() = module.map_or(0, |module| module.id.0) };
    // Ends the walk: the program is the first module.
    1
}

/// Returns the module that contains the code at `address`.
pub(crate) fn containing(address: usize) -> Option<Module> {
    find(|it| it.holds(address))
}

/// Returns the modules that contain code at any of these addresses, with their file names.
///
/// Unlike [`containing`], it walks once, and computes the identity of no other module.
pub(crate) fn holding(addresses: &[usize]) -> Vec<(Module, String)> {
    let mut search = ModuleSearch {
        addresses,
        is_first: true,
        found: Vec::new(),
    };
    // SAFETY: `collect_holding` is called before this returns, with the search that is passed here.
    unsafe { libc::dl_iterate_phdr(Some(collect_holding), (&raw mut search).cast()) };
    search.found
}

/// The addresses that [`holding`] looks up, and the modules found so far.
struct ModuleSearch<'a> {
    addresses: &'a [usize],
    /// Whether the next module is the program.
    is_first: bool,
    found: Vec<(Module, String)>,
}

unsafe extern "C" fn collect_holding(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    search: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a valid record, which it does not change during the call.
    let info = unsafe { &*info };
    // SAFETY: `holding` passes its search and does not access it during the call.
    let search = unsafe { &mut *search.cast::<ModuleSearch<'_>>() };
    let is_program = std::mem::take(&mut search.is_first);
    // SAFETY: the loader's record names `dlpi_phnum` headers from `dlpi_phdr` on.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let base = info.dlpi_addr as usize;
    let code: Vec<_> = segments(base, headers, libc::PT_LOAD, libc::PF_X).collect();
    let holds = |address: &usize| code.iter().any(|it| it.contains(address));
    if search.addresses.iter().any(holds) {
        // SAFETY: the module is loaded while the loader calls this: it holds its lock against
        // `dlclose`.
        let module = unsafe { describe(base, headers, is_program) };
        // SAFETY: null or the loader's name of the module, which ends with a zero.
        let name = unsafe { file_name(info.dlpi_name) };
        search.found.extend(module.map(|module| (module, name)));
    }
    0
}

/// Returns the last part of a path, or an empty string for the null pointer.
///
/// # Safety
///
/// A `path` that is not null must end with a zero byte.
unsafe fn file_name(path: *const c_char) -> String {
    if path.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's contract.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    let name = path.rsplit('/').next().unwrap_or_default();
    name.to_owned()
}

/// Returns the loaded module with this identity.
pub(crate) fn with_id(id: ModuleId) -> Option<Module> {
    find(|module| module.id == id)
}

fn find(wanted: impl Fn(&Module) -> bool) -> Option<Module> {
    let program = program();
    if wanted(program) {
        return Some(program.clone());
    }
    loaded().into_iter().skip(1).find(wanted)
}

/// Returns all modules, the program first. Modules are loaded and unloaded (`dlopen`), so only the
/// program is cached.
fn loaded() -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    // SAFETY: `collect` is called before this returns, with the vector that is passed here.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut modules).cast()) };
    modules
}

unsafe extern "C" fn collect(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    modules: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a valid record, which it does not change during the call.
    let info = unsafe { &*info };
    // SAFETY: `loaded` passes its vector and does not access it during the call.
    let modules = unsafe { &mut *modules.cast::<Vec<Module>>() };
    // SAFETY: the loader's record names `dlpi_phnum` headers from `dlpi_phdr` on.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    // SAFETY: the module is loaded while the loader calls this: it holds its lock against
    // `dlclose`.
    let module = unsafe { describe(info.dlpi_addr as usize, headers, modules.is_empty()) };
    modules.extend(module);
    0
}

/// Returns `None` for a module without an identity, whose functions cannot be named.
///
/// # Safety
///
/// `headers` must be those of a module at `base` that stays loaded during the call.
unsafe fn describe(base: usize, headers: &[libc::Elf64_Phdr], is_program: bool) -> Option<Module> {
    let segments = |wanted, flags| segments(base, headers, wanted, flags);
    let id = if is_program {
        ModuleId::PROGRAM
    } else {
        let (notes, code) = (
            segments(libc::PT_NOTE, libc::PF_R),
            segments(libc::PT_LOAD, libc::PF_R | libc::PF_X),
        );
        // SAFETY: these segments are mapped, by the caller's contract, and readable by their flags.
        unsafe { identity(notes, code) }?
    };
    Some(Module {
        id,
        base,
        code: segments(libc::PT_LOAD, libc::PF_X).collect(),
        dynamic: segments(libc::PT_DYNAMIC, 0).next().map(|it| it.start),
    })
}

/// Returns a hash of the build-id or, without one, of the code; `None` if both are missing.
///
/// # Safety
///
/// Each segment must satisfy the contract of [`bytes`].
unsafe fn identity(
    mut notes: impl Iterator<Item = Range<usize>>,
    code: impl Iterator<Item = Range<usize>>,
) -> Option<ModuleId> {
    let mut hasher = DefaultHasher::new();
    // SAFETY: by the caller's contract.
    let build_id = notes.find_map(|segment| build_id(unsafe { bytes(segment) }));
    match build_id {
        Some(id) => id.hash(&mut hasher),
        None => {
            let mut code = code.peekable();
            code.peek()?;
            // SAFETY: by the caller's contract.
            code.for_each(|segment| unsafe { bytes(segment) }.hash(&mut hasher));
        }
    }
    Some(ModuleId(hasher.finish().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() {}

    #[test]
    fn a_function_of_the_program_is_found_by_offset() {
        let address = here as fn() as usize;
        let module = containing(address).expect("the program");
        assert_eq!(module.id, ModuleId::PROGRAM);
        let offset = module.offset_of(address).expect("inside");
        assert_eq!(program().address_of(offset), Some(address));
    }

    #[test]
    fn a_function_of_a_shared_object_is_found_by_its_build() {
        let address = libc::getpid as unsafe extern "C" fn() -> i32 as usize;
        let module = containing(address).expect("libc");
        assert_ne!(module.id, ModuleId::PROGRAM);
        let again = with_id(module.id).expect("still loaded");
        assert_eq!(module.offset_of(address), again.offset_of(address));
    }

    #[test]
    fn code_that_cannot_be_read_is_not_read() {
        // SAFETY: all zeros are a header.
        let mut header: libc::Elf64_Phdr = unsafe { std::mem::zeroed() };
        (header.p_type, header.p_flags) = (libc::PT_LOAD, libc::PF_X);
        (header.p_vaddr, header.p_memsz) = (1 << 12, 1 << 12);
        // SAFETY: the module has no readable bytes, so none are read.
        let module = unsafe { describe(0, &[header], false) };
        assert!(module.is_none());
        // SAFETY: as above.
        let program = unsafe { describe(0, &[header], true) }.expect("it needs no identity");
        assert_eq!(program.offset_of(1 << 12), Some(1 << 12));
    }

    #[test]
    fn an_address_outside_of_code_is_in_no_module() {
        let on_the_stack = 0u8;
        assert!(containing(&raw const on_the_stack as usize).is_none());
        assert_eq!(program().address_of(u64::MAX), None);
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut notes = Vec::new();
        for (kind, text) in [(1u32, &b"other"[..]), (3, b"identity")] {
            for word in [4, text.len() as u32, kind] {
                notes.extend(word.to_ne_bytes());
            }
            notes.extend(b"GNU\0");
            notes.extend(text);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(build_id(&notes), Some(&b"identity"[..]));
        assert_eq!(build_id(&notes[..20]), None);
        assert_eq!(build_id(&[]), None);
    }
}
