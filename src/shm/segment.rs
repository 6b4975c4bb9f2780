//! A piece of anonymous shared memory, and the descriptor that hands it to another process.

use crate::error::{Error, Result};
use crate::shm::View;
use crate::sys::memory;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An anonymous file and its mapping. Both go when it is dropped; other processes keep theirs.
#[derive(Debug)]
pub(crate) struct Segment {
    file: OwnedFd,
    view: View,
}

impl Segment {
    /// Makes one of `bytes` zeros. Memory is taken as it is written to.
    pub(crate) fn anonymous(bytes: usize) -> Result<Self> {
        let file = memory::anonymous_file(bytes).map_err(|it| {
            Error::io(
                format_args!("failed to create {bytes} bytes of shared memory"),
                it,
            )
        })?;
        Self::map(file, bytes)
    }

    /// Maps the whole of a segment that another process made.
    pub(crate) fn from_fd(file: OwnedFd) -> Result<Self> {
        if !memory::is_sealed(&file) {
            let reason = std::io::Error::other("the file is not sealed against shrinking");
            return Err(Error::io("failed to map shared memory", reason));
        }
        let bytes =
            memory::length(&file).map_err(|it| Error::io("failed to map shared memory", it))?;
        Self::map(file, bytes)
    }

    fn map(file: OwnedFd, bytes: usize) -> Result<Self> {
        let mapping = memory::Mapping::new(&file, bytes).map_err(|it| {
            Error::io(
                format_args!("failed to map {bytes} bytes of shared memory"),
                it,
            )
        })?;
        Ok(Self {
            file,
            view: View::new(mapping),
        })
    }

    /// Makes file and mapping longer; what lies in them stays.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        let fail = |it| {
            Error::io(
                format_args!("failed to grow shared memory to {bytes} bytes"),
                it,
            )
        };
        memory::set_length(&self.file, bytes).map_err(fail)?;
        self.view.grow(bytes).map_err(fail)
    }

    /// Maps what another process has made the file grow to.
    pub(crate) fn follow_growth(&mut self) -> Result<()> {
        let fail = |it| Error::io("failed to map grown shared memory", it);
        let bytes = memory::length(&self.file).map_err(fail)?;
        if bytes > self.view.length() {
            self.view.grow(bytes).map_err(fail)
        } else {
            Ok(())
        }
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
