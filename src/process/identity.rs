//! Who this process is, who started it, and what its children are called.

use crate::ipc::{Address, authkey, known_keys, remember_key, set_authkey};
use crate::sys::pid;
use crate::wire::depth::{max_depth, set_max_depth};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};

/// The name of a process that was not started by this crate.
const MAIN_NAME: &str = "MainProcess";

static CURRENT: RwLock<Option<ChildIdentity>> = RwLock::new(None);

/// Children started so far.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// What a child is told about itself. It cannot be printed: the key is a secret.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ChildIdentity {
    pub(crate) name: String,
    /// Its place among its parent's children, behind its parent's own; none where the chain begins.
    pub(crate) numbers: Vec<u32>,
    pub(crate) parent: Option<(String, u32)>,
    /// The key of the whole family.
    authkey: Vec<u8>,
    /// Those of addresses that have others.
    keys: Vec<(Address, Vec<u8>)>,
    /// The limit of nesting, see `set_max_depth`.
    max_depth: usize,
}

impl ChildIdentity {
    /// The next child of this process, by this name or its number.
    pub(crate) fn for_child(name: Option<String>) -> Self {
        let mut child = Self::for_worker(name.unwrap_or_default());
        child
            .numbers
            .push(STARTED.fetch_add(1, Ordering::Relaxed) + 1);
        if child.name.is_empty() {
            let places: Vec<String> = child.numbers.iter().map(u32::to_string).collect();
            child.name = format!("Process-{}", places.join(":"));
        }
        child
    }

    /// A child of this process that is not counted.
    pub(crate) fn for_worker(name: String) -> Self {
        let (own_name, numbers) = match &*CURRENT.read() {
            Some(own) => (own.name.clone(), own.numbers.clone()),
            None => (MAIN_NAME.to_owned(), Vec::new()),
        };
        Self {
            name,
            numbers,
            parent: Some((own_name, pid::current())),
            authkey: authkey().bytes().to_vec(),
            keys: known_keys()
                .into_iter()
                .map(|(address, key)| (address, key.bytes().to_vec()))
                .collect(),
            max_depth: max_depth(),
        }
    }

    /// Makes it this process's own.
    pub(crate) fn apply(self) {
        STARTED.store(0, Ordering::Relaxed);
        set_authkey(self.authkey.clone());
        set_max_depth(self.max_depth);
        for (address, key) in &self.keys {
            remember_key(address, &key.clone().into());
        }
        *CURRENT.write() = Some(self);
    }
}

macro_rules! info {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            name: String,
            pid: u32,
        }

        impl $name {
            /// Its name.
            #[must_use]
            pub fn name(&self) -> &str {
                &self.name
            }

            /// Its process id.
            #[must_use]
            pub fn pid(&self) -> u32 {
                self.pid
            }
        }
    };
}

info! {
    /// The process that runs the calling code.
    CurrentProcess
}

info! {
    /// The process that started this one.
    ParentProcess
}

info! {
    /// A process that this one has started and that runs.
    ChildInfo
}

impl ChildInfo {
    pub(crate) fn new(name: &str, pid: u32) -> Self {
        Self {
            name: name.to_owned(),
            pid,
        }
    }
}

/// The process that runs the calling code: `MainProcess` unless this crate started it.
///
/// ```
/// let current = procpool::current_process();
/// assert_eq!((current.name(), current.pid()), ("MainProcess", std::process::id()));
/// ```
#[must_use]
pub fn current_process() -> CurrentProcess {
    let own = CURRENT.read();
    CurrentProcess {
        name: own.as_ref().map_or(MAIN_NAME, |it| &it.name).to_owned(),
        pid: pid::current(),
    }
}

/// The process that started this one: the program's, not the fork server that made it. None in a
/// process that this crate did not start.
///
/// ```
/// assert!(procpool::parent_process().is_none());
/// let parent = procpool::Process::start(|()| procpool::parent_process().map(|it| it.pid()), ())?.result()?;
/// assert_eq!(parent, Some(std::process::id()));
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn parent_process() -> Option<ParentProcess> {
    let own = CURRENT.read();
    let (name, pid) = own.as_ref()?.parent.clone()?;
    Some(ParentProcess { name, pid })
}
