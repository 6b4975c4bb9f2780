//! The error of a queue whose memory was changed by something other than a queue.

use crate::error::{Error, ErrorKind};

/// Returns the error of every call that finds words in the queue's memory that no queue call
/// writes.
#[cold]
pub(super) fn err_corrupted() -> Error {
    let message = "the queue is unusable: something else has written to its memory";
    Error::new(ErrorKind::Disconnected, message)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::error::ErrorKind;
    use crate::ipc::queue::SimpleQueue;
    use crate::ipc::queue::ring::{ItemBuffer, Limit, Ring};
    use crate::shm::{Cursor, Object, ObjectKind, View, fingerprint};
    use crate::wire::{
        codec,
        handle::{self, Descriptor, PartOf},
    };
    use std::{
        sync::{atomic::Ordering, mpsc},
        thread,
        time::Duration,
    };

    /// Offset of the first block in the file.
    const FIRST_BLOCK: usize = 64 << 10;

    /// Offsets of words (see README.md): tail and head, the count of processed items, the capacity,
    /// two generations, and two records of the first block.
    const WORDS: [usize; 20] = [
        384,
        392,
        400,
        408,
        416,
        424,
        432,
        512,
        520,
        528,
        536,
        544,
        552,
        560,
        904,
        1024,
        1152,
        1160,
        FIRST_BLOCK,
        FIRST_BLOCK + 16,
    ];

    /// Small numbers, positions that are unaligned, outside of their block, in the largest block or
    /// in none, and overflows.
    const VALUES: [u64; 16] = [
        0,
        1,
        3,
        7,
        12,
        (64 << 10) - 8,
        64 << 10,
        1 << 40,
        1 << 56,
        1 << 56 | 4,
        49 << 56,
        49 << 56 | ((1 << 40) - 8),
        50 << 56,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];

    /// Returns a queue in use and a second mapping of its memory.
    fn both() -> (Ring, View) {
        let ring = Ring::create(ObjectKind::JoinableQueue, 0, 8).expect("a queue");
        let items: [&[u8]; 3] = [b"a", b"b", b"c"];
        ring.put(&items, Limit::None).expect("room");
        let got = ring.get(1, &mut ItemBuffer::default(), Limit::None);
        got.expect("an item");
        let view = ring.object().view().map_part(0..2 * FIRST_BLOCK);
        (ring, view.expect("a mapping"))
    }

    fn store(memory: &View, word: usize, value: u64) {
        memory.atomic_u64(word).store(value, Ordering::Relaxed);
    }

    /// Makes every call. The outcomes depend on the words that were overwritten.
    fn call_all(ring: &Ring) {
        let soon = || Limit::after(Duration::from_millis(1));
        let get = |most, limit| ring.get(most, &mut ItemBuffer::default(), limit).is_ok();
        let put = |bytes, limit| ring.put(&[&vec![0; bytes]], limit).is_ok();
        let _ = format!("{} {:?}", ring.len(), ring.capacity());
        let _ = [put(100_000, Limit::None), get(1, Limit::None)];
        let _ = [put(10, soon()), get(usize::MAX, soon())];
        let _ = (ring.task_done().is_ok(), ring.join(soon()).is_ok());
        ring.close();
        let _ = [put(1, Limit::None), get(1, Limit::None)];
    }

    /// Runs a test that must not block forever.
    fn in_time(test: impl FnOnce() + Send + 'static) {
        let (ended, end) = mpsc::channel();
        let thread = thread::spawn(move || {
            test();
            // The receiver is dropped only after the deadline.
            let _ = ended.send(());
        });
        let waited = end.recv_timeout(Duration::from_secs(60));
        let is_late = waited == Err(mpsc::RecvTimeoutError::Timeout);
        assert!(!is_late, "a call does not end");
        thread.join().expect("no panic");
    }

    #[test]
    fn an_object_that_is_too_short_is_not_a_queue() {
        let object = Object::create(ObjectKind::SimpleQueue, fingerprint::<u8>(), 4096);
        let file = object.expect("shared memory").mapping().file().clone();
        let (mut bytes, mut list) = (Vec::new(), Vec::new());
        let part = PartOf::<{ ObjectKind::SimpleQueue as u8 }>::from(Descriptor::shared(file));
        let encoded = handle::collect(&mut list, || codec::encode(&part, &mut bytes));
        encoded.expect("a descriptor");
        let decode = || codec::decode::<SimpleQueue<u8>>(&mut Cursor::new(&bytes));
        assert!(handle::provide(list, decode).is_err());
    }

    #[test]
    fn any_word_may_be_overwritten_and_every_call_ends() {
        in_time(|| {
            for word in WORDS {
                for value in VALUES {
                    let (ring, memory) = both();
                    store(&memory, word, value);
                    call_all(&ring);
                }
            }
        });
    }

    #[test]
    fn any_three_words_may_be_overwritten_and_every_call_ends() {
        in_time(|| {
            for seed in 0..1000usize {
                let (ring, memory) = both();
                for turn in 1..=3 {
                    let pick = seed.wrapping_mul(7919).wrapping_add(turn * 104_729);
                    let value = VALUES[pick / WORDS.len() % VALUES.len()];
                    store(&memory, WORDS[pick % WORDS.len()], value);
                }
                call_all(&ring);
            }
        });
    }

    #[test]
    fn jumps_in_a_circle_are_followed_for_a_while_only() {
        in_time(|| {
            let (ring, memory) = both();
            // Every record jumps to the start of the first block, and the producers are far ahead.
            (0..8).for_each(|index| store(&memory, FIRST_BLOCK + 8 * index, 1));
            for generation in [400, 424] {
                store(&memory, generation, u64::MAX);
            }
            let got = ring.get(10, &mut ItemBuffer::default(), Limit::None);
            let error = got.expect_err("no item is there");
            assert_eq!(error.kind(), ErrorKind::Disconnected);
        });
    }

    #[test]
    fn memory_that_was_never_written_holds_no_items() {
        let (ring, memory) = both();
        // Both sides are in the largest block, which is a terabyte of zeros.
        for (side, offset) in [(384, (1 << 40) - 8), (512, 0)] {
            for word in [3, 6] {
                store(&memory, side + 8 * word, 49 << 56 | offset);
            }
        }
        for items in [392, 416] {
            store(&memory, items, u64::MAX);
        }
        let got = ring.get(usize::MAX, &mut ItemBuffer::default(), Limit::None);
        let error = got.expect_err("no item is there");
        assert_eq!(error.kind(), ErrorKind::Disconnected);
    }
}
