//! The parts of a loaded ELF module: segments, notes, and the dynamic section.

use std::{ops::Range, ptr, slice};

/// Returns the address ranges of the segments with this type and all of these flags, in a module
/// that is loaded at `base`.
pub(super) fn segments(
    base: usize,
    headers: &[libc::Elf64_Phdr],
    wanted: u32,
    flags: u32,
) -> impl Iterator<Item = Range<usize>> {
    let is_wanted =
        move |it: &&libc::Elf64_Phdr| it.p_type == wanted && it.p_flags & flags == flags;
    headers.iter().filter(is_wanted).map(move |header| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        start..start + header.p_memsz as usize
    })
}

/// Returns the bytes of a segment.
///
/// # Safety
///
/// It must be mapped and readable, and must not be written to as long as the bytes are used.
pub(super) unsafe fn bytes<'a>(segment: Range<usize>) -> &'a [u8] {
    let start = ptr::with_exposed_provenance(segment.start);
    // SAFETY: by the caller's contract.
    unsafe { slice::from_raw_parts(start, segment.len()) }
}

/// Finds the build-id among the notes of a segment: (name length, length, type, name, bytes), each
/// padded to four bytes.
pub(super) fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const BUILD_ID: u32 = 3;
    let word = |at: usize, notes: &[u8]| {
        notes
            .get(at..at + 4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
    };
    loop {
        let (name, length) = (word(0, notes)? as usize, word(4, notes)? as usize);
        let kind = word(8, notes)?;
        let start = 12 + name.next_multiple_of(4);
        let contents = notes.get(start..start + length)?;
        if kind == BUILD_ID && notes.get(12..16) == Some(b"GNU\0") {
            return Some(contents);
        }
        notes = notes.get(start + length.next_multiple_of(4)..)?;
    }
}

/// Returns the entries of a dynamic section: tag and value.
///
/// # Safety
///
/// The section must be at this address, in a module that stays loaded while the entries are read.
pub(super) unsafe fn dynamic_entries(dynamic: usize) -> impl Iterator<Item = [i64; 2]> {
    const DT_NULL: i64 = 0;
    let first = ptr::with_exposed_provenance::<[i64; 2]>(dynamic);
    // SAFETY: the section is mapped, by the caller's contract. It ends with an entry DT_NULL, after
    // which no entry is read.
    let entries = (0..).map(move |index| unsafe { *first.wrapping_add(index) });
    entries.take_while(|[tag, _]| *tag != DT_NULL)
}

/// Returns the functions in a module's `.init_array`, in execution order.
///
/// # Safety
///
/// A module must be loaded at `base`, with its dynamic section at `dynamic`.
pub(super) unsafe fn constructors(base: usize, dynamic: usize) -> Vec<usize> {
    const DT_INIT_ARRAY: i64 = 25;
    const DT_INIT_ARRAYSZ: i64 = 27;
    let (mut array, mut size) = (None, 0);
    // SAFETY: by the caller's contract.
    for entry in unsafe { dynamic_entries(dynamic) } {
        match entry {
            [DT_INIT_ARRAY, address] => array = Some(base.wrapping_add(address as usize)),
            [DT_INIT_ARRAYSZ, bytes] => size = bytes as usize,
            _ => {}
        }
    }
    let Some(array) = array else {
        return Vec::new();
    };
    // SAFETY: the section names this array, which was relocated before any constructor ran and is
    // never written again.
    unsafe { slice::from_raw_parts(array as *const usize, size / size_of::<usize>()) }.to_vec()
}
