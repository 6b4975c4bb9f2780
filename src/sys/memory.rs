//! Memory that processes share: anonymous files and their mappings.

use super::fd::{above_stdio, cvt};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use std::{
    io,
    num::NonZeroUsize,
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
