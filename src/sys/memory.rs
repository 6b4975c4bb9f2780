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
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
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
fn is_sealed(file: impl AsFd) -> bool {
    fcntl(&file, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK))
}

fn set_length(file: impl AsFd, bytes: usize) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: ftruncate takes plain numbers.
    cvt(unsafe { libc::ftruncate(file.as_fd().as_raw_fd(), length) })?;
    Ok(())
}

/// The file's length in bytes.
fn length(file: impl AsFd) -> io::Result<usize> {
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

/// An anonymous file, and the whole of it as it was when it was last looked at, mapped shared, readable and writable. Both go
/// when it is dropped; other processes keep theirs.
///
/// The file is sealed against becoming shorter and is at least as long as the mapping, so that no access faults.
#[derive(Debug)]
pub(crate) struct Mapping {
    file: OwnedFd,
    start: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: the mapping is not tied to a thread; the bytes behind it are only reached through raw pointers and atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; a `&Mapping` gives out an address and a length, nothing that reads or writes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the whole file.
    pub(crate) fn new(file: OwnedFd) -> io::Result<Self> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        if !is_sealed(&file) {
            return Err(io::Error::other("the file is not sealed against shrinking"));
        }
        let length = NonZeroUsize::new(length(&file)?).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory that exists.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Self {
            file,
            start: start.cast(),
            length,
        })
    }

    /// Makes the file at least `bytes` long, and maps all of it. It may move. A failure changes nothing.
    pub(crate) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let (before, bytes) = (self.length, bytes.max(length(&self.file)?));
        // The file comes second: it can never become shorter again, for the lack of addresses here or in another process.
        // SAFETY: the file is made as long as that below, or the mapping as short as it was.
        unsafe { self.remap(bytes) }?;
        set_length(&self.file, bytes).or_else(|error| {
            // SAFETY: the file was that long before.
            unsafe { self.remap(before.get()) }?;
            Err(error)
        })
    }

    /// Maps what the file has grown by. It may move.
    pub(crate) fn follow_growth(&mut self) -> io::Result<()> {
        let bytes = length(&self.file)?;
        // SAFETY: the file is that long, and cannot become shorter.
        unsafe { self.remap(bytes) }
    }

    /// # Safety
    ///
    /// The file must be so long when this mapping is next used.
    unsafe fn remap(&mut self, bytes: usize) -> io::Result<()> {
        use nix::sys::mman::{MRemapFlags, mremap};
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let (start, flags) = (self.start.cast(), MRemapFlags::MREMAP_MAYMOVE);
        // SAFETY: `&mut self` proves that no reference into the mapping is alive, so it may move.
        let start = unsafe { mremap(start, self.length.get(), bytes, flags, None) }?;
        (self.start, self.length) = (start.cast(), length);
        Ok(())
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn length(&self) -> usize {
        self.length.get()
    }
}

impl AsFd for Mapping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new` or `remap`, and borrows of it ended with `self`.
        let unmapped = unsafe { nix::sys::mman::munmap(self.start.cast(), self.length.get()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_as_far_as_it_goes() {
        let file = anonymous_file(4096).expect("shared memory");
        let mut ours = Mapping::new(file).expect("a mapping");
        let theirs = ours.as_fd().try_clone_to_owned().expect("a descriptor");
        let mut theirs = Mapping::new(theirs).expect("a mapping");
        theirs.grow(1 << 20).expect("growth");
        assert_eq!(ours.length(), 4096);
        // Less than there is by now, which the seal keeps there.
        ours.grow(8192).expect("growth");
        assert_eq!(ours.length(), 1 << 20);
        theirs.follow_growth().expect("nothing to do");
        assert_eq!(theirs.length(), 1 << 20);
    }

    #[test]
    fn a_growth_that_fails_changes_nothing() {
        let file = anonymous_file(4096).expect("shared memory");
        let mut mapping = Mapping::new(file).expect("a mapping");
        // More than addresses can tell apart, and more than a file can have.
        for bytes in [1 << 56, 1 << 62, usize::MAX] {
            assert!(mapping.grow(bytes).is_err());
            assert_eq!(
                (mapping.length(), length(&mapping).ok()),
                (4096, Some(4096))
            );
        }
        mapping.grow(8192).expect("growth");
        assert_eq!(mapping.length(), 8192);
    }

    #[test]
    fn a_file_that_may_become_shorter_is_not_mapped() {
        let file = memfd_create(c"procpool", MFdFlags::MFD_CLOEXEC).expect("a file");
        set_length(&file, 4096).expect("a file");
        assert!(Mapping::new(file).is_err());
    }

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
