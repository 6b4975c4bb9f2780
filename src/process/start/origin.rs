//! Where a pool's workers come from: one place for all of them, replacements too.

use super::{
    Child, Flags, Start,
    forkserver::{self, Template},
};
use crate::error::Result;
use crate::process::{function::ChildMain, method::StartMethod};
use crate::sys::child::Threads;
use std::os::fd::BorrowedFd;

/// A source of workers.
#[derive(Debug)]
pub(crate) enum Origin {
    ForkServer,
    /// The fork server, whose children execute the program again.
    Spawn,
    /// A copy of this process, made when the pool was built: this one may have threads later on.
    Template(Template),
}

impl Origin {
    /// Prepares for workers by this method.
    pub(crate) fn new(method: StartMethod, threads: Threads) -> Result<Self> {
        Ok(match method {
            StartMethod::ForkServer => Self::ForkServer,
            StartMethod::Spawn => Self::Spawn,
            StartMethod::Fork => Self::Template(Template::new(threads)?),
        })
    }

    /// Starts a worker.
    pub(crate) fn start(&self, main: ChildMain, passed: &[BorrowedFd<'_>]) -> Result<Child> {
        let flags = Flags {
            is_daemon: true,
            executes: matches!(self, Self::Spawn),
        };
        let start = Start {
            main,
            passed,
            bytes: &[],
            flags,
        };
        match self {
            Self::ForkServer | Self::Spawn => forkserver::start(&start),
            Self::Template(template) => template.start(&start),
        }
    }
}
