//! The resident memory of this process: its size, and releasing unneeded parts of it.

use std::{io, ops::Range};

/// Returns the resident memory of this process, in bytes.
pub(crate) fn resident() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    // SAFETY: sysconf takes and gives plain numbers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = u64::try_from(page).map_err(io::Error::other)?;
    pages
        .map(|pages| pages * page)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Releases memory that this process does not need while it waits: free memory of the allocator,
/// and mapped pages of code, which stay in the page cache. Touching them again costs a minor fault
/// each.
pub(crate) fn release_unused() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time; it locks each arena.
    unsafe {
        libc::malloc_trim(0)
    };
    // Another thread might unmap a listed range and map another file there.
    if super::threads::listed().ok() != Some(1) {
        return;
    }
    // Without the list no memory is released.
    let list = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for code in unchanged_code(&list) {
        // SAFETY: these pages are executable, not writable, mapped from a file, and identical to it
        // (a debugger's breakpoint would be a difference). The list says so, and no other thread
        // has changed the mappings since. Dropping them only makes the next access read them from
        // the file.
        unsafe { libc::madvise(code.start as *mut _, code.len(), libc::MADV_DONTNEED) };
    }
}

/// Returns the mappings in /proc/self/smaps with code that is identical to its file.
fn unchanged_code(list: &str) -> Vec<Range<usize>> {
    let mut code = Vec::new();
    let mut candidate = None;
    for line in list.lines() {
        if let Some(range) = mapping_in(line) {
            let is_code = line.contains(" r-xp ") && line.contains('/');
            candidate = is_code.then_some(range);
        } else if line.starts_with("Anonymous:") && !line.ends_with(" 0 kB") {
            candidate = None;
        } else if line.starts_with("Swap:") && line.ends_with(" 0 kB") {
            code.extend(candidate.take());
        }
    }
    code
}

/// Parses the addresses in the first line of a mapping, such as `55d0a000-55d0b000 r-xp …`.
pub(super) fn mapping_in(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_without_private_changes_is_dropped() {
        let list = "\
            1000-3000 r-xp 00000000 fe:00 1 /bin/a\nRss: 8 kB\nAnonymous: 0 kB\nSwap: 0 kB\n\
            4000-5000 r-xp 00000000 fe:00 1 /bin/b\nRss: 4 kB\nAnonymous: 4 kB\nSwap: 0 kB\n\
            6000-7000 rw-p 00000000 fe:00 1 /bin/a\nRss: 4 kB\nAnonymous: 0 kB\nSwap: 0 kB\n\
            8000-9000 r-xp 00000000 00:00 0 [vdso]\nRss: 4 kB\nAnonymous: 0 kB\nSwap: 0 kB\n";
        assert_eq!(
            unchanged_code(list),
            vec![Range {
                start: 0x1000,
                end: 0x3000
            }]
        );
    }
}
