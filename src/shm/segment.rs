//! A piece of anonymous shared memory, with the descriptor that passes it to another process.

use crate::error::{Error, Result};
use crate::shm::View;
use crate::sys::memory::{self, Mapping};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// An anonymous file and its mapping. Both are dropped together; other processes keep theirs.
#[derive(Debug, Clone)]
pub(crate) struct Segment(View);

impl Segment {
    /// Creates a segment of `bytes` zeros. Memory is allocated on the first write.
    pub(crate) fn anonymous(bytes: usize) -> Result<Self> {
        let file = memory::anonymous_file(bytes);
        Self::from_fd(file.map_err(|error| failed_to_create(bytes, error))?)
    }

    /// Creates a segment of `bytes` zeros to which other processes cannot write.
    pub(super) fn written_here(bytes: usize) -> Result<Self> {
        let mapping = Mapping::written_here(bytes);
        let mapping = mapping.map_err(|error| failed_to_create(bytes, error))?;
        Ok(Self(View::new(mapping)))
    }

    /// Maps a whole segment of another process for reading only.
    pub(super) fn to_read(file: OwnedFd) -> Result<Self> {
        let mapping = Mapping::read_only(file);
        let mapping = mapping.map_err(|error| Error::io("failed to map shared memory", error))?;
        Ok(Self(View::new(mapping)))
    }

    /// Maps a whole segment of another process.
    pub(crate) fn from_fd(file: OwnedFd) -> Result<Self> {
        let mapping =
            Mapping::new(file).map_err(|error| Error::io("failed to map shared memory", error))?;
        Ok(Self(View::new(mapping)))
    }

    /// Grows the file and the mapping to `bytes`. The content stays.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.0.grow(bytes).map_err(|error| {
            Error::io(
                format_args!("failed to grow shared memory to {bytes} bytes"),
                error,
            )
        })
    }

    /// Maps the file to its current length, after another process has grown it.
    pub(crate) fn follow_growth(&mut self) -> Result<()> {
        let followed = self.0.follow_growth();
        followed.map_err(|error| Error::io("failed to map grown shared memory", error))
    }

    /// Closes the file, unless there are clones. The mapping stays. No method that needs the file
    /// may be called afterwards.
    pub(crate) fn close_file(&mut self) {
        self.0.close_file();
    }

    pub(crate) fn view(&self) -> &View {
        &self.0
    }
}

fn failed_to_create(bytes: usize, error: io::Error) -> Error {
    let what = format_args!("failed to create {bytes} bytes of shared memory");
    Error::io(what, error)
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
