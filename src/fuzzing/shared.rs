//! The targets of objects in shared memory: forged headers, and words that this crate never writes.

use crate::shm::{Object, fingerprint};
use crate::sync::{
    Array, Atomic, Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore, Value,
};
use crate::sys::{memory, robust::RobustMutex};
use crate::wire::{
    Wire, codec,
    fuzzing::{Script, Target, ignore},
    handle::{self, Attached, Descriptor},
    kind::ObjectKind,
};
use std::{ops::Range, os::fd::AsFd, sync::atomic::Ordering, time::Duration};

/// Bytes of the longest file.
const LONGEST: u64 = 256 << 10;

/// The file of an object.
pub(super) fn file_of<T: Wire>(object: &T) -> Descriptor {
    let (mut list, mut bytes) = (Vec::new(), Vec::new());
    handle::collect(&mut list, || codec::encode(object, &mut bytes)).expect("a handle");
    let file = list.pop().expect("a handle has a descriptor");
    file.as_fd()
        .try_clone_to_owned()
        .expect("room for descriptors")
        .into()
}

/// Writes a word to an object's file: any, one near to what is there, or one of those where numbers
/// end.
pub(super) fn scribble(file: &Descriptor, offset: usize, script: &mut Script<'_>) {
    let mut before = [0; 8];
    if memory::read_at(file, offset, &mut before).is_err() {
        return;
    }
    let before = u64::from_le_bytes(before);
    let word = match script.byte() % 4 {
        0 => script.word(),
        1 => before.wrapping_add(i64::from(script.byte().cast_signed()).cast_unsigned()),
        2 => before ^ 1 << (script.byte() % 64),
        _ => [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, 1 << 32][usize::from(script.byte() % 6)],
    };
    memory::write_at(file, offset, &word.to_le_bytes()).expect("a file of that length");
}

/// The object of a descriptor, if it is one; what can be asked without its lock must have an
/// answer.
fn open<T: Wire>(kind: u8, file: &Descriptor, look: impl FnOnce(&T)) {
    let file = file
        .as_fd()
        .try_clone_to_owned()
        .expect("room for descriptors");
    let file = Attached::received(vec![file], &[kind + 1]);
    let opened = handle::provide(file, || codec::decode::<T>(&mut vec![0; 4]));
    if let Ok(object) = opened {
        look(&object);
    }
}

/// Opens an object as one of each kind.
fn open_as(kind: u8, file: &Descriptor) {
    match kind {
        0 => open::<Lock>(kind, file, |_| {}),
        1 => open::<RLock>(kind, file, |_| {}),
        2 => open::<Semaphore>(kind, file, |it| ignore(it.value())),
        3 => open::<BoundedSemaphore>(kind, file, |it| ignore(it.value())),
        4 => open::<Condition>(kind, file, Condition::notify_all),
        5 => open::<Event>(kind, file, |it| {
            assert!(it.wait_timeout(Duration::ZERO).is_ok() == it.is_set())
        }),
        6 => open::<Barrier>(kind, file, |it| ignore((it.parties(), it.is_broken()))),
        7 => open::<Value<u64>>(kind, file, |_| {}),
        8 => open::<Array<u32>>(kind, file, |it| ignore(it.len())),
        9 => open::<Atomic<u64>>(kind, file, |it| ignore(it.load(Ordering::Relaxed))),
        10 => open::<crate::SharedMemory>(kind, file, |it| ignore(it.len())),
        11 => open::<crate::Queue<u8>>(kind, file, |it| ignore((it.len(), it.capacity()))),
        12 => open::<crate::SimpleQueue<u8>>(kind, file, |it| ignore(it.is_empty())),
        _ => open::<crate::JoinableQueue<u8>>(kind, file, |it| ignore((it.len(), it.capacity()))),
    }
}

fn fingerprints() -> [u64; 4] {
    [
        0,
        fingerprint::<u64>(),
        fingerprint::<u32>(),
        fingerprint::<u8>(),
    ]
}

/// A file with the header that the script wants, and some of what follows.
fn forged(script: &mut Script<'_>) -> (u8, Descriptor) {
    let kind = script.byte() % 14;
    let length = script.word() % LONGEST;
    let flags = script.byte();
    let fingerprint = fingerprints()[usize::from(flags >> 2 & 3)];
    let words = [
        u64::from_le_bytes(*b"procpool"),
        u64::from(kind) + 1,
        fingerprint,
        if flags & 1 == 0 {
            length
        } else {
            script.word()
        },
        script.word(),
    ];
    let file = memory::anonymous_file(length as usize).expect("shared memory");
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    if flags & 2 != 0 {
        let at = usize::from(script.byte()) % bytes.len();
        bytes[at] ^= script.byte();
    }
    bytes.truncate(length as usize);
    memory::write_at(&file, 0, &bytes).expect("room for a header");
    (kind, file.into())
}

pub(super) const OBJECTS: Target = Target {
    name: "objects",
    run: |input| {
        let mut script = Script(input);
        let (kind, file) = forged(&mut script);
        let as_kind = match script.byte() {
            0 => kind,
            other => other % 14,
        };
        while !script.is_over() {
            let at = usize::from(u16::from_le_bytes(script.array())) * 8;
            if at >= Object::BODY {
                scribble(&file, at, &mut script);
            }
        }
        open_as(as_kind, &file);
    },
    seeds: || {
        let lengths = [
            128, 128, 192, 192, 256, 128, 1024, 256, 1024, 128, 4096, 65536, 65536, 65536,
        ];
        let marks = [0, 0, 0, 0, 0, 0, 0, 4, 8, 4, 0, 12, 12, 12];
        let numbered = lengths.into_iter().zip(marks).enumerate();
        let seed = |(kind, (length, mark)): (usize, (u64, u8))| {
            let number = kind as u64 + 1;
            let head = [&[kind as u8][..], &length.to_le_bytes(), &[mark]].concat();
            [&head[..], &number.to_le_bytes(), &[0]].concat()
        };
        numbered.map(seed).collect()
    },
};

/// Where the words of an object lie that no mutex is in: what a mutex holds is the C library's, and
/// believed by it.
struct Words {
    file: Descriptor,
    places: Vec<Range<usize>>,
}

impl Words {
    fn of<T: Wire>(object: &T, bytes: usize, mutexes: &[usize]) -> Self {
        let mut places = vec![];
        let mut start = Object::BODY;
        for mutex in mutexes {
            places.push(start..*mutex);
            start = mutex + RobustMutex::SIZE;
        }
        places.push(start..Object::BODY + bytes);
        let file = file_of(object);
        Self { file, places }
    }

    fn scribble(&self, script: &mut Script<'_>) {
        let words: Vec<usize> = self
            .places
            .iter()
            .cloned()
            .flat_map(|it| it.step_by(8))
            .collect();
        let at = words[usize::from(script.byte()) % words.len()];
        scribble(&self.file, at, script);
    }
}

/// Scribbles, and calls what does not wait, as the script says.
fn torment(script: &mut Script<'_>, words: &Words, mut call: impl FnMut(u8)) {
    while !script.is_over() {
        match script.byte() {
            it if it.is_multiple_of(2) => words.scribble(script),
            other => call(other >> 1),
        }
    }
}

fn torment_semaphore(script: &mut Script<'_>) {
    let it = Semaphore::new(2).expect("shared memory");
    torment(script, &Words::of(&it, 128, &[]), |call| match call % 4 {
        0 => ignore(it.try_acquire()),
        1 => ignore(it.acquire_timeout(Duration::ZERO)),
        2 => ignore(it.release()),
        _ => ignore(it.value()),
    });
}

fn torment_bounded_semaphore(script: &mut Script<'_>) {
    let it = BoundedSemaphore::new(2).expect("shared memory");
    torment(script, &Words::of(&it, 128, &[]), |call| match call % 4 {
        0 => ignore(it.try_acquire()),
        1 => ignore(it.acquire_timeout(Duration::ZERO)),
        2 => ignore(it.release()),
        _ => ignore(it.value()),
    });
}

fn torment_event(script: &mut Script<'_>) {
    let it = Event::new().expect("shared memory");
    torment(script, &Words::of(&it, 64, &[]), |call| match call % 4 {
        0 => it.set(),
        1 => it.clear(),
        2 => ignore(it.wait_timeout(Duration::ZERO)),
        _ => ignore(it.is_set()),
    });
}

fn torment_condition(script: &mut Script<'_>) {
    let it = Condition::new().expect("shared memory");
    torment(
        script,
        &Words::of(&it, 128, &[Object::BODY]),
        |call| match call % 3 {
            0 => it.notify_one(),
            1 => it.notify_all(),
            _ => {
                let mut guard = it.lock().expect("no process died");
                ignore(guard.wait_timeout(Duration::ZERO));
            }
        },
    );
}

/// Bytes of a barrier's part before its places, and of a place.
const BARRIER: (usize, usize) = (128, 128);

fn torment_barrier(script: &mut Script<'_>) {
    let parties = usize::from(script.byte() % 3) + 1;
    let it = Barrier::new(parties).expect("shared memory");
    let place = |index| Object::BODY + BARRIER.0 + index * BARRIER.1;
    let mutexes: Vec<usize> = [Object::BODY]
        .into_iter()
        .chain((0..parties).map(place))
        .collect();
    let words = Words::of(&it, BARRIER.0 + parties * BARRIER.1, &mutexes);
    torment(script, &words, |call| match call % 6 {
        0 => ignore(it.wait_timeout(Duration::ZERO)),
        1 => ignore(it.reset()),
        2 => ignore(it.abort()),
        3 => ignore(it.waiting()),
        4 => ignore(it.is_broken()),
        _ => ignore(it.parties()),
    });
}

fn torment_array(script: &mut Script<'_>) {
    let it = Array::from_slice(&[1u64, 2, 3]).expect("shared memory");
    let mut words = Words::of(&it, 256, &[Object::BODY]);
    // The first word after the mutex names the process that has the items: a process that lives
    // would be waited for.
    words.places = std::iter::once(Object::BODY + 72..Object::BODY + 256).collect();
    torment(script, &words, |call| match call % 4 {
        0 => ignore(it.len()),
        1 => ignore(it.get(2)),
        2 => ignore(it.to_vec()),
        _ => open::<Array<u64>>(ObjectKind::Array as u8 - 1, &words.file, |it| {
            ignore(it.get(usize::from(call)))
        }),
    });
}

pub(super) const WORDS: Target = Target {
    name: "words",
    run: |input| {
        let mut script = Script(input);
        match script.byte() % 6 {
            0 => torment_semaphore(&mut script),
            1 => torment_bounded_semaphore(&mut script),
            2 => torment_event(&mut script),
            3 => torment_condition(&mut script),
            4 => torment_barrier(&mut script),
            _ => torment_array(&mut script),
        }
    },
    seeds: || {
        let calls: Vec<u8> = (0..12).map(|it| it << 1 | 1).collect();
        let plain = (0..6).map(|kind| [&[kind][..], &calls].concat());
        let one_more = [0, 0, 1, 1];
        let scribbled = (0..6).map(|kind| [&[kind][..], &one_more, &calls].concat());
        plain.chain(scribbled).collect()
    },
};

const _: () = assert!(ObjectKind::JoinableQueue as usize == 14);
