//! The names of a module's functions, from the debug information and the symbol table of its file.
//!
//! Reading the debug information takes up to a second, so each module is read once. Its file stays
//! mapped: the mapping costs addresses, but no memory that the kernel could not take back.

use super::modules::{Module, ModuleId};
use addr2line::{
    Context, demangle_auto,
    gimli::{self, Dwarf, EndianSlice, NativeEndian, SectionId},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use object::{
    NativeEndian as Native,
    elf::{FileHeader64, SHF_COMPRESSED, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, STT_FUNC},
    read::elf::{FileHeader, SectionHeader, SectionTable, Sym},
};
use parking_lot::Mutex;
use std::{borrow::Cow, fs::File, io, num::NonZeroUsize, ops::Range, path::PathBuf, slice};

type Header = FileHeader64<Native>;
type Reader = EndianSlice<'static, NativeEndian>;

/// A function by name, and the place in its source where it calls the next.
pub(super) struct FrameFunction {
    pub(super) name: String,
    pub(super) source: Option<SourceLocation>,
}

pub(super) struct SourceLocation {
    pub(super) file: PathBuf,
    pub(super) line: u32,
    pub(super) column: Option<u32>,
}

/// Returns the function at an offset in a module, after the functions that were inlined there.
/// `address` is any at which the module is mapped.
pub(super) fn functions(module: &Module, address: usize, offset: u64) -> Vec<FrameFunction> {
    static READ: Mutex<Vec<(ModuleId, Option<Symbols>)>> = Mutex::new(Vec::new());
    let mut read = READ.lock();
    let known = read.iter().position(|(id, _)| *id == module.id);
    let at = known.unwrap_or_else(|| {
        read.push((module.id, Symbols::read(module, address)));
        read.len() - 1
    });
    let symbols = read[at].1.as_ref();
    symbols.map(|it| it.functions(offset)).unwrap_or_default()
}

/// The function names in a module's file.
struct Symbols {
    /// `None` if the file has no debug information that can be read.
    lines: Option<Context<Reader>>,
    /// Sorted by address.
    table: Vec<Symbol>,
}

/// A function of the symbol table.
struct Symbol {
    offsets: Range<u64>,
    name: &'static [u8],
}

impl Symbols {
    fn read(module: &Module, address: usize) -> Option<Self> {
        let file = map(&module.file(address).ok()?).ok()?;
        let header = Header::parse(file).ok()?;
        let sections = header.sections(Native, file).ok()?;
        let section = |id: SectionId| Ok::<_, gimli::Error>(section(file, &sections, id.name()));
        let lines = Dwarf::load(section).and_then(Context::from_dwarf).ok();
        Some(Self {
            lines,
            table: table(file, &sections),
        })
    }

    fn functions(&self, offset: u64) -> Vec<FrameFunction> {
        let mut functions = self.frames(offset).unwrap_or_default();
        if functions.is_empty() {
            let name = self.name(offset);
            functions.extend(name.map(|name| FrameFunction { name, source: None }));
        }
        functions
    }

    /// Returns the functions at an offset from the debug information, or `None` if it is
    /// unreadable.
    fn frames(&self, offset: u64) -> Option<Vec<FrameFunction>> {
        let frames = self.lines.as_ref()?.find_frames(offset).skip_all_loads();
        let (mut frames, mut functions) = (frames.ok()?, Vec::new());
        while let Ok(Some(frame)) = frames.next() {
            let function = frame.function.as_ref();
            let name = function.and_then(|function| function.demangle().ok().map(Cow::into_owned));
            let name = name.or_else(|| self.name(offset))?;
            let location = frame.location.as_ref();
            let source = location.and_then(|location| {
                Some(SourceLocation {
                    file: PathBuf::from(location.file?),
                    line: location.line?,
                    column: location.column,
                })
            });
            functions.push(FrameFunction { name, source });
        }
        Some(functions)
    }

    /// Returns the name in the symbol table.
    fn name(&self, offset: u64) -> Option<String> {
        let after = self
            .table
            .partition_point(|symbol| symbol.offsets.start <= offset);
        let symbol = self.table[..after].last()?;
        let name = String::from_utf8_lossy(symbol.name);
        let is_inside = symbol.offsets.contains(&offset);
        is_inside.then(|| demangle_auto(name, None).into_owned())
    }
}

/// Maps a file for the life of the process.
fn map(file: &File) -> io::Result<&'static [u8]> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidData)?;
    let (access, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory that exists.
    let start = unsafe { mmap(None, size, access, flags, file, 0) }?;
    // SAFETY: `len` bytes are mapped there, and never unmapped. The file is loaded as a program or
    // library. A process that shortens or changes it breaks the code of this one in the same way.
    Ok(unsafe { slice::from_raw_parts(start.cast().as_ptr(), len) })
}

/// Returns the bytes of a section, or no bytes if it is missing or compressed.
fn section(file: &'static [u8], sections: &SectionTable<'static, Header>, name: &str) -> Reader {
    let section = sections.section_by_name(Native, name.as_bytes());
    let plain = section.filter(|(_, it)| !it.sh_flags(Native).contains(SHF_COMPRESSED));
    let bytes = plain.and_then(|(_, it)| it.data(Native, file).ok());
    EndianSlice::new(bytes.unwrap_or_default(), NativeEndian)
}

/// Returns the functions of the symbol table or, without a symbol table, the exported functions.
fn table(file: &'static [u8], sections: &SectionTable<'static, Header>) -> Vec<Symbol> {
    let kinds = [SHT_SYMTAB, SHT_DYNSYM].into_iter();
    let tables = kinds.filter_map(|kind| sections.symbols(Native, file, kind).ok());
    let Some(table) = tables.into_iter().find(|table| !table.is_empty()) else {
        return Vec::new();
    };
    let is_function = |it: &&object::elf::Sym64<Native>| {
        it.st_type() == STT_FUNC && it.st_shndx(Native) != SHN_UNDEF
    };
    let symbol = |it: &object::elf::Sym64<Native>| {
        let start = it.st_value(Native);
        Some(Symbol {
            offsets: start..start.checked_add(it.st_size(Native))?,
            name: it.name(Native, table.strings()).ok()?,
        })
    };
    let mut symbols: Vec<_> = table
        .iter()
        .filter(is_function)
        .filter_map(symbol)
        .collect();
    symbols.sort_unstable_by_key(|symbol| symbol.offsets.start);
    symbols
}
