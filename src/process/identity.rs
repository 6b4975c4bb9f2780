//! The name of this process, its parent, and the names of its children.

use crate::ipc::{Address, authkey, known_keys, remember_key, set_authkey};
use crate::sys::pid;
use crate::wire::depth::{max_depth, set_max_depth};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};

/// The name of a process that this crate did not start.
const MAIN_NAME: &str = "MainProcess";

static CURRENT: RwLock<Option<ChildIdentity>> = RwLock::new(None);

/// The number of children started so far.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// The identity that a child receives from its parent. Not `Debug`, because the key is secret.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ChildIdentity {
    pub(crate) name: String,
    /// The numbers of its ancestors among their siblings, then its own. Empty in a process that
    /// this crate did not start.
    pub(crate) numbers: Vec<u32>,
    pub(crate) parent: Option<(String, u32)>,
    /// The authentication key that all processes of the program share.
    authkey: Vec<u8>,
    /// The keys of addresses that have a key of their own.
    keys: Vec<(Address, Vec<u8>)>,
    /// The limit of nesting; see `set_max_depth`.
    max_depth: usize,
}

impl ChildIdentity {
    /// Creates the identity of the next child of this process. It is named by its number if `name`
    /// is `None`.
    pub(crate) fn for_child(name: Option<String>) -> Self {
        let mut child = Self::for_worker(name.unwrap_or_default());
        child
            .numbers
            .push(STARTED.fetch_add(1, Ordering::Relaxed) + 1);
        if child.name.is_empty() {
            let numbers: Vec<String> = child.numbers.iter().map(u32::to_string).collect();
            child.name = format!("Process-{}", numbers.join(":"));
        }
        child
    }

    /// Creates the identity of a child that does not count among the children.
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

    /// Makes this the identity of the calling process.
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
            /// Returns the name of the process.
            #[must_use]
            pub fn name(&self) -> &str {
                &self.name
            }

            /// Returns the process id.
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
    /// A running process that this one started.
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

/// Returns the process that runs the calling code. Its name is `MainProcess` unless this crate
/// started it.
///
/// ```
/// let current = procpool::current_process();
/// assert_eq!((current.name(), current.pid()), ("MainProcess", std::process::id()));
/// ```
#[must_use]
pub fn current_process() -> CurrentProcess {
    let own = CURRENT.read();
    CurrentProcess {
        name: own.as_ref().map_or(MAIN_NAME, |own| &own.name).to_owned(),
        pid: pid::current(),
    }
}

/// Returns the process that started this one: the program, not the fork server. Returns `None` in a
/// process that this crate did not start.
///
/// ```
/// assert!(procpool::parent_process().is_none());
/// let parent_pid = |()| procpool::parent_process().map(|parent| parent.pid());
/// let parent = procpool::Process::start(parent_pid, ())?.result()?;
/// assert_eq!(parent, Some(std::process::id()));
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn parent_process() -> Option<ParentProcess> {
    let own = CURRENT.read();
    let (name, pid) = own.as_ref()?.parent.clone()?;
    Some(ParentProcess { name, pid })
}
