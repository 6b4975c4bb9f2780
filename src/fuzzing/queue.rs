//! The target of a queue's memory: words of both sides, visits and records that no process of this
//! crate has written.

use super::shared::{file_of, scribble};
use crate::ipc::JoinableQueue;
use crate::wire::fuzzing::{Script, Target, ignore, part};
use std::time::Duration;

/// The offset of the words that may be scribbled over: after both locks, up to the last generation.
const CONTROL: usize = 3 * 128;
const CONTROL_WORDS: usize = 8 * 128 / 8 + 50;

/// Where the two smallest blocks begin.
const BLOCKS: [usize; 2] = [64 << 10, 128 << 10];

fn place(script: &mut Script<'_>) -> usize {
    let (area, number) = (script.byte(), script.byte());
    match area % 4 {
        0 => CONTROL + 8 * usize::from(number % 7),
        1 => CONTROL + 128 + 8 * usize::from(number % 7),
        2 => CONTROL + 8 * (usize::from(number) % CONTROL_WORDS),
        _ => BLOCKS[usize::from(number % 2)] + 8 * usize::from(number / 2),
    }
}

fn call(queue: &JoinableQueue<Vec<u8>>, script: &mut Script<'_>) {
    match script.byte() % 10 {
        0 => ignore(queue.try_put(&script.part().to_vec())),
        1 => ignore(queue.put_timeout(&vec![7; usize::from(script.byte()) << 9], Duration::ZERO)),
        2 => ignore(queue.try_get()),
        3 => ignore(queue.get_timeout(Duration::ZERO)),
        // It blocks on an empty queue.
        4 if !queue.is_empty() => ignore(queue.try_get()),
        5 => ignore(queue.task_done()),
        6 => ignore(queue.join_timeout(Duration::ZERO)),
        7 => ignore((
            queue.len(),
            queue.is_empty(),
            queue.is_full(),
            queue.capacity(),
        )),
        8 => queue.close(),
        _ => {}
    }
}

pub(super) const QUEUE: Target = Target {
    name: "queue",
    run: |input| {
        let mut script = Script(input);
        let queue = match script.byte() % 8 {
            0 => JoinableQueue::unbounded(),
            capacity => JoinableQueue::bounded(capacity.into()),
        };
        let queue = queue.expect("shared memory");
        let file = file_of(&queue);
        while !script.is_over() {
            match script.byte() % 3 {
                0 => {
                    let at = place(&mut script);
                    scribble(&file, at, &mut script);
                }
                _ => call(&queue, &mut script),
            }
        }
    },
    seeds: || {
        let put = [&[1, 0][..], &part(b"an item")].concat();
        let (get, done, large) = ([1, 2], [1, 5], [1, 1, 200]);
        let look = [1, 7, 1, 6];
        let plain = [&[0][..], &put, &put, &look, &get, &done, &get, &done, &look].concat();
        let bounded = [&[2][..], &put, &put, &put, &get, &put, &[1, 8], &get, &get].concat();
        let blocks = [&[0][..], &large, &large, &get, &large, &get, &get].concat();
        let scribbled =
            |area: u8| [&[0][..], &put, &[0, area, 1, 1, 1], &get, &put, &look].concat();
        [plain, bounded, blocks]
            .into_iter()
            .chain((0..4).map(scribbled))
            .collect()
    },
};
