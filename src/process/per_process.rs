//! `PerProcess`: a static that a fork of the process does not share.

use crate::sys::pid;
use std::sync::OnceLock;

/// A static with one value for each process.
///
/// A fork of the process finds the value of its parent and creates its own. So it does not use what
/// belongs to the parent, and does not wait for a lock that its threads do not hold. The
/// exception is a fork at the very moment when the parent creates the value. The parent's value is
/// never dropped in the fork.
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
    /// Returns the value of this process, if it has been created.
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
