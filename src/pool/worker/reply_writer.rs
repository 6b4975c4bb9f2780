//! The way back to the pool: records into the page's ring, and the bell.

use crate::pool::{
    protocol::region::{
        ReplyHeader, ReplyKind, SharedRegion, WakeMode, barrier_after_start, full_barrier,
    },
    worker::stopwatch::{self, Stopwatch},
};
use crate::process::{start::ExitRecord, task_error::TaskError};
use crate::sys::{clock, pipe};
use crate::wire::codec;
use std::{cell::Cell, os::fd::OwnedFd};

/// Nanoseconds between two rings of the bell while there is more to do: a sleeping pool is woken
/// for a batch, not for an item.
const WAKE_INTERVAL: u64 = 1_000_000;

/// What this process does, for the report of a panic that ends it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PanicContext {
    Setup,
    Item(u32),
    Other,
}

/// The way back to the pool.
pub(crate) struct ReplyWriter {
    wake_pipe: OwnedFd,
    pub(crate) page: SharedRegion,
    pub(crate) panic_context: Cell<PanicContext>,
    /// Whether something was appended since the bell was last thought of.
    has_unannounced: Cell<bool>,
    last_wake: Cell<u64>,
    /// When the clock was read last: between items that are not tiny, and between several that are.
    now: Cell<u64>,
    /// Nanoseconds; the clock is read after each item that is not shorter.
    tiny: u64,
}

impl ReplyWriter {
    pub(crate) fn new(bell: OwnedFd, page: SharedRegion) -> Self {
        let now = clock::now();
        Self {
            wake_pipe: bell,
            page,
            panic_context: Cell::new(PanicContext::Setup),
            has_unannounced: Cell::new(false),
            last_wake: Cell::new(now),
            now: Cell::new(now),
            tiny: stopwatch::tiny_nanos(),
        }
    }

    pub(crate) fn append(&self, item: u32, tag: ReplyKind, bytes: &[u8]) {
        let header = ReplyHeader {
            item,
            kind: tag,
            len: bytes.len(),
        };
        while !self.page.append(header, bytes) {
            // The pool must be awake to make room.
            self.wake_pool();
            self.page.wait_for_room(|| self.page.has_room(bytes.len()));
        }
        self.has_unannounced.set(true);
    }

    /// Says that setup is done, whether the pool sleeps or not. No task can take back what lies in
    /// the pipe.
    pub(crate) fn say_ready(&self) {
        self.append(0, ReplyKind::Ready, &[]);
        self.has_unannounced.set(false);
        // A pipe that has no room was written to by the initializer; the record is there.
        let _ = pipe::write(&self.wake_pipe, &[ExitRecord::READY]);
    }

    pub(crate) fn fault(&self, item: u32, tag: ReplyKind, fault: &TaskError) {
        let mut bytes = Vec::new();
        // Text in memory cannot fail to encode.
        let _ = codec::encode(&fault.clone().truncated(), &mut bytes);
        self.append(item, tag, &bytes);
    }

    /// Rings if the pool sleeps and wants to know of what was appended now. Call behind the start
    /// of an item.
    #[inline]
    pub(crate) fn wake_if_requested(&self) {
        if self.has_unannounced.get() {
            barrier_after_start();
            match self.page.wake_mode() {
                WakeMode::Never => {}
                WakeMode::Batched => self.wake_batched(),
                WakeMode::Immediate => self.wake_pool(),
            }
        }
    }

    /// Rings if the pool has not been rung for in a while.
    fn wake_batched(&self) {
        let now = self.now.get();
        if now - self.last_wake.get() >= WAKE_INTERVAL {
            self.wake_pool();
            self.last_wake.set(now);
        }
    }

    /// Rings if the pool sleeps: there is nothing more to do.
    pub(crate) fn wake_before_waiting(&self) {
        if self.has_unannounced.replace(false) {
            self.wake_pool();
        }
    }

    /// Reads the clock before the first item of a frame.
    pub(crate) fn begin(&self, item: u32) -> Stopwatch {
        let now = clock::now();
        self.now.set(now);
        self.page.record_start(item, now);
        Stopwatch::new(now, self.tiny)
    }

    /// Reads the clock after some items, and notes how long they ran; `waited` is the bucket of the
    /// time that they waited.
    pub(crate) fn lap(&self, watch: &mut Stopwatch, waited: usize) {
        let now = clock::now();
        self.now.set(now);
        self.page.add_lap(waited, watch.lap(now));
    }

    pub(crate) fn wake_pool(&self) {
        // Without the barrier: (1) the swap in `take_wake_duty` finds `Never`; (2) the pool stores
        // `Immediate` and finds no record; (3) the record's tail becomes visible, and nobody rings.
        // On x86-64 the swap is a barrier by itself.
        full_barrier();
        if self.page.take_wake_duty() {
            self.has_unannounced.set(false);
            self.write_wake_byte();
        }
    }

    /// Rings for records that have lain unread for long: a task may have written to the word of the
    /// bell.
    pub(crate) fn wake_if_unread(&self) {
        if self.page.has_unread() {
            self.write_wake_byte();
        }
    }

    fn write_wake_byte(&self) {
        // A full pipe is a bell that was not heard yet; a closed one is noticed at the next read.
        let _ = pipe::write(&self.wake_pipe, &[ExitRecord::WAKEUP]);
    }
}
