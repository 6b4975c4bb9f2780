//! Writes replies into the ring of the shared region and sends wake-ups to the pool.

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

/// Nanoseconds between two wake-ups while there are more items: a sleeping pool is woken for a
/// batch, not for an item.
const WAKE_INTERVAL: u64 = 1_000_000;

/// The current step of this process, for the report of a panic that aborts it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PanicContext {
    Setup,
    Item(u32),
    Other,
}

/// Writes replies to the pool.
pub(crate) struct ReplyWriter {
    wake_pipe: OwnedFd,
    pub(crate) region: SharedRegion,
    pub(crate) panic_context: Cell<PanicContext>,
    /// Whether a record was appended since the last check for a wake-up.
    has_unannounced: Cell<bool>,
    last_wake: Cell<u64>,
    /// When the clock was read last: between two items, or between groups of tiny items.
    now: Cell<u64>,
    /// Nanoseconds; the clock is read after each item that takes at least this long.
    tiny: u64,
}

impl ReplyWriter {
    pub(crate) fn new(wake_pipe: OwnedFd, region: SharedRegion) -> Self {
        let now = clock::now();
        Self {
            wake_pipe,
            region,
            panic_context: Cell::new(PanicContext::Setup),
            has_unannounced: Cell::new(false),
            last_wake: Cell::new(now),
            now: Cell::new(now),
            tiny: stopwatch::tiny_nanos(),
        }
    }

    pub(crate) fn append(&self, item: u32, kind: ReplyKind, bytes: &[u8]) {
        let header = ReplyHeader {
            item,
            kind,
            len: bytes.len(),
        };
        while !self.region.append(header, bytes) {
            // The pool must be awake to make room.
            self.wake_pool();
            self.region
                .wait_for_room(|| self.region.has_room(bytes.len()));
        }
        self.has_unannounced.set(true);
    }

    /// Reports that setup is done, even if the pool sleeps. A task cannot take the byte back from
    /// the pipe.
    pub(crate) fn say_ready(&self) {
        self.append(0, ReplyKind::Ready, &[]);
        self.has_unannounced.set(false);
        // The write fails only if the initializer filled the pipe, which wakes the pool; it then
        // finds the record.
        let _ = pipe::write(&self.wake_pipe, &[ExitRecord::READY]);
    }

    pub(crate) fn fault(&self, item: u32, kind: ReplyKind, error: &TaskError) {
        let mut bytes = Vec::new();
        // Encoding text into memory cannot fail.
        let _ = codec::encode(&error.clone().truncated(), &mut bytes);
        self.append(item, kind, &bytes);
    }

    /// Wakes the pool if it sleeps and requested a wake-up for the appended records. Call after the
    /// start of an item.
    #[inline]
    pub(crate) fn wake_if_requested(&self) {
        if self.has_unannounced.get() {
            barrier_after_start();
            match self.region.wake_mode() {
                WakeMode::Never => {}
                WakeMode::Batched => self.wake_batched(),
                WakeMode::Immediate => self.wake_pool(),
            }
        }
    }

    /// Wakes the pool if the last wake-up is at least `WAKE_INTERVAL` ago.
    fn wake_batched(&self) {
        let now = self.now.get();
        if now - self.last_wake.get() >= WAKE_INTERVAL {
            self.wake_pool();
            self.last_wake.set(now);
        }
    }

    /// Wakes the pool if it sleeps, because the worker has no more items.
    pub(crate) fn wake_before_waiting(&self) {
        if self.has_unannounced.replace(false) {
            self.wake_pool();
        }
    }

    /// Reads the clock before the first item of a frame.
    pub(crate) fn begin(&self, item: u32) -> Stopwatch {
        let now = clock::now();
        self.now.set(now);
        self.region.record_start(item, now);
        Stopwatch::new(now, self.tiny)
    }

    /// Reads the clock after some items and records how long they ran. `waited` is the histogram
    /// bucket of their waiting time.
    pub(crate) fn lap(&self, watch: &mut Stopwatch, waited: usize) {
        let now = clock::now();
        self.now.set(now);
        self.region.add_lap(waited, watch.lap(now));
    }

    pub(crate) fn wake_pool(&self) {
        // Without the barrier: (1) the swap in `take_wake_duty` finds `Never`; (2) the pool stores
        // `Immediate` and finds no record; (3) the record's tail becomes visible, and the pool is
        // never woken. On x86-64 the swap is a barrier by itself.
        full_barrier();
        if self.region.take_wake_duty() {
            self.has_unannounced.set(false);
            self.write_wake_byte();
        }
    }

    /// Wakes the pool for records that were not read for long: a task may have overwritten the wake
    /// mode.
    pub(crate) fn wake_if_unread(&self) {
        if self.region.has_unread() {
            self.write_wake_byte();
        }
    }

    fn write_wake_byte(&self) {
        // A full pipe holds a wake-up that the pool has not read. A closed one is noticed at the
        // next read.
        let _ = pipe::write(&self.wake_pipe, &[ExitRecord::WAKEUP]);
    }
}
