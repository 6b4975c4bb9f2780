//! What a handle is: its descriptors are received as nothing else.

use std::fmt;

/// What a handle is, as a user knows it. The number of each travels, and stands in shared memory.
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

    /// Returns the kind of a number that came; `None` if there is none.
    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u8 == number)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
