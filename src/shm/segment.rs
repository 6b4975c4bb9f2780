//! A piece of anonymous shared memory, and the descriptor that hands it to another process.

use crate::error::{Error, Result};
use crate::shm::View;
use crate::sys::memory::{self, Mapping};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// An anonymous file and its mapping. Both go when it is dropped; other processes keep theirs.
#[derive(Debug, Clone)]
pub(crate) struct Segment(View);

impl Segment {
    /// Makes one of `bytes` zeros. Memory is taken as it is written to.
    pub(crate) fn anonymous(bytes: usize) -> Result<Self> {
        let file = memory::anonymous_file(bytes);
        Self::from_fd(file.map_err(|it| failed_to_create(bytes, it))?)
    }

    /// Makes one of `bytes` zeros to which other processes cannot write.
    pub(super) fn written_here(bytes: usize) -> Result<Self> {
        let mapping = Mapping::written_here(bytes);
        let mapping = mapping.map_err(|it| failed_to_create(bytes, it))?;
        Ok(Self(View::new(mapping)))
    }

    /// Maps the whole of a segment that another process made, to be read only.
    pub(super) fn to_read(file: OwnedFd) -> Result<Self> {
        let mapping = Mapping::read_only(file);
        let mapping = mapping.map_err(|it| Error::io("failed to map shared memory", it))?;
        Ok(Self(View::new(mapping)))
    }

    /// Maps the whole of a segment that another process made.
    pub(crate) fn from_fd(file: OwnedFd) -> Result<Self> {
        let mapping =
            Mapping::new(file).map_err(|it| Error::io("failed to map shared memory", it))?;
        Ok(Self(View::new(mapping)))
    }

    /// Makes file and mapping longer; what lies in them stays.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.0.grow(bytes).map_err(|it| {
            Error::io(
                format_args!("failed to grow shared memory to {bytes} bytes"),
                it,
            )
        })
    }

    /// Maps what another process has made the file grow to.
    pub(crate) fn follow_growth(&mut self) -> Result<()> {
        let followed = self.0.follow_growth();
        followed.map_err(|it| Error::io("failed to map grown shared memory", it))
    }

    /// Closes the file, unless there are clones. What is mapped stays so; nothing else that needs
    /// the file may follow.
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
