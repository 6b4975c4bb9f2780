//! The kinds of handles. A descriptor can be received only as the kind it was sent as.

use std::fmt;

/// A kind of handle, by the name of its public type. Its number is sent, and stored in shared
/// memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Lock = 1,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Condition,
    Event,
    Barrier,
    Value,
    Array,
    Atomic,
    SharedMemory,
    Queue,
    SimpleQueue,
    JoinableQueue,
    Connection,
    Sender,
    Receiver,
    Descriptor,
}

impl ObjectKind {
    const ALL: [Self; 18] = [
        Self::Lock,
        Self::RLock,
        Self::Semaphore,
        Self::BoundedSemaphore,
        Self::Condition,
        Self::Event,
        Self::Barrier,
        Self::Value,
        Self::Array,
        Self::Atomic,
        Self::SharedMemory,
        Self::Queue,
        Self::SimpleQueue,
        Self::JoinableQueue,
        Self::Connection,
        Self::Sender,
        Self::Receiver,
        Self::Descriptor,
    ];

    /// Returns the kind with this number; `None` for any other number.
    pub(super) fn of_number(number: u8) -> Option<Self> {
        let mut kinds = Self::ALL.into_iter();
        kinds.find(|kind| *kind as u8 == number)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
