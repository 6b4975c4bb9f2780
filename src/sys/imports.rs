//! The imports of modules: the slots that hold the addresses of functions of other modules.
//!
//! Only for processes that this crate owns completely: writing to a slot changes which function a
//! module calls.

use super::{elf, memory};
use std::{
    ffi::{CStr, c_int, c_void},
    io,
    ops::Range,
    ptr, slice,
};

/// The types of relocations of a slot that holds a function's address.
#[cfg(target_arch = "x86_64")]
const SLOT_TYPES: &[u64] = &[6, 7];
#[cfg(target_arch = "aarch64")]
const SLOT_TYPES: &[u64] = &[1025, 1026];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const SLOT_TYPES: &[u64] = &[];

/// The place where a module keeps the address of an imported function.
#[derive(Debug)]
pub(super) struct Import {
    slot: usize,
    /// Addresses that the loader has made read-only after it had written the slots.
    sealed: Range<usize>,
}

impl Import {
    /// Writes another address to the slot.
    ///
    /// # Safety
    ///
    /// A function of the same type must be there forever, and this process must have one thread.
    pub(super) unsafe fn redirect(&self, function: usize) -> io::Result<()> {
        let page = memory::page_size()?;
        let is_sealed = self.sealed.contains(&self.slot);
        let start = ptr::with_exposed_provenance_mut::<c_void>(self.slot / page * page);
        let protect = |protection| {
            // SAFETY: the page holds data of the module, and stays readable.
            is_sealed && unsafe { libc::mprotect(start, page, protection) } != 0
        };
        if protect(libc::PROT_READ | libc::PROT_WRITE) {
            return Err(io::Error::last_os_error());
        }
        let slot = ptr::with_exposed_provenance_mut::<usize>(self.slot);
        // SAFETY: the loader's slot for this function; no other thread reads it, by the caller's
        // contract.
        unsafe { slot.write_volatile(function) };
        // After a failure the page stays writable, like the pages of modules without this
        // protection.
        protect(libc::PROT_READ);
        Ok(())
    }
}

/// Returns the slots for the function with this name in all loaded modules.
pub(super) fn of(name: &CStr) -> Vec<Import> {
    let Ok(page) = memory::page_size() else {
        return Vec::new();
    };
    let mut search = ImportSearch {
        name,
        page,
        found: Vec::new(),
    };
    // SAFETY: `collect` runs only before this returns, with the search that is passed here.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut search).cast()) };
    search.found
}

struct ImportSearch<'a> {
    name: &'a CStr,
    /// The size of a page in bytes.
    page: usize,
    found: Vec<Import>,
}

unsafe extern "C" fn collect(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    search: *mut c_void,
) -> c_int {
    // SAFETY: the loader passes a valid record, which it does not change during the call.
    let info = unsafe { &*info };
    // SAFETY: `of` passes its search and does not access it during the call.
    let search = unsafe { &mut *search.cast::<ImportSearch<'_>>() };
    // SAFETY: the loader's record names `dlpi_phnum` headers from `dlpi_phdr` on.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let base = info.dlpi_addr as usize;
    let segment = |wanted| elf::segments(base, headers, wanted, 0).next();
    let Some(dynamic) = segment(libc::PT_DYNAMIC) else {
        return 0;
    };
    // SAFETY: the module is loaded while the loader calls this: it holds its lock against
    // `dlclose`.
    let tables = unsafe { DynamicTables::read(base, dynamic.start) };
    // SAFETY: as above.
    let slots = unsafe { tables.slots_of(search.name) };
    let relro = segment(libc::PT_GNU_RELRO).unwrap_or_default();
    let sealed = sealed(relro, search.page);
    search.found.extend(slots.into_iter().map(|slot| Import {
        slot: base.wrapping_add(slot),
        sealed: sealed.clone(),
    }));
    0
}

/// Returns the part of a segment that the loader makes read-only.
///
/// The page in which the segment ends stays writable. A linker for pages of 4 KiB puts other data
/// there if the machine's pages are larger.
fn sealed(relro: Range<usize>, page: usize) -> Range<usize> {
    relro.start..relro.end / page * page
}

/// The tables with which the loader links a module.
#[derive(Debug, Default)]
struct DynamicTables {
    /// Addresses.
    symbols: usize,
    names: usize,
    /// The addresses of both tables of relocations, and their lengths in bytes.
    relocations: [(usize, usize); 2],
    /// The number of relocations without a symbol at the start of the first table.
    nameless: usize,
}

/// An entry of a table of relocations.
#[repr(C)]
struct Relocation {
    offset: u64,
    /// The type in the low half, the symbol's number in the high half.
    info: u64,
    addend: i64,
}

/// The size of an entry of the symbol table, in bytes. It starts with the offset of the name in the
/// string table, in 32 bits.
const SYMBOL: usize = 24;

impl DynamicTables {
    /// # Safety
    ///
    /// A module must be loaded at `base`, with its dynamic section at `dynamic`.
    unsafe fn read(base: usize, dynamic: usize) -> Self {
        // The loader of glibc has added the base, that of musl has not.
        let absolute = |address: usize| {
            if address < base {
                base + address
            } else {
                address
            }
        };
        let mut tables = Self::default();
        // SAFETY: by the caller's contract.
        for [tag, value] in unsafe { elf::dynamic_entries(dynamic) } {
            let value = value as usize;
            match tag {
                2 => tables.relocations[1].1 = value,
                5 => tables.names = absolute(value),
                6 => tables.symbols = absolute(value),
                7 => tables.relocations[0].0 = absolute(value),
                8 => tables.relocations[0].1 = value,
                23 => tables.relocations[1].0 = absolute(value),
                // DT_RELACOUNT.
                0x6fff_fff9 => tables.nameless = value,
                _ => {}
            }
        }
        tables
    }

    /// Returns the slots of a function, as offsets from the module's base.
    ///
    /// # Safety
    ///
    /// The module must still be loaded.
    unsafe fn slots_of(&self, name: &CStr) -> Vec<usize> {
        let mut slots = Vec::new();
        for (skipped, (start, bytes)) in [self.nameless, 0].into_iter().zip(self.relocations) {
            let count = bytes / size_of::<Relocation>();
            if start == 0 || count < skipped {
                continue;
            }
            let start = ptr::with_exposed_provenance::<Relocation>(start);
            // SAFETY: the module's dynamic section names this table.
            let relocations = unsafe { slice::from_raw_parts(start, count) };
            for relocation in &relocations[skipped..] {
                let is_slot = SLOT_TYPES.contains(&(relocation.info & u64::from(u32::MAX)));
                // SAFETY: the relocation names a symbol of this module, which is loaded.
                if is_slot && unsafe { self.name_of(relocation.info >> 32) } == name {
                    slots.push(relocation.offset as usize);
                }
            }
        }
        slots
    }

    /// # Safety
    ///
    /// The module must be loaded, and must have this symbol.
    unsafe fn name_of(&self, symbol: u64) -> &CStr {
        let symbol = self.symbols + symbol as usize * SYMBOL;
        let symbol = ptr::with_exposed_provenance::<u32>(symbol);
        // SAFETY: by the caller's contract.
        let name = self.names + unsafe { *symbol } as usize;
        let name = ptr::with_exposed_provenance(name);
        // SAFETY: a symbol's name is in the module's string table, and ends with a zero.
        unsafe { CStr::from_ptr(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_which_a_sealed_segment_ends_stays_as_it_is() {
        let relro = 0x1000..0x5000;
        assert_eq!(sealed(relro.clone(), 0x1000), relro);
        assert_eq!(sealed(relro.clone(), 0x4000), 0x1000..0x4000);
        assert!(sealed(relro, 0x10000).is_empty());
    }
}
