//! What the programs in `fuzz/` call. It is there where they are built, and nowhere else: `--cfg
//! fuzzing`.
//!
//! Each target gives a part of the crate bytes that another process may have made up: a task that
//! has gone wild, a hostile peer, a holder of shared memory. A panic, a hang, or an error of
//! the address sanitizer is a finding. What needs a layer's own types stands in that layer.

mod messages;
mod queue;
mod shared;

use crate::ipc::HANDSHAKE;
use crate::manager::REQUESTS;
use crate::pool::{FRAMES, REPLIES};
use crate::process::LAUNCH;
pub use crate::wire::fuzzing::Target;
use crate::wire::fuzzing::VALUES;

/// All of them.
pub const TARGETS: [Target; 10] = [
    VALUES,
    messages::MESSAGES,
    HANDSHAKE,
    LAUNCH,
    FRAMES,
    REPLIES,
    queue::QUEUE,
    shared::OBJECTS,
    shared::WORDS,
    REQUESTS,
];

/// Gives a target one input.
///
/// # Panics
///
/// If there is no target of that name, and when the input is a finding.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|it| it.name == name);
    (target.expect("a target of that name").run)(input);
}
