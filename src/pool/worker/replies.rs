//! The way back to the pool: records into the page's ring, and the bell.

use crate::pool::page::{Bell, Page, RecordHead, Tag, barrier_behind_start, full_barrier};
use crate::process::{fault::Fault, start::ExitRecord};
use crate::sys::pipe;
use crate::wire::codec;
use std::{
    cell::Cell,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// Between two rings of the bell while there is more to do: a sleeping pool is woken for a batch, not for an item.
const BELL_INTERVAL: Duration = Duration::from_micros(1000);

/// An item that takes less is tiny.
const TINY: Duration = Duration::from_micros(2);

/// Tiny items between two looks at the clock.
const TINY_BATCH: u32 = 16;

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
    last_bell: Cell<Instant>,
    /// Whether the items of the last frame took less than `TINY`, on average.
    items_are_tiny: Cell<bool>,
    /// Tiny items since the clock was read.
    skipped: Cell<u32>,
}

impl Replies {
    pub(super) fn new(bell: OwnedFd, page: Page) -> Self {
        let last_bell = Cell::new(Instant::now());
        Self {
            bell,
            page,
            doing: Cell::new(Doing::Setup),
            unrung: Cell::new(false),
            last_bell,
            items_are_tiny: Cell::new(false),
            skipped: Cell::new(0),
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
        // The clock costs as much as a tiny item: it is read for every item, or for sixteen of the tiny ones.
        let skipped = self.skipped.get() + 1;
        self.skipped.set(skipped % TINY_BATCH);
        if self.items_are_tiny.get() && skipped < TINY_BATCH {
            return;
        }
        let now = Instant::now();
        if now.duration_since(self.last_bell.get()) >= BELL_INTERVAL {
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

    /// Notes for how many nanoseconds items had waited, and how long they took.
    pub(super) fn account(&self, waited: u64, busy: Duration, items: u32) {
        self.items_are_tiny.set(busy < TINY * items);
        self.page
            .account(waited, busy.as_nanos() as u64, items.into());
    }

    pub(super) fn ring(&self) {
        // Without the barrier: (1) the swap in `take_bell` finds `Off`; (2) the pool stores
        // `AtOnce` and finds no record; (3) the record's tail becomes visible, and nobody rings.
        // On x86-64 the swap is a barrier by itself.
        full_barrier();
        if self.page.take_bell() {
            self.unrung.set(false);
            // A full pipe is a bell that was not heard yet; a closed one is noticed at the next read.
            let _ = pipe::write(&self.bell, &[ExitRecord::BELL]);
        }
    }
}
