//! The way back to the pool: records into the page's ring, and the bell.

use crate::pool::{
    page::{Bell, Page, RecordHead, Tag, barrier_behind_start, full_barrier},
    stopwatch::{self, Stopwatch},
};
use crate::process::{fault::Fault, start::ExitRecord};
use crate::sys::{clock, pipe};
use crate::wire::codec;
use std::{cell::Cell, os::fd::OwnedFd};

/// Nanoseconds between two rings of the bell while there is more to do: a sleeping pool is woken for a batch, not for an item.
const BELL_INTERVAL: u64 = 1_000_000;

/// What this process does, for the report of a panic that ends it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doing {
    Setup,
    Item(u32),
    Other,
}

/// The way back to the pool.
pub(super) struct Replies {
    bell: OwnedFd,
    pub(super) page: Page,
    pub(super) doing: Cell<Doing>,
    /// Whether something was appended since the bell was last thought of.
    unrung: Cell<bool>,
    last_bell: Cell<u64>,
    /// When the clock was read last: between items that are not tiny, and between several that are.
    now: Cell<u64>,
    /// Nanoseconds; the clock is read after each item that is not shorter.
    tiny: u64,
}

impl Replies {
    pub(super) fn new(bell: OwnedFd, page: Page) -> Self {
        let now = clock::now();
        Self {
            bell,
            page,
            doing: Cell::new(Doing::Setup),
            unrung: Cell::new(false),
            last_bell: Cell::new(now),
            now: Cell::new(now),
            tiny: stopwatch::tiny(),
        }
    }

    pub(super) fn append(&self, item: u32, tag: Tag, bytes: &[u8]) {
        let head = RecordHead {
            item,
            tag,
            length: bytes.len(),
        };
        while !self.page.append(head, bytes) {
            // The pool must be awake to make room.
            self.ring();
            self.page.wait_for_room(|| self.page.has_room(bytes.len()));
        }
        self.unrung.set(true);
    }

    /// Says that setup is done, whether the pool sleeps or not. No task can take back what lies in the pipe.
    pub(super) fn say_ready(&self) {
        self.append(0, Tag::Ready, &[]);
        self.unrung.set(false);
        // A pipe that has no room was written to by the initializer; the record is there.
        let _ = pipe::write(&self.bell, &[ExitRecord::READY]);
    }

    pub(super) fn fault(&self, item: u32, tag: Tag, fault: &Fault) {
        let mut bytes = Vec::new();
        // Text in memory cannot fail to encode.
        let _ = codec::encode(&fault.clone().shortened(), &mut bytes);
        self.append(item, tag, &bytes);
    }

    /// Rings if the pool sleeps and wants to know of what was appended now. Call behind the start of an item.
    #[inline]
    pub(super) fn ring_if_wanted(&self) {
        if self.unrung.get() {
            barrier_behind_start();
            match self.page.bell() {
                Bell::Off => {}
                Bell::NowAndThen => self.ring_now_and_then(),
                Bell::AtOnce => self.ring(),
            }
        }
    }

    /// Rings if the pool has not been rung for in a while.
    fn ring_now_and_then(&self) {
        let now = self.now.get();
        if now - self.last_bell.get() >= BELL_INTERVAL {
            self.ring();
            self.last_bell.set(now);
        }
    }

    /// Rings if the pool sleeps: there is nothing more to do.
    pub(super) fn ring_before_waiting(&self) {
        if self.unrung.replace(false) {
            self.ring();
        }
    }

    /// Reads the clock before the first item of a frame.
    pub(super) fn begin(&self, item: u32) -> Stopwatch {
        let now = clock::now();
        self.now.set(now);
        self.page.note_start(item, now);
        Stopwatch::new(now, self.tiny)
    }

    /// Reads the clock after some items, and notes how long they ran; `waited` is the bucket of the time that they waited.
    pub(super) fn lap(&self, watch: &mut Stopwatch, waited: usize) {
        let now = clock::now();
        self.now.set(now);
        self.page.account(waited, watch.lap(now));
    }

    pub(super) fn ring(&self) {
        // Without the barrier: (1) the swap in `take_bell` finds `Off`; (2) the pool stores
        // `AtOnce` and finds no record; (3) the record's tail becomes visible, and nobody rings.
        // On x86-64 the swap is a barrier by itself.
        full_barrier();
        if self.page.take_bell() {
            self.unrung.set(false);
            self.ring_at_once();
        }
    }

    /// Rings for records that have lain unread for long: a task may have written to the word of the bell.
    pub(super) fn ring_if_unread(&self) {
        if self.page.has_unread() {
            self.ring_at_once();
        }
    }

    fn ring_at_once(&self) {
        // A full pipe is a bell that was not heard yet; a closed one is noticed at the next read.
        let _ = pipe::write(&self.bell, &[ExitRecord::BELL]);
    }
}
