//! Memory that processes share: anonymous files and their mappings.

use super::fd::{above_stdio, cvt, retry};
use nix::{
    fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::ProtFlags,
        resource::{Resource, getrlimit},
    },
    unistd::{SysconfVar, sysconf},
};
use std::{
    io,
    num::NonZeroUsize,
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{Arc, Weak},
};

/// Creates an anonymous file of `bytes` zeros that can never shrink, so that accesses to its
/// mappings never fault. No process can add more seals, for example against writing.
pub(crate) fn anonymous_file(bytes: usize) -> io::Result<OwnedFd> {
    let file = unsealed_file(bytes)?;
    seal(&file, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL)?;
    Ok(file)
}

fn unsealed_file(bytes: usize) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = above_stdio(memfd_create(c"procpool", flags)?)?;
    set_len(&file, bytes)?;
    Ok(file)
}

fn seal(file: &OwnedFd, seals: SealFlag) -> io::Result<()> {
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// Whether the file is sealed against shrinking.
pub(crate) fn is_sealed(file: impl AsFd) -> bool {
    fcntl(&file, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK))
}

/// Sets the length of the file, with zeros at its end.
pub(crate) fn set_len(file: impl AsFd, bytes: usize) -> io::Result<()> {
    check_limit(bytes)?;
    let length = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: ftruncate takes plain numbers.
    cvt(unsafe { libc::ftruncate(file.as_fd().as_raw_fd(), length) })?;
    Ok(())
}

/// Returns the file's length in bytes.
pub(crate) fn len(file: impl AsFd) -> io::Result<usize> {
    let stat = nix::sys::stat::fstat(&file)?;
    usize::try_from(stat.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Checks the file size limit: the kernel would kill a process that exceeds it.
fn check_limit(bytes: usize) -> io::Result<()> {
    match bytes <= longest_file()? {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EFBIG)),
    }
}

/// Returns the maximum length of a file of this process, in bytes.
pub(crate) fn longest_file() -> io::Result<usize> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Returns the memory of a range of a file to the system, in whole pages. The pages then hold
/// zeros.
pub(crate) fn punch_hole(file: impl AsFd, range: Range<usize>) -> io::Result<()> {
    let page = page_size()?;
    let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
    if start >= end {
        return Ok(());
    }
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let number = |bytes| libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    let (start, length) = (number(start)?, number(end - start)?);
    retry(|| fallocate(&file, mode, start, length))
}

pub(super) fn page_size() -> io::Result<usize> {
    let size = sysconf(SysconfVar::PAGE_SIZE)?;
    let size = size.and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Fills `into` from `offset` on. Fails with `UnexpectedEof` if the file ends earlier.
pub(crate) fn read_at(file: impl AsFd, mut offset: usize, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = retry(|| nix::sys::uio::pread(&file, into, at))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into = &mut into[count..];
        offset += count;
    }
    Ok(())
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_at(file: impl AsFd, mut offset: usize, mut bytes: &[u8]) -> io::Result<()> {
    check_limit(offset.saturating_add(bytes.len()))?;
    while !bytes.is_empty() {
        let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = retry(|| nix::sys::uio::pwrite(&file, bytes, at))?;
        bytes = &bytes[count..];
        offset += count;
    }
    Ok(())
}

const READ_AND_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// A part of an anonymous file, mapped shared, readable and usually writable. File and mapping are
/// released with the last clone; those of other processes stay.
///
/// The file is sealed against shrinking and is at least as long as the mapping, so that no access
/// faults.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    region: Arc<Region>,
    // A copy of the region's address, which saves an indirection for each access.
    start: NonNull<u8>,
    length: NonZeroUsize,
}

/// The state that the clones of a mapping share.
#[derive(Debug)]
struct Region {
    /// `None` after it was closed.
    file: Option<Arc<OwnedFd>>,
    start: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: the mapping is not tied to a thread; its bytes are only accessed through raw pointers and
// atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; a `&Mapping` returns only an address and a length, and accesses no bytes.
unsafe impl Sync for Mapping {}
// SAFETY: as for `Mapping`.
unsafe impl Send for Region {}
// SAFETY: as for `Mapping`.
unsafe impl Sync for Region {}

/// Finds a mapping as long as a clone of it exists.
#[derive(Debug, Clone)]
pub(crate) struct WeakMapping(Weak<Region>);

impl WeakMapping {
    pub(crate) fn upgrade(&self) -> Option<Mapping> {
        self.0.upgrade().map(Mapping::of_region)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Mapping {
    /// Maps the whole file at its current length.
    pub(crate) fn new(file: OwnedFd) -> io::Result<Self> {
        let bytes = len(&file)?;
        Self::part(Arc::new(file), 0, bytes)
    }

    /// Maps a new anonymous file of `bytes` zeros that can be written only through this mapping.
    pub(crate) fn written_here(bytes: usize) -> io::Result<Self> {
        let file = unsealed_file(bytes)?;
        seal(&file, SealFlag::F_SEAL_SHRINK)?;
        let mapping = Self::new(file)?;
        let later = SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE);
        // Linux before 5.1 does not know the seal. Other processes can then write, if they violate
        // the protocol.
        let _ = seal(mapping.file(), later);
        seal(mapping.file(), SealFlag::F_SEAL_SEAL)?;
        Ok(mapping)
    }

    /// Maps the whole file at its current length, read-only: a write faults.
    pub(crate) fn read_only(file: OwnedFd) -> io::Result<Self> {
        let bytes = len(&file)?;
        Self::checked_part(Arc::new(file), 0, bytes, ProtFlags::PROT_READ)
    }

    /// Maps `bytes` bytes of the file; `offset` must be a multiple of the page size.
    pub(crate) fn part(file: Arc<OwnedFd>, offset: usize, bytes: usize) -> io::Result<Self> {
        Self::checked_part(file, offset, bytes, READ_AND_WRITE)
    }

    fn checked_part(
        file: Arc<OwnedFd>,
        offset: usize,
        bytes: usize,
        access: ProtFlags,
    ) -> io::Result<Self> {
        if !is_sealed(&file) {
            return Err(io::Error::other("the file is not sealed against shrinking"));
        }
        let end = offset.checked_add(bytes);
        if !end.is_some_and(|end| len(&file).is_ok_and(|length| end <= length)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Self::map(file, offset, bytes, access)
    }

    /// Like [`part`](Self::part), but the file may end before the mapping does: accesses may
    /// fault.
    pub(crate) fn unchecked_part(
        file: Arc<OwnedFd>,
        offset: usize,
        bytes: usize,
    ) -> io::Result<Self> {
        Self::map(file, offset, bytes, READ_AND_WRITE)
    }

    fn map(file: Arc<OwnedFd>, offset: usize, bytes: usize, access: ProtFlags) -> io::Result<Self> {
        use nix::sys::mman::{MapFlags, mmap};
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &file, offset) }?;
        Ok(Self::of_region(Arc::new(Region {
            file: Some(file),
            start: start.cast(),
            length,
        })))
    }

    fn of_region(region: Arc<Region>) -> Self {
        Self {
            start: region.start,
            length: region.length,
            region,
        }
    }

    pub(crate) fn downgrade(&self) -> WeakMapping {
        WeakMapping(Arc::downgrade(&self.region))
    }

    /// Makes the file at least `bytes` long and maps all of it. The address may change. A failure
    /// changes nothing.
    ///
    /// Only for the single clone of a mapping of a whole file, like
    /// [`follow_growth`](Self::follow_growth).
    pub(crate) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let file = Arc::clone(self.file());
        let (before, bytes) = (self.length, bytes.max(len(&file)?));
        // The mapping grows first: the file can never shrink again if addresses are short, here or
        // in another process.
        // SAFETY: below, the file grows to this length, or the mapping shrinks
        // back.
        unsafe { self.remap(bytes) }?;
        set_len(&file, bytes).or_else(|error| {
            // SAFETY: the file was that long before.
            unsafe { self.remap(before.get()) }?;
            Err(error)
        })
    }

    /// Maps the part by which the file has grown. The address may change.
    pub(crate) fn follow_growth(&mut self) -> io::Result<()> {
        let bytes = len(self.file())?;
        // SAFETY: the file is that long, and cannot become shorter.
        unsafe { self.remap(bytes) }
    }

    /// # Safety
    ///
    /// The file must have this length when this mapping is next accessed.
    unsafe fn remap(&mut self, bytes: usize) -> io::Result<()> {
        use nix::sys::mman::{MRemapFlags, mremap};
        let Some(region) = Arc::get_mut(&mut self.region) else {
            return Err(io::Error::other("the mapping is used elsewhere"));
        };
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let (start, flags) = (region.start.cast(), MRemapFlags::MREMAP_MAYMOVE);
        // SAFETY: `&mut self` proves that no reference into this clone exists, and it is the only
        // clone, as was just checked. So it may move.
        let start = unsafe { mremap(start, region.length.get(), bytes, flags, None) }?;
        (region.start, region.length) = (start.cast(), length);
        (self.start, self.length) = (region.start, length);
        Ok(())
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn length(&self) -> usize {
        self.length.get()
    }

    /// Closes the file, unless the mapping has clones. The memory stays mapped, but it can no
    /// longer grow or be sent.
    pub(crate) fn close_file(&mut self) {
        if let Some(region) = Arc::get_mut(&mut self.region) {
            region.file = None;
        }
    }

    pub(crate) fn file(&self) -> &Arc<OwnedFd> {
        let file = self.region.file.as_ref();
        file.expect("the file of the mapping was closed")
    }
}

impl AsFd for Mapping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `map` or `remap`, and borrows of it ended with the last
        // clone.
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
        // Less than the current length, which the seal keeps.
        ours.grow(8192).expect("growth");
        assert_eq!(ours.length(), 1 << 20);
        theirs.follow_growth().expect("nothing to do");
        assert_eq!(theirs.length(), 1 << 20);
    }

    #[test]
    fn whole_pages_go_back_and_others_stay() {
        let page = page_size().expect("pages have a size");
        let file = anonymous_file(4 * page).expect("shared memory");
        let pages = || {
            let stat = nix::sys::stat::fstat(&file).expect("a file");
            stat.st_blocks as usize * 512 / page
        };
        write_at(&file, 0, &vec![1; 4 * page]).expect("room");
        for (range, left) in [
            (1..page + 1, 4),
            (1..3 * page - 1, 3),
            (2 * page..4 * page, 1),
        ] {
            punch_hole(&file, range).expect("a hole");
            assert_eq!(pages(), left);
        }
        let mut byte = [0];
        read_at(&file, page - 1, &mut byte).expect("a file");
        assert_eq!(byte, [1]);
    }

    #[test]
    fn a_growth_that_fails_changes_nothing() {
        let file = anonymous_file(4096).expect("shared memory");
        let mut mapping = Mapping::new(file).expect("a mapping");
        // More than the address space, and more than a file can have.
        for bytes in [1 << 56, 1 << 62, usize::MAX] {
            assert!(mapping.grow(bytes).is_err());
            assert_eq!((mapping.length(), len(&mapping).ok()), (4096, Some(4096)));
        }
        mapping.grow(8192).expect("growth");
        assert_eq!(mapping.length(), 8192);
    }

    #[test]
    fn a_file_that_may_become_shorter_is_not_mapped() {
        let file = memfd_create(c"procpool", MFdFlags::MFD_CLOEXEC).expect("a file");
        set_len(&file, 4096).expect("a file");
        assert!(Mapping::new(file).is_err());
    }
}
