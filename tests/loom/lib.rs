//! Models of the protocols in shared memory: [loom] runs files of the crate itself in every order
//! that the memory model allows.
//!
//! `#[path]` includes the files. What they stand on is replaced:
//!
//! | here | stands for |
//! |---|---|
//! | `sys/atomic.rs` | the atomics and the fence, as loom's |
//! | `sys/futex.rs`, `sys/pipe.rs` | sleep without a limit: a missed wake-up is a deadlock |
//! | `sys/robust.rs` | the robust mutex, whose holders do not die here |
//! | `shm.rs` | shared memory, whose plain bytes report a race |
//!
//! The command is that of `.ci/run`:
//!
//! ```text
//! RUSTFLAGS='--cfg loom' cargo test -p procpool-tests-loom --release --target-dir target/loom
//! ```
//!
//! # What a model cannot show
//!
//! - loom takes sequentially consistent accesses for acquire and release. `sys/atomic.rs` adds a
//!   fence between such a store and a later such load of the same thread, which is what the
//!   protocols use them for.
//! - On x86-64 the swap or compare-and-swap before a look is a full barrier by itself, and the
//!   crate runs no other after the start of an item. That is a property of the processor. The
//!   models run the fence of other processors.
//! - The owner of `sys::biased` runs no barrier: `membarrier` runs one in its thread. The model has
//!   a fence on both sides. It shows the table of that file, and nothing of the system call.
//! - `sync::Condition` has no model: the kernel compares half of its word.
//! - Deaths: every thread of a model goes on. `tests/ipc/queue_steps.rs` kills.
//! - Orders with more preemptions than the bound of each model.
//!
//! [loom]: https://docs.rs/loom

#![cfg(all(test, loom))]
#![expect(
    dead_code,
    unreachable_pub,
    reason = "files of the crate are included as they are"
)]

mod error;
mod ipc;
mod pool;
mod process;
mod shm;
mod sync;
mod sys;
mod wire;

/// Runs a model in every order with at most this many preemptions.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}
