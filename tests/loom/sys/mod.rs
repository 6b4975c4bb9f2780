//! Stands for `src/sys`.

#![expect(unsafe_code, reason = "files of the crate are included as they are")]

pub(crate) mod atomic;
#[path = "../../../src/sys/biased.rs"]
mod biased;
pub(crate) mod futex;
pub(crate) mod memory;
mod models;
pub(crate) mod pipe;
pub(crate) mod robust;

pub(crate) mod clock {
    //! A clock that stands still: no model depends on how long something takes.

    use std::time::Duration;

    pub(crate) fn now() -> u64 {
        1
    }

    pub(crate) fn since(_then: u64) -> Duration {
        Duration::ZERO
    }
}

mod membarrier {
    //! A fence on both sides: see `compiler_fence` in `atomic`.

    use super::atomic::{Ordering, fence};
    use std::io;

    pub(super) fn has_remote_barrier() -> bool {
        true
    }

    pub(super) fn barrier_in_all_threads() -> io::Result<()> {
        fence(Ordering::SeqCst);
        Ok(())
    }
}

pub(crate) mod spin {
    //! Waiting awake: one question in place of many.

    #[derive(Debug, Default)]
    pub(crate) struct Spin;

    impl Spin {
        pub(crate) fn spin_until(&mut self, mut ready: impl FnMut() -> bool) -> bool {
            ready()
        }
    }
}
