//! Stands for `src/sys/robust.rs`: a mutex whose holders do not die.

use crate::shm::Mapping;
use loom::sync::{Condvar, Mutex};
use std::{io, time::Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MutexKind {
    ErrorCheck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockState {
    Clean,
}

#[derive(Debug)]
pub(crate) enum MutexError {
    Held,
    HeldByThisThread,
    Failed(io::Error),
}

#[derive(Debug)]
pub(crate) struct RobustMutex {
    is_held: Mutex<bool>,
    is_free: Condvar,
}

impl RobustMutex {
    pub(crate) fn create(mapping: Mapping, offset: usize, _kind: MutexKind) -> io::Result<Self> {
        Ok(Self::open(mapping, offset))
    }

    pub(crate) fn open(_mapping: Mapping, _offset: usize) -> Self {
        Self {
            is_held: Mutex::new(false),
            is_free: Condvar::new(),
        }
    }

    pub(crate) fn try_lock(&self) -> Result<LockState, MutexError> {
        let mut is_held = self.is_held.lock().expect("no panic");
        if *is_held {
            return Err(MutexError::Held);
        }
        *is_held = true;
        Ok(LockState::Clean)
    }

    pub(crate) fn lock_until(&self, _deadline: Option<Instant>) -> Result<LockState, MutexError> {
        let mut is_held = self.is_held.lock().expect("no panic");
        while *is_held {
            is_held = self.is_free.wait(is_held).expect("no panic");
        }
        *is_held = true;
        Ok(LockState::Clean)
    }

    pub(crate) fn unlock(&self) {
        *self.is_held.lock().expect("no panic") = false;
        self.is_free.notify_one();
    }
}
