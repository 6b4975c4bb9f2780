//! Stands for `src/sys/robust.rs`: a mutex whose holders do not die.

use crate::shm::Mapping;
use loom::sync::{Condvar, Mutex};
use std::{io, time::Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reentry {
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Clean,
}

#[derive(Debug)]
pub(crate) enum Refusal {
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
    pub(crate) fn create(mapping: Mapping, offset: usize, _reentry: Reentry) -> io::Result<Self> {
        Ok(Self::open(mapping, offset))
    }

    pub(crate) fn open(_mapping: Mapping, _offset: usize) -> Self {
        Self {
            is_held: Mutex::new(false),
            is_free: Condvar::new(),
        }
    }

    pub(crate) fn try_lock(&self) -> Result<Taken, Refusal> {
        let mut is_held = self.is_held.lock().expect("no panic");
        if *is_held {
            return Err(Refusal::Held);
        }
        *is_held = true;
        Ok(Taken::Clean)
    }

    pub(crate) fn lock_until(&self, _deadline: Option<Instant>) -> Result<Taken, Refusal> {
        let mut is_held = self.is_held.lock().expect("no panic");
        while *is_held {
            is_held = self.is_free.wait(is_held).expect("no panic");
        }
        *is_held = true;
        Ok(Taken::Clean)
    }

    pub(crate) fn unlock(&self) {
        *self.is_held.lock().expect("no panic") = false;
        self.is_free.notify_one();
    }
}
