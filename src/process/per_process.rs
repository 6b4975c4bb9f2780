//! A static that a copy of the process made by `fork` does not share.

use crate::sys::pid;
use std::sync::OnceLock;

/// One value for each process.
///
/// A copy of the process finds the value of another one and makes its own: it neither uses what
/// belongs to its parent nor waits for a lock that no thread of its own holds, unless the value was
/// made in that very instant. The other's value is never dropped there.
pub(crate) struct PerProcess<T>(OnceLock<ForkNode<T>>);

struct ForkNode<T> {
    owner: u32,
    value: T,
    next: OnceLock<Box<Self>>,
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    pub(crate) fn get(&self) -> &T {
        let mut node = self.0.get_or_init(ForkNode::new);
        while node.owner != pid::current() {
            node = node.next.get_or_init(|| Box::new(ForkNode::new()));
        }
        &node.value
    }
}

impl<T> PerProcess<T> {
    /// The value of this process, if it has been asked for.
    pub(crate) fn existing(&self) -> Option<&T> {
        let mut node = self.0.get()?;
        while node.owner != pid::current() {
            node = node.next.get()?;
        }
        Some(&node.value)
    }
}

impl<T: Default> ForkNode<T> {
    fn new() -> Self {
        Self {
            owner: pid::current(),
            value: T::default(),
            next: OnceLock::new(),
        }
    }
}
