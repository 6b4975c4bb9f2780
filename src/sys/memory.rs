//! Memory that processes share: anonymous files and their mappings.

use super::fd::{above_stdio, cvt};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use std::{
    io,
    num::NonZeroUsize,
    ops::Range,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr::NonNull,
};

/// An anonymous file of `bytes` zeros that can never become shorter, so that no mapping of it can fault.
pub(crate) fn anonymous_file(bytes: usize) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = above_stdio(memfd_create(c"procpool", flags)?)?;
    set_length(&file, bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
    Ok(file)
}

/// Whether the file is sealed against becoming shorter.
pub(crate) fn is_sealed(file: impl AsFd) -> bool {
    fcntl(&file, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK))
}

/// Makes the file longer.
pub(crate) fn set_length(file: impl AsFd, bytes: usize) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: ftruncate takes plain numbers.
    cvt(unsafe { libc::ftruncate(file.as_fd().as_raw_fd(), length) })?;
    Ok(())
}

/// The file's length in bytes.
pub(crate) fn length(file: impl AsFd) -> io::Result<usize> {
    let stat = nix::sys::stat::fstat(&file)?;
    usize::try_from(stat.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Gives back memory that this process can do without while it waits: what the allocator holds free, and mapped pages of
/// code, which the page cache has anyway. Touching them again costs a minor fault each.
pub(crate) fn release_unused() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time; it locks each arena.
    unsafe {
        libc::malloc_trim(0)
    };
    // Another thread might unmap what is listed, and map something else there.
    if super::child::thread_count().ok() != Some(1) {
        return;
    }
    // Without the list nothing is released, and nothing is lost.
    let list = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for code in unchanged_code(&list) {
        // SAFETY: these pages are executable, not writable, mapped from a file, and none differs from its file (a debugger's
        // breakpoint would be a difference), as the list says, which no other thread has changed since: dropping them changes
        // nothing but where they are read from next.
        unsafe { libc::madvise(code.start as *mut _, code.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings in /proc/self/smaps that hold code as it is in their file.
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

/// `55d0a000-55d0b000 r-xp …`: the addresses, in a line that begins a mapping.
fn mapping_in(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// A whole file, mapped shared, readable and writable, until it is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: the mapping is not tied to a thread; the bytes behind it are only reached through raw pointers and atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; a `&Mapping` gives out an address and a length, nothing that reads or writes.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn new(file: impl AsFd, bytes: usize) -> io::Result<Self> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory that exists.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self {
            start: start.cast(),
            length,
        })
    }

    /// Makes the mapping cover `bytes` of its file, which must be at least that long. It may move.
    pub(crate) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        use nix::sys::mman::{MRemapFlags, mremap};
        let flags = MRemapFlags::MREMAP_MAYMOVE;
        // SAFETY: `&mut self` proves that no reference into the mapping is alive, so it may move.
        let start = unsafe { mremap(self.start.cast(), self.length.get(), bytes, flags, None) }?;
        self.start = start.cast();
        self.length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn length(&self) -> usize {
        self.length.get()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new` or `grow`, and borrows of it ended with `self`.
        let unmapped = unsafe { nix::sys::mman::munmap(self.start.cast(), self.length.get()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_without_private_changes_is_dropped() {
        let list = "\
            1000-3000 r-xp 00000000 fe:00 1 /bin/a\nRss: 8 kB\nAnonymous:             0 kB\nSwap: 0 kB\n\
            4000-5000 r-xp 00000000 fe:00 1 /bin/b\nRss: 4 kB\nAnonymous:             4 kB\nSwap: 0 kB\n\
            6000-7000 rw-p 00000000 fe:00 1 /bin/a\nRss: 4 kB\nAnonymous:             0 kB\nSwap: 0 kB\n\
            8000-9000 r-xp 00000000 00:00 0 [vdso]\nRss: 4 kB\nAnonymous:             0 kB\nSwap: 0 kB\n";
        assert_eq!(
            unchanged_code(list),
            vec![Range {
                start: 0x1000,
                end: 0x3000
            }]
        );
    }
}
