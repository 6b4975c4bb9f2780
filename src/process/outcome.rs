//! What became of a child's function: in shared memory, so that a child never waits for a parent that does not read.

use super::fault::Fault;
use crate::error::Result;
use crate::shm::{Cursor, Slab, Slabs};
use crate::wire::codec;
use parking_lot::Mutex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What lies in the slab, where it is not 0, nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Value = 1,
    Fault = 2,
}

/// A child's end: it leaves the outcome here, once.
#[derive(Debug)]
pub(super) struct Report(Mutex<Option<Slab>>);

/// The report of this process, where the panic hook finds it.
static OWN: Mutex<Option<OwnedFd>> = Mutex::new(None);

impl Report {
    pub(super) fn new(file: OwnedFd) -> Result<Self> {
        Ok(Self(Mutex::new(Some(Slab::from_fd(0, file)?))))
    }

    /// Leaves a value, which lies in the slab that was taken for it, or here.
    pub(super) fn value(&self, large: Option<(Slab, usize)>, small: &[u8]) -> Option<()> {
        let (slab, length) = match large {
            Some(large) => large,
            None => (self.filled(small)?, small.len()),
        };
        slab.publish(Kind::Value as u64, length as u64);
        Some(())
    }

    /// Leaves why there is no value. `taken` is the slab, if a part of a value lies in it.
    pub(super) fn fault(&self, taken: Option<Slab>, fault: &Fault) {
        if taken.is_some() {
            *self.0.lock() = taken;
        }
        let mut bytes = Vec::new();
        // Text in memory cannot fail to encode; and there is nobody else to tell.
        let _ = codec::encode(fault, &mut bytes);
        if let Some(slab) = self.filled(&bytes) {
            slab.publish(Kind::Fault as u64, bytes.len() as u64);
        }
    }

    fn filled(&self, bytes: &[u8]) -> Option<Slab> {
        let slab = self.take(bytes.len())?;
        slab.write_at(0, bytes);
        Some(slab)
    }
}

impl Slabs for Report {
    fn take(&self, bytes: usize) -> Option<Slab> {
        let mut slab = self.0.lock().take()?;
        slab.reserve(bytes).ok().map(|()| slab)
    }

    fn give_back(&self, slab: Slab) {
        *self.0.lock() = Some(slab);
    }
}

/// Has [`last_words`] go to this place, and not to that of a process which this one is a copy of.
pub(super) fn own_place(file: &OwnedFd) {
    // Where a panic unwinds there are none.
    if cfg!(panic = "abort") {
        *OWN.lock() = file.try_clone().ok();
    }
}

/// Leaves a fault that ends this process before anything else can be said.
pub(super) fn last_words(fault: Fault) {
    let file = OWN.lock().take();
    if let Some(report) = file.and_then(|it| Report::new(it).ok()) {
        report.fault(None, &fault);
    }
}

/// The parent's end.
#[derive(Debug)]
pub(super) struct Outcome(Slab);

/// What a child has left.
pub(super) enum Left {
    Nothing,
    Value,
    Fault(Fault),
}

impl Outcome {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Slab::new(0, 0)?))
    }

    /// What the child has left so far; nothing more comes when it has ended.
    pub(super) fn look(&self) -> Left {
        match self.0.published() {
            (kind, _) if kind == Kind::Value as u64 => Left::Value,
            (kind, length) if kind == Kind::Fault as u64 => {
                let fault = self.with(length, |mut bytes| codec::decode(&mut bytes));
                let garbled = || Fault::Setup("what the process said cannot be read".to_owned());
                Left::Fault(
                    fault
                        .and_then(std::result::Result::ok)
                        .unwrap_or_else(garbled),
                )
            }
            _ => Left::Nothing,
        }
    }

    /// Reads the value's bytes; none if they are not there.
    pub(super) fn read<T>(&self, read: impl FnOnce(Cursor<'_>) -> T) -> Option<T> {
        let (kind, length) = self.0.published();
        (kind == Kind::Value as u64).then(|| self.with(length, read))?
    }

    fn with<T>(&self, length: u64, read: impl FnOnce(Cursor<'_>) -> T) -> Option<T> {
        let length = usize::try_from(length).ok()?;
        // The child may have made it longer.
        let slab = self.0.mapped_again().ok()?;
        (length <= slab.capacity()).then(|| read(slab.read(length)))
    }
}

impl AsFd for Outcome {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
