//! Shared memory for users: bytes without a meaning, with a name or without.
//!
//! What is copied in and out goes through the file (`pread`, `pwrite`): no process has a reference
//! to bytes that another changes, and a file that somebody has cut off is an error and no fault.

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

/// Bytes before the user's, which are aligned to as many.
const HEADER: usize = 4096;

/// Bytes that processes share, to be copied in and out, or, by those who know how, to be used in
/// place.
///
/// Without a name it is for those who are handed it; the kernel frees it with its last user,
/// whoever dies. With a name any process of this user can [`open`](Self::open) it. The name goes
/// with [`unlink`](Self::unlink), with the last handle that the process which made it has, or when
/// that process ends; a process that is killed leaves it behind (in `/dev/shm`, as `procpool.` and
/// the name). Without a name it is as usable as before. Its length never changes.
///
/// Nothing orders what several processes do: that is for a [`Lock`](crate::Lock).
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
    /// Where it was made.
    own_name: Option<named::UnlinkGuard>,
    mapping: OnceLock<Option<Mapping>>,
}

/// The memory that this process has made and named, by the numbers in their headers: handles to it
/// that come back are handles to the same.
static NAMED_HERE: Mutex<Vec<(u64, Weak<MemoryInner>)>> = Mutex::new(Vec::new());

impl SharedMemory {
    /// Makes so many bytes, all zero, without a name. Memory is taken as it is written to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for 0 bytes or more than there can be; [`ErrorKind::Io`] when
    /// the system gives no memory or no descriptor.
    pub fn create(bytes: usize) -> Result<Self> {
        let file = make(
            bytes,
            memory::anonymous_file,
            "failed to create shared memory",
        )?
        .0;
        Ok(Self(Arc::new(MemoryInner::new(file.into(), bytes, None))))
    }

    /// Makes so many bytes, all zero, with a name, which must not be taken.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); [`ErrorKind::InvalidInput`] for a name that is empty, longer
    /// than 246 bytes, or has a `/` or a zero byte in it; [`ErrorKind::Io`] if it is taken.
    pub fn create_named(name: &str, bytes: usize) -> Result<Self> {
        check_name(name)?;
        let what = format!("failed to create shared memory {name:?}");
        let (file, number) = make(bytes, named::create, &what)?;
        let guard = named::publish(name, &file).map_err(|it| Error::io(what, it))?;
        let mut made = MemoryInner::new(file.into(), bytes, Some(name.to_owned()));
        made.own_name = Some(guard);
        let made = Arc::new(made);
        let mut known = NAMED_HERE.lock();
        known.retain(|it| it.1.strong_count() > 0);
        known.push((number, Arc::downgrade(&made)));
        Ok(Self(made))
    }

    /// Opens what another process, or this one, has made with this name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if there is none, or it is another user's; [`ErrorKind::InvalidInput`] for
    /// a name that cannot be, or a file of another origin.
    pub fn open(name: &str) -> Result<Self> {
        check_name(name)?;
        let file = named::open(name);
        let file = file
            .map_err(|it| Error::io(format_args!("failed to open shared memory {name:?}"), it))?;
        Self::known(file.into(), Some(name.to_owned()))
            .ok_or_else(|| invalid(format!("{name:?} is no shared memory of this crate")))
    }

    /// The memory in a file that somebody made.
    fn known(file: Arc<OwnedFd>, name: Option<String>) -> Option<Self> {
        let header = ObjectHeader::read(&file)?;
        let length = header.length.checked_sub(HEADER)?;
        if header.kind != ObjectKind::SharedMemory as u64 {
            return None;
        }
        let known = NAMED_HERE.lock();
        let same = known.iter().find(|it| it.0 == header.number);
        let made = same.and_then(|it| it.1.upgrade());
        Some(Self(made.unwrap_or_else(|| {
            Arc::new(MemoryInner::new(file, length, name))
        })))
    }

    /// Its name, if it was made with one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// How many bytes it has: as many as were asked for.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Copies bytes from `offset` on into `buffer`, all of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if there are not so many; [`ErrorKind::Io`] when the system
    /// refuses.
    pub fn read_at(&self, offset: usize, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len())?;
        let read = memory::read_at(&self.0.file, HEADER + offset, buffer);
        read.map_err(|it| Error::io("failed to read shared memory", it))
    }

    /// Copies bytes to `offset`, all of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if there is no room; [`ErrorKind::Io`] when the system refuses,
    /// for lack of memory say.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len())?;
        let written = memory::write_at(&self.0.file, HEADER + offset, bytes);
        written.map_err(|it| Error::io("failed to write shared memory", it))
    }

    /// Takes its name away; nobody can open it by that any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if it was made without a name; [`ErrorKind::Io`] if the name is
    /// gone, or another's.
    pub fn unlink(&self) -> Result<()> {
        let Some(name) = self.name() else {
            return Err(invalid("this shared memory has no name".to_owned()));
        };
        let removed = named::remove(name, &self.0.file);
        removed.map_err(|it| Error::io(format_args!("failed to unlink shared memory {name:?}"), it))
    }

    /// The address of its bytes in this process, aligned to 4096 bytes; null if there is no room
    /// for them. It is the same for all clones of a handle, and valid as long as one of them is
    /// there.
    ///
    /// # Safety
    ///
    /// This is sound; using the address is what needs care. Other processes may read and write at
    /// any time, so that plain reads and writes need a lock that all of them take. Memory that has
    /// a name can be cut off by any process of this user, and may lie in a file system that is
    /// full: touching it is a fault then.
    #[expect(unsafe_code, reason = "the contract demands it; its body is safe")]
    #[must_use]
    pub unsafe fn as_ptr(&self) -> *mut u8 {
        let bytes = HEADER + self.0.length;
        // From the start of the file: no mapping can begin at the user's bytes if pages are larger.
        let map = || Mapping::unchecked_part(self.0.file.clone(), 0, bytes).ok();
        let mapping = self.0.mapping.get_or_init(map).as_ref();
        mapping.map_or(ptr::null_mut(), |it| {
            it.start().as_ptr().wrapping_add(HEADER)
        })
    }

    fn check(&self, offset: usize, bytes: usize) -> Result<()> {
        let length = self.len();
        let end = offset.checked_add(bytes);
        if end.is_some_and(|it| it <= length) {
            return Ok(());
        }
        let message = format!("{bytes} bytes at {offset} are not within shared memory of {length}");
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

/// Makes a file with a header in it, and its number.
fn make(
    bytes: usize,
    file: impl FnOnce(usize) -> io::Result<OwnedFd>,
    what: &str,
) -> Result<(OwnedFd, u64)> {
    let length = bytes.checked_add(HEADER).filter(|_| bytes > 0);
    let length = length.filter(|it| i64::try_from(*it).is_ok());
    let length = length.ok_or_else(|| invalid(format!("{what}: it cannot have {bytes} bytes")))?;
    let number = getrandom::u64().map_err(|it| Error::io(what, it.into()))?;
    let header = ObjectHeader {
        kind: ObjectKind::SharedMemory as u64,
        fingerprint: 0,
        length,
        number,
    };
    let file = file(length).and_then(|it| header.write(&it).map(|()| it));
    Ok((file.map_err(|it| Error::io(what, it))?, number))
}

fn check_name(name: &str) -> Result<()> {
    let is_valid =
        !name.is_empty() && name.len() <= named::MAX_NAME_LEN && !name.contains(['/', '\0']);
    if is_valid {
        return Ok(());
    }
    let what = "is no name for shared memory: it must have 1 to 246 bytes, and neither '/' nor a zero byte";
    Err(invalid(format!("{name:?} {what}")))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Its file as it travels.
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
            .ok_or_else(|| Z::Error::custom("this handle is no SharedMemory"))
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
