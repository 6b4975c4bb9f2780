//! Queues whose users are killed at any time: no item is torn or taken twice, only items that a
//! dead process had in hand are lost, and no process is blocked.

use common::methods::start;
use common::processes::eventually;
use common::random::Random;
use common::{in_time, pattern, race};
use procpool::{Process, Queue, StartMethod};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// The producer, its how manieth it is, and bytes that follow from that.
type Item = (u64, u64, Vec<u8>);

/// A queue, the number of this process, and where it records its steps.
type Role = (Queue<Item>, u64, PathBuf);

fn content(producer: u64, n: u64) -> Vec<u8> {
    let size = match (producer + n) % 512 {
        0 => 5 << 20,
        1..4 => 300_000,
        it => (it * 13) as usize % 3000,
    };
    pattern(size, n as usize)
}

/// What was written by one `write` before a process was killed is there as a whole.
fn note(log: &mut File, numbers: [u64; 2]) {
    let bytes = numbers.map(u64::to_le_bytes).concat();
    log.write_all(&bytes).expect("room in a file");
}

fn notes(path: &Path) -> Vec<[u64; 2]> {
    let bytes = fs::read(path).expect("a file");
    let number = |it: &[u8]| u64::from_le_bytes(it.try_into().expect("eight bytes"));
    let pairs = bytes.chunks_exact(16);
    pairs
        .map(|it| [number(&it[..8]), number(&it[8..])])
        .collect()
}

fn produce((queue, id, log): Role) {
    let mut log = File::create(log).expect("a file");
    for n in 0.. {
        queue.put(&(id, n, content(id, n))).expect("it is open");
        note(&mut log, [id, n]);
    }
}

fn consume((queue, _, log): Role) {
    let mut log = File::create(log).expect("a file");
    loop {
        let (id, n, bytes) = queue.get().expect("it is open and nothing is torn");
        assert!(bytes == content(id, n), "item {n} of {id} is torn");
        note(&mut log, [id, n]);
    }
}

/// Processes that put and take until they are killed.
struct Cast {
    queue: Queue<Item>,
    directory: TempDir,
    /// Living ones, and whether they produce.
    players: Vec<(bool, Process<()>)>,
    started: u64,
    consumers_killed: usize,
}

impl Cast {
    fn new(queue: Queue<Item>) -> Self {
        let mut cast = Self {
            queue,
            directory: tempfile::tempdir().expect("a temporary directory"),
            players: Vec::new(),
            started: 0,
            consumers_killed: 0,
        };
        for produces in [true, true, false, false] {
            cast.start(produces);
        }
        cast
    }

    fn log(&self, produces: bool, id: u64) -> PathBuf {
        let role = if produces { "put" } else { "taken" };
        self.directory.path().join(format!("{role}-{id}"))
    }

    fn start(&mut self, produces: bool) {
        let id = self.started;
        self.started += 1;
        let role = (self.queue.clone(), id, self.log(produces, id));
        let play = if produces { produce } else { consume };
        let process = start(StartMethod::ForkServer, play, role).expect("a process");
        self.players.push((produces, process));
    }

    fn kill(&mut self, who: usize) -> bool {
        let (produces, process) = self.players.swap_remove(who);
        assert!(process.is_alive(), "{:?}", process.result());
        process.kill().expect("a living process");
        process.join().expect("it ends");
        self.consumers_killed += usize::from(!produces);
        produces
    }

    fn bytes_of(&self, role: &str) -> u64 {
        let files = fs::read_dir(self.directory.path()).expect("a directory");
        let logs = files
            .flatten()
            .filter(|it| it.file_name().to_string_lossy().starts_with(role));
        logs.filter_map(|it| it.metadata().ok())
            .map(|it| it.len())
            .sum()
    }

    /// Both sides do something, however it stands now.
    fn goes_on(&self) {
        for role in ["put", "taken"] {
            let before = self.bytes_of(role);
            eventually("the others go on", || self.bytes_of(role) > before);
        }
    }

    /// Kills all, takes what is left, and compares what was put with what was taken.
    fn end(mut self) {
        while !self.players.is_empty() {
            self.kill(0);
        }
        let mut taken: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let left = self.queue.len();
        for _ in 0..left {
            let (id, n, bytes) = self.queue.try_get().expect("as many as it says");
            assert!(bytes == content(id, n), "item {n} of {id} is torn");
            taken.entry(id).or_default().push(n);
        }
        assert!(self.queue.is_empty() && self.queue.try_get().is_err());
        let mut put: BTreeMap<u64, u64> = BTreeMap::new();
        for id in 0..self.started {
            for (produces, path) in [true, false].map(|it| (it, self.log(it, id))) {
                // Of those that were killed before they began.
                let notes = if path.exists() {
                    notes(&path)
                } else {
                    Vec::new()
                };
                for [id, n] in notes {
                    match produces {
                        true => assert_eq!(put.insert(id, n), n.checked_sub(1)),
                        false => taken.entry(id).or_default().push(n),
                    }
                }
            }
        }
        let mut lost = 0;
        for (id, mut numbers) in taken.clone() {
            numbers.sort_unstable();
            let all = numbers.len();
            numbers.dedup();
            assert_eq!(numbers.len(), all, "an item of {id} was taken twice");
            // One more may have been put than was noted.
            let sure = put.remove(&id).map_or(0, |it| it + 1);
            let last = numbers.last().copied().unwrap_or(0);
            assert!(last <= sure, "item {last} of {id} was never put");
            let put = sure.max(last + 1) as usize;
            lost += put - all;
        }
        lost += put.values().map(|it| *it as usize + 1).sum::<usize>();
        assert!(lost <= self.consumers_killed, "{lost} items are lost");
    }
}

fn play(queue: Queue<Item>) {
    let mut random = Random::new();
    let mut cast = Cast::new(queue);
    cast.goes_on();
    let mut kills = 0;
    race(|| {
        thread::sleep(Duration::from_micros(random.below(3000)));
        let produces = cast.kill(random.below(4) as usize);
        cast.start(produces);
        kills += 1;
        if kills % 20 == 0 {
            cast.goes_on();
        }
    });
    cast.goes_on();
    cast.end();
}

#[test]
fn a_bounded_queue_survives_its_users() {
    in_time(|| play(Queue::bounded(2).expect("a queue")));
}

#[test]
fn a_long_queue_survives_its_users() {
    in_time(|| play(Queue::bounded(50).expect("a queue")));
}
