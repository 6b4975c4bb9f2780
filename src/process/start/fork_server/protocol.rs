//! The messages between the fork server and its owner, except the requests.

/// The message that the owner puts into the socket before the server starts.
pub(super) const GREETING: &[u8] = b"procpool fork server 1";
/// The message that the server can take requests. A pidfd of the server is attached.
pub(super) const READY: &[u8] = b"ready";

/// The reply to a request: a child, whose pidfd is attached, or the errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpawnReply {
    /// The number of the request.
    pub(super) number: u32,
    pub(super) pid: u32,
    pub(super) errno: i32,
}

impl SpawnReply {
    pub(super) const SIZE: usize = 12;

    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let (number, pid) = (u128::from(self.number), u128::from(self.pid));
        let word = number | pid << 32 | u128::from(self.errno.cast_unsigned()) << 64;
        *word.to_le_bytes().first_chunk().expect("it is longer")
    }

    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let field = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a field"));
        Self {
            number: field(0),
            pid: field(4),
            errno: field(8).cast_signed(),
        }
    }
}
