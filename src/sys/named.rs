//! Files of shared memory that have a name, and removing the names when this process ends.

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

/// Where glibc's `shm_open` puts its files.
const DIRECTORY: &str = "/dev/shm";

/// Tells this crate's names from others.
const PREFIX: &str = "procpool.";

/// Bytes; as long as a file's name may be.
pub(crate) const MAX_NAME_LEN: usize = 255 - PREFIX.len();

fn path(name: &str) -> String {
    format!("{DIRECTORY}/{PREFIX}{name}")
}

/// A file of `bytes` zeros, for this user alone, that has no name yet.
pub(crate) fn create(bytes: usize) -> io::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let file = above_stdio(nix_open(DIRECTORY, flags, mode)?)?;
    memory::set_len(&file, bytes)?;
    Ok(file)
}

/// The file with this name; an error of the kind `PermissionDenied` if it is another user's, who
/// may have made it for anybody.
pub(crate) fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = above_stdio(nix_open(path(name).as_str(), flags, Mode::empty())?)?;
    if fstat(&file)?.st_uid != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(file)
}

/// Removes the name of a file, unless it is another's by now: that is an error of the kind
/// `NotFound`.
pub(crate) fn remove(name: &str, file: impl AsFd) -> io::Result<()> {
    remove_file(name, id_of(&fstat(file)?))
}

/// Device and number.
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

/// The name of a file that this process made. It goes with this value, or when the process ends
/// without being killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnName {
    name: String,
    file: FileId,
    /// A copy of the process owns nothing.
    process: u32,
}

static OWN_NAMES: Mutex<Vec<OwnName>> = Mutex::new(Vec::new());

/// At the end of the process, or in a copy of it, a thread may have the list that does not run any
/// more.
const PATIENCE: Duration = Duration::from_millis(100);

/// Gives a file its name; an error of the kind `AlreadyExists` if another has it. With it appears
/// all that was written before.
pub(crate) fn publish(name: &str, file: &OwnedFd) -> io::Result<UnlinkGuard> {
    let own = OwnName {
        name: name.to_owned(),
        file: id_of(&fstat(file)?),
        process: pid::current(),
    };
    remove_at_exit()?;
    // Before there is the name: it is never there without being on the list.
    OWN_NAMES.lock().push(own.clone());
    let guard = UnlinkGuard(own);
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let (source, target) = (source.as_str(), path(name));
    let (here, follow) = (nix::fcntl::AT_FDCWD, AtFlags::AT_SYMLINK_FOLLOW);
    linkat(here, source, here, target.as_str(), follow)?;
    Ok(guard)
}

/// Keeps a name.
#[derive(Debug)]
pub(crate) struct UnlinkGuard(OwnName);

impl Drop for UnlinkGuard {
    fn drop(&mut self) {
        if self.0.process == pid::current() {
            OWN_NAMES.lock().retain(|it| *it != self.0);
            // It may have been removed before.
            let _ = remove_file(&self.0.name, self.0.file);
        }
    }
}

/// Removes the names that this process has made and not removed. For its end.
pub(crate) fn remove_own() {
    let Some(names) = OWN_NAMES.try_lock_for(PATIENCE) else {
        return;
    };
    let own = pid::current();
    // They stay on the list: a copy of a process with threads had better free no memory.
    for name in names.iter().filter(|it| it.process == own) {
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
