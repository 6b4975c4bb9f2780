//! Named files of shared memory, whose names are removed when this process exits.

use super::{exit, fd::above_stdio, memory, pid};
use nix::{
    fcntl::{AtFlags, OFlag, open as nix_open},
    sys::stat::{FileStat, Mode, fstat, stat},
    unistd::{geteuid, linkat, unlink},
};
use parking_lot::Mutex;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Once,
    time::Duration,
};

/// The directory in which glibc's `shm_open` creates files.
const DIRECTORY: &str = "/dev/shm";

/// The prefix of this crate's names.
const PREFIX: &str = "procpool.";

/// Maximum length of a name in bytes: the limit of a file name without the prefix.
pub(crate) const MAX_NAME_LEN: usize = 255 - PREFIX.len();

fn path(name: &str) -> String {
    format!("{DIRECTORY}/{PREFIX}{name}")
}

/// Creates a file of `bytes` zeros without a name, for this user alone.
pub(crate) fn create(bytes: usize) -> io::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let file = above_stdio(nix_open(DIRECTORY, flags, mode)?)?;
    memory::set_len(&file, bytes)?;
    Ok(file)
}

/// Opens the file with this name. Fails with `PermissionDenied` if it belongs to another user,
/// since any user can create files there.
pub(crate) fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = above_stdio(nix_open(path(name).as_str(), flags, Mode::empty())?)?;
    if fstat(&file)?.st_uid != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(file)
}

/// Removes the name of a file. Fails with `NotFound` if the name belongs to another file by now.
pub(crate) fn remove(name: &str, file: impl AsFd) -> io::Result<()> {
    remove_file(name, id_of(&fstat(file)?))
}

/// Device and inode number.
type FileId = (u64, u64);

fn id_of(stat: &FileStat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

fn remove_file(name: &str, file: FileId) -> io::Result<()> {
    let path = path(name);
    if id_of(&stat(path.as_str())?) != file {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(unlink(path.as_str())?)
}

/// The name of a file that this process created. It is removed when this value is dropped, or when
/// the process exits without being killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnName {
    name: String,
    file: FileId,
    /// A copy of the process does not own the name.
    process: u32,
}

static OWN_NAMES: Mutex<Vec<OwnName>> = Mutex::new(Vec::new());

/// How long to wait for the list. While a process exits, or in a copy of it, a thread may hold the
/// list that no longer runs.
const PATIENCE: Duration = Duration::from_millis(100);

/// Names a file. Fails with `AlreadyExists` if another file has it. Earlier writes to the
/// file are visible under the name.
pub(crate) fn publish(name: &str, file: &OwnedFd) -> io::Result<UnlinkGuard> {
    let own = OwnName {
        name: name.to_owned(),
        file: id_of(&fstat(file)?),
        process: pid::current(),
    };
    remove_at_exit()?;
    // The name is listed before it exists, so that no name exists without being listed.
    OWN_NAMES.lock().push(own.clone());
    let guard = UnlinkGuard(own);
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let (source, target) = (source.as_str(), path(name));
    let (here, follow) = (nix::fcntl::AT_FDCWD, AtFlags::AT_SYMLINK_FOLLOW);
    linkat(here, source, here, target.as_str(), follow)?;
    Ok(guard)
}

/// Keeps a name on drop.
#[derive(Debug)]
pub(crate) struct UnlinkGuard(OwnName);

impl Drop for UnlinkGuard {
    fn drop(&mut self) {
        if self.0.process == pid::current() {
            OWN_NAMES.lock().retain(|name| *name != self.0);
            // Fails if the name was already removed.
            let _ = remove_file(&self.0.name, self.0.file);
        }
    }
}

/// Removes the names that this process has created and not removed. For its exit.
pub(crate) fn remove_own() {
    let Some(names) = OWN_NAMES.try_lock_for(PATIENCE) else {
        return;
    };
    let own = pid::current();
    // The names stay on the list: a copy of a process with threads must not free memory, since the
    // allocator's locks may be held.
    for name in names.iter().filter(|name| name.process == own) {
        // As above.
        let _ = remove_file(&name.name, name.file);
    }
}

extern "C" fn at_exit() {
    remove_own();
}

fn remove_at_exit() -> io::Result<()> {
    static REGISTERED: Once = Once::new();
    let mut outcome = Ok(());
    REGISTERED.call_once(|| outcome = exit::at_exit(at_exit));
    outcome
}
