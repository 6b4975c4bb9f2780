//! Shared memory for users: untyped bytes, with or without a name.
//!
//! Copies go through the file (`pread`, `pwrite`). No process therefore has references to bytes
//! that another one changes, and a truncated file causes an error instead of a fault.

use super::object::ObjectHeader;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{
    memory::{self, Mapping},
    named,
};
use crate::wire::{
    handle::{Descriptor, PartOf},
    kind::ObjectKind,
};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{
    fmt, io,
    os::fd::OwnedFd,
    ptr,
    sync::{Arc, OnceLock, Weak},
};

/// Bytes before the user's bytes, which have this alignment.
const HEADER: usize = 4096;

/// Bytes that processes share. They are copied in and out, or accessed in place through an unsafe
/// pointer.
///
/// Unnamed memory is accessible to processes that receive a handle, and the kernel frees it with
/// its last user. Named memory can be [`open`](Self::open)ed by any process of this user. The name
/// is removed by [`unlink`](Self::unlink), with the creating process's last handle, or at the end
/// of that process. A killed process leaves the name, as `procpool.` and the name in
/// `/dev/shm`. Memory stays usable after its name is removed. Its length never changes.
///
/// Accesses of several processes are not ordered: use a [`Lock`](crate::Lock).
///
/// # Examples
///
/// ```
/// use procpool::{Process, SharedMemory};
///
/// let memory = SharedMemory::create(4096)?;
/// let write = |memory: SharedMemory| memory.write_at(100, b"hello").is_ok();
/// assert!(Process::start(write, memory.clone())?.result()?);
/// let mut read = [0; 5];
/// memory.read_at(100, &mut read)?;
/// assert_eq!(&read, b"hello");
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Clone)]
pub struct SharedMemory(Arc<MemoryInner>);

struct MemoryInner {
    file: Arc<OwnedFd>,
    length: usize,
    name: Option<String>,
    /// Removes the name; only the creating process has it.
    own_name: Option<named::UnlinkGuard>,
    mapping: OnceLock<Option<Mapping>>,
}

/// The named memory that this process has created, by the numbers in the headers. A handle that
/// comes back shares it.
static NAMED_HERE: Mutex<Vec<(u64, Weak<MemoryInner>)>> = Mutex::new(Vec::new());

impl SharedMemory {
    /// Creates unnamed memory of `bytes` zeros. Memory is allocated on the first write.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if `bytes` is 0 or exceeds the maximum length of a file;
    /// [`ErrorKind::Io`] if the memory or the descriptor cannot be created.
    pub fn create(bytes: usize) -> Result<Self> {
        let file = make(
            bytes,
            memory::anonymous_file,
            "failed to create shared memory",
        )?
        .0;
        Ok(Self(Arc::new(MemoryInner::new(file.into(), bytes, None))))
    }

    /// Creates memory of `bytes` zeros with a name that must not exist yet.
    ///
    /// # Errors
    ///
    /// Like [`create`](Self::create). Also [`ErrorKind::InvalidInput`] if the name is empty, longer
    /// than 246 bytes, or contains a `/` or a zero byte, and [`ErrorKind::Io`] if the name exists.
    pub fn create_named(name: &str, bytes: usize) -> Result<Self> {
        check_name(name)?;
        let what = format!("failed to create shared memory {name:?}");
        let (file, number) = make(bytes, named::create, &what)?;
        let guard = named::publish(name, &file).map_err(|error| Error::io(what, error))?;
        let mut made = MemoryInner::new(file.into(), bytes, Some(name.to_owned()));
        made.own_name = Some(guard);
        let made = Arc::new(made);
        let mut known = NAMED_HERE.lock();
        known.retain(|entry| entry.1.strong_count() > 0);
        known.push((number, Arc::downgrade(&made)));
        Ok(Self(made))
    }

    /// Opens memory by its name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the name does not exist, or belongs to another user;
    /// [`ErrorKind::InvalidInput`] if the name is invalid, or if the file is not memory of this
    /// crate.
    pub fn open(name: &str) -> Result<Self> {
        check_name(name)?;
        let file = named::open(name);
        let file = file.map_err(|error| {
            Error::io(format_args!("failed to open shared memory {name:?}"), error)
        })?;
        Self::known(file.into(), Some(name.to_owned()))
            .ok_or_else(|| invalid(format!("{name:?} is not shared memory of this crate")))
    }

    /// Returns the memory of an open file; `None` if the file is not memory of this crate.
    fn known(file: Arc<OwnedFd>, name: Option<String>) -> Option<Self> {
        let header = ObjectHeader::read(&file)?;
        let length = header.length.checked_sub(HEADER)?;
        if header.kind != ObjectKind::SharedMemory as u64 {
            return None;
        }
        let known = NAMED_HERE.lock();
        let same = known.iter().find(|entry| entry.0 == header.number);
        let made = same.and_then(|entry| entry.1.upgrade());
        Some(Self(made.unwrap_or_else(|| {
            Arc::new(MemoryInner::new(file, length, name))
        })))
    }

    /// Returns the name, if the memory was created with one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Returns the length in bytes, as passed to `create`.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the range exceeds the memory; [`ErrorKind::Io`] if the system
    /// refuses.
    pub fn read_at(&self, offset: usize, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len())?;
        let read = memory::read_at(&self.0.file, HEADER + offset, buffer);
        read.map_err(|error| Error::io("failed to read shared memory", error))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the range exceeds the memory; [`ErrorKind::Io`] if the system
    /// refuses, for example if it is out of memory.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len())?;
        let written = memory::write_at(&self.0.file, HEADER + offset, bytes);
        written.map_err(|error| Error::io("failed to write shared memory", error))
    }

    /// Removes the name, so that the memory cannot be opened by it any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the memory has no name; [`ErrorKind::Io`] if the name is
    /// removed already, or belongs to other memory.
    pub fn unlink(&self) -> Result<()> {
        let Some(name) = self.name() else {
            return Err(invalid("this shared memory has no name".to_owned()));
        };
        let removed = named::remove(name, &self.0.file);
        removed.map_err(|error| {
            Error::io(
                format_args!("failed to unlink shared memory {name:?}"),
                error,
            )
        })
    }

    /// Returns the address of the bytes in this process, aligned to 4096 bytes; null if they cannot
    /// be mapped. All clones of a handle return the same address. It is valid while one of them
    /// exists.
    ///
    /// # Safety
    ///
    /// The call itself is sound; using the address requires care. Other processes may read and
    /// write at any time, so plain reads and writes need a lock that all of them take. Any process
    /// of this user can truncate named memory, and its file system may be full: accessing such
    /// bytes is a fault.
    #[expect(unsafe_code, reason = "part of the public API; its body is safe")]
    #[must_use]
    pub unsafe fn as_ptr(&self) -> *mut u8 {
        let bytes = HEADER + self.0.length;
        // Map from the start of the file: if pages are larger than the header, no mapping can start
        // at the user's bytes.
        let map = || Mapping::unchecked_part(self.0.file.clone(), 0, bytes).ok();
        let mapping = self.0.mapping.get_or_init(map).as_ref();
        mapping.map_or(ptr::null_mut(), |mapping| {
            mapping.start().as_ptr().wrapping_add(HEADER)
        })
    }

    fn check(&self, offset: usize, bytes: usize) -> Result<()> {
        let length = self.len();
        let end = offset.checked_add(bytes);
        if end.is_some_and(|end| end <= length) {
            return Ok(());
        }
        let message = format!("{bytes} bytes at {offset} exceed shared memory of {length} bytes");
        Err(invalid(message))
    }
}

impl MemoryInner {
    fn new(file: Arc<OwnedFd>, length: usize, name: Option<String>) -> Self {
        Self {
            file,
            length,
            name,
            own_name: None,
            mapping: OnceLock::new(),
        }
    }
}

/// Creates a file with a header. Returns it with its number.
fn make(
    bytes: usize,
    file: impl FnOnce(usize) -> io::Result<OwnedFd>,
    what: &str,
) -> Result<(OwnedFd, u64)> {
    let is_valid = |length: &usize| bytes > 0 && i64::try_from(*length).is_ok();
    let length = bytes
        .checked_add(HEADER)
        .filter(is_valid)
        .ok_or_else(|| invalid(format!("{what}: the length cannot be {bytes} bytes")))?;
    let number = getrandom::u64().map_err(|error| Error::io(what, error.into()))?;
    let header = ObjectHeader {
        kind: ObjectKind::SharedMemory as u64,
        fingerprint: 0,
        length,
        number,
    };
    let file = file(length).and_then(|file| header.write(&file).map(|()| file));
    Ok((file.map_err(|error| Error::io(what, error))?, number))
}

fn check_name(name: &str) -> Result<()> {
    let is_valid =
        !name.is_empty() && name.len() <= named::MAX_NAME_LEN && !name.contains(['/', '\0']);
    if is_valid {
        return Ok(());
    }
    let what = "is not a valid name for shared memory: \
                it must have 1 to 246 bytes, without '/' and zero bytes";
    Err(invalid(format!("{name:?} {what}")))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// The encoded form of the file.
type Part = PartOf<{ ObjectKind::SharedMemory as u8 }>;

impl Serialize for SharedMemory {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let file = Descriptor::shared(self.0.file.clone());
        (Part::from(file), &self.0.name).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<Z: Deserializer<'de>>(deserializer: Z) -> Result<Self, Z::Error> {
        let (file, name) = <(Part, Option<String>)>::deserialize(deserializer)?;
        Self::known(Descriptor::from(file).into_shared(), name)
            .ok_or_else(|| Z::Error::custom("this handle is not a SharedMemory"))
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("name", &self.0.name)
            .field("len", &self.0.length)
            .finish_non_exhaustive()
    }
}
