//! Proof under fire: a pool works while its workers are killed 50 times a second, and its fork server every two seconds.
//!
//! ```text
//! cargo run --release --example chaos -- --seconds 60         # of killing; the undisturbed slices in between come on top
//! cargo run --release --example chaos -- --tasks 1000000      # until so many tasks have met it
//! ```
//! Of 100 tasks, 20 are the items of a `map_results`, and the others are submitted one by one: 1 takes 1 ms, 1 takes 1 ms and may be
//! tried three times, 1 has an argument of 100 KiB, 10 are given to `apply_async`, and 67 are tiny. Every task leaves a mark in
//! shared memory as it starts. The report says how the tasks ended, how often they started, and what the program has held before
//! and after; it ends with the claims, and the program fails if one of them does not hold.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procpool::{ErrorKind, ProcessPoolExecutor, SharedMemory, TaskFuture, current_worker};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const WORKERS: usize = 2;
/// Between two kills; every hundredth hits the fork server.
const PAUSE: Duration = Duration::from_millis(20);
const SERVER_TURN: u64 = 100;
/// Slices take turns, so that what else the machine does falls on both.
const CALM: Duration = Duration::from_millis(250);
const STORM: Duration = Duration::from_secs(1);
/// Tasks whose outcomes are awaited together.
const ROUND: u64 = 2000;
const RETRIES: u32 = 2;
const LARGE: usize = 100 << 10;
/// A task that takes longer is lost.
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let outcome = Goal::from_arguments(env::args().skip(1)).and_then(|goal| run(&goal));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

/// When it is enough.
struct Goal {
    storm: Duration,
    tasks: u64,
}

impl Goal {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut seconds, mut tasks) = (None, None);
        while let Some(flag) = arguments.next() {
            let number = arguments.next().ok_or("a number is missing")?.parse()?;
            match flag.as_str() {
                "--seconds" => seconds = Some(number),
                "--tasks" => tasks = Some(number),
                _ => return Err("usage: chaos [--seconds N] [--tasks N]".into()),
            }
        }
        // The one that is not given does not matter, where the other is.
        let by_default = if tasks.is_some() { 0 } else { 60 };
        Ok(Self {
            storm: Duration::from_secs(seconds.unwrap_or(by_default)),
            tasks: tasks.unwrap_or(0),
        })
    }

    fn is_reached(&self, storm: &Spell) -> bool {
        storm.lasted >= self.storm && storm.tasks >= self.tasks
    }
}

/// Works, in calm and storm by turns; true if every claim holds.
fn run(goal: &Goal) -> Result<bool> {
    let marks = SharedMemory::create(WORKERS * ROUND as usize)?;
    let pool = ProcessPoolExecutor::builder()
        .workers(WORKERS)
        .initializer(remember, marks.clone())
        .build()?;
    let mut chaos = Chaos::default();
    let (mut calm, mut storm) = (Spell::default(), Spell::default());
    let mut before = None;
    while before.is_none() || !goal.is_reached(&storm) {
        calm.work(&pool, &marks, CALM)?;
        chaos.reign(&pool, || storm.work(&pool, &marks, STORM))?;
        if before.is_none() {
            // The first slices have warmed everything up.
            before = Some(Holdings::when_whole(&pool)?);
        }
    }
    let after = Holdings::when_whole(&pool)?;
    pool.join()?;
    let before = before.ok_or("there is a first slice")?;
    print_report(&chaos, &calm, &storm, [&before, &after]);
    Ok(print_claims(&calm, &storm, [&before, &after]))
}

// The tasks.

static MARKS: OnceLock<SharedMemory> = OnceLock::new();

/// Every worker's initializer.
fn remember(marks: SharedMemory) -> Result<(), &'static str> {
    MARKS.set(marks).map_err(|_| "initialized twice")
}

/// Counts a start of task `n`. Each place in the pool has counters of its own, and one worker at a time: nobody else writes there.
fn mark(n: u64) {
    let worker = current_worker().expect("a task runs in a worker").id;
    let marks = MARKS.get().expect("the initializer has run");
    let mut starts = [0];
    let counted = marks.read_at(place(worker, n), &mut starts).and_then(|()| {
        starts[0] += 1;
        marks.write_at(place(worker, n), &starts)
    });
    counted.expect("there is a place for each task of a round");
}

fn place(worker: usize, n: u64) -> usize {
    worker * ROUND as usize + (n % ROUND) as usize
}

fn tiny(n: u64) -> u64 {
    mark(n);
    n.wrapping_mul(3)
}

fn one_millisecond(n: u64) -> u64 {
    let started = Instant::now();
    let result = tiny(n);
    while started.elapsed() < Duration::from_millis(1) {}
    result
}

fn large((n, bytes): (u64, Vec<u8>)) -> u64 {
    assert!(bytes.len() == LARGE && bytes.iter().all(|it| u64::from(*it) == n % 251));
    tiny(n)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Tiny,
    Millisecond,
    Large,
    Retried,
    Callback,
    Item,
}

impl Kind {
    /// The last 20 of each 100 would be the items of maps; they stand at the end of a round, in one piece.
    fn of(n: u64) -> Self {
        if n % ROUND >= ROUND * 4 / 5 {
            return Self::Item;
        }
        match n % 80 {
            0 => Self::Millisecond,
            1 => Self::Retried,
            2 => Self::Large,
            3..13 => Self::Callback,
            _ => Self::Tiny,
        }
    }

    /// How often a task may start at most.
    fn most_starts(self) -> u32 {
        match self {
            Self::Retried => 1 + RETRIES,
            _ => 1,
        }
    }
}

// Working.

/// All slices of one kind together.
#[derive(Default)]
struct Spell {
    tasks: u64,
    lasted: Duration,
    tally: Tally,
}

impl Spell {
    fn work(
        &mut self,
        pool: &ProcessPoolExecutor,
        marks: &SharedMemory,
        time: Duration,
    ) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < time {
            let first = self.tasks;
            let outcomes = round(pool, first);
            self.tally.add(first, &outcomes, marks)?;
            self.tasks += ROUND;
        }
        self.lasted += started.elapsed();
        Ok(())
    }

    fn rate(&self) -> f64 {
        self.tasks as f64 / self.lasted.as_secs_f64()
    }
}

type Outcome = procpool::Result<u64>;

/// Runs the tasks from `first` on, and gives each one's outcomes, of which there is to be one.
fn round(pool: &ProcessPoolExecutor, first: u64) -> Vec<Vec<Outcome>> {
    let mut outcomes = vec![Vec::new(); ROUND as usize];
    let (items, calls): (Vec<u64>, Vec<u64>) =
        (first..first + ROUND).partition(|n| Kind::of(*n) == Kind::Item);
    let (tell, told) = mpsc::channel();
    let futures: Vec<_> = calls
        .iter()
        .filter_map(|n| submit(pool, *n, &tell))
        .collect();
    // Whoever is called back has a copy: at the end of the last one all have been called, or forgotten.
    drop(tell);
    let results = pool.map_results(tiny, items.clone());
    let awaited = futures
        .into_iter()
        .map(|(n, mut it)| (n, it.result_timeout(LIMIT)));
    for (n, outcome) in items.into_iter().zip(results).chain(awaited).chain(told) {
        outcomes[(n - first) as usize].push(outcome);
    }
    outcomes
}

/// Submits one task, and gives its future unless its outcome is told to a callback.
fn submit(
    pool: &ProcessPoolExecutor,
    n: u64,
    tell: &mpsc::Sender<(u64, Outcome)>,
) -> Option<(u64, TaskFuture<u64>)> {
    let future = match Kind::of(n) {
        Kind::Tiny | Kind::Item => pool.submit(tiny, n),
        Kind::Millisecond => pool.submit(one_millisecond, n),
        Kind::Large => pool.submit(large, (n, vec![(n % 251) as u8; LARGE])),
        Kind::Retried => pool.options().retries(RETRIES).submit(one_millisecond, n),
        Kind::Callback => {
            let tell = tell.clone();
            // It fails only where nobody counts any more.
            let call = move |it: &Outcome| drop(tell.send((n, it.clone())));
            drop(pool.apply_async(tiny, n, call));
            return None;
        }
    };
    Some((n, future))
}

/// How tasks ended, and what is wrong with that.
#[derive(Default)]
struct Tally {
    /// Tasks by kind: those with a result, and those whose workers died.
    ended: BTreeMap<Kind, [u64; 2]>,
    /// Starts beyond the first, of those that may.
    tried_again: u64,
    not_once: Vec<String>,
    too_often: Vec<String>,
    wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, first: u64, outcomes: &[Vec<Outcome>], marks: &SharedMemory) -> Result<()> {
        let mut starts = vec![0; marks.len()];
        marks.read_at(0, &mut starts)?;
        marks.write_at(0, &vec![0; marks.len()])?;
        for (n, outcomes) in (first..).zip(outcomes) {
            let starts = (0..WORKERS).map(|it| u32::from(starts[place(it, n)])).sum();
            self.add_task(n, outcomes, starts);
        }
        Ok(())
    }

    fn add_task(&mut self, n: u64, outcomes: &[Outcome], starts: u32) {
        let kind = Kind::of(n);
        let task = format_args!("task {n} ({kind:?}): {starts} starts, {outcomes:?}");
        let ended = self.ended.entry(kind).or_default();
        match outcomes {
            [Ok(value)] if *value == n.wrapping_mul(3) && starts > 0 => ended[0] += 1,
            [Err(error)] if error.kind() == ErrorKind::WorkerDied => ended[1] += 1,
            [_] => self.wrong.push(task.to_string()),
            _ => self.not_once.push(task.to_string()),
        }
        if starts > kind.most_starts() {
            self.too_often.push(task.to_string());
        }
        self.tried_again += u64::from(starts.saturating_sub(1));
    }
}

// Killing.

/// What was killed.
#[derive(Default)]
struct Chaos {
    workers: u64,
    servers: u64,
    lasted: Duration,
    /// Those that are dead, or are going to be.
    struck: Vec<u32>,
}

impl Chaos {
    /// Kills all the while that something is done.
    fn reign(
        &mut self,
        pool: &ProcessPoolExecutor,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (started, is_over) = (Instant::now(), AtomicBool::new(false));
        let outcome = thread::scope(|scope| {
            let killer = scope.spawn(|| -> Result<(), String> {
                let mut next = Instant::now();
                while !is_over.load(Ordering::Relaxed) {
                    self.strike(pool).map_err(|it| it.to_string())?;
                    next += PAUSE;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                Ok(())
            });
            let worked = work();
            is_over.store(true, Ordering::Relaxed);
            worked.and(killer.join().expect("it does not panic").map_err(Box::from))
        });
        self.lasted += started.elapsed();
        outcome
    }

    fn strike(&mut self, pool: &ProcessPoolExecutor) -> Result<()> {
        if (self.workers + self.servers + 1).is_multiple_of(SERVER_TURN) {
            let server = descendants()?.into_iter().find(|it| it.name == SERVER);
            self.servers += u64::from(server.is_some_and(|it| kill_process(it.pid)));
            self.struck.extend(pool.worker_pids());
        }
        // A pool whose workers die again and again before they are ready is broken: one that has worked must be left. On a busy
        // machine those that were struck may not have ended yet.
        let mut workers = pool.stats().workers;
        workers.retain(|it| !self.struck.contains(&it.pid));
        if workers.iter().any(|it| it.tasks_done > 0) {
            let chosen = workers[getrandom::u32()? as usize % workers.len()].pid;
            self.workers += u64::from(kill_process(chosen));
            self.struck.push(chosen);
        }
        Ok(())
    }
}

/// False if it was gone.
fn kill_process(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok()
}

// Looking.

const SERVER: &str = "procpool-server";

/// A process below this one.
struct Descendant {
    pid: u32,
    parent: u32,
    name: String,
}

/// Children, their children and so on; the dead that nobody has reaped, too.
fn descendants() -> Result<Vec<Descendant>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let numbers = entries.filter_map(|it| it.file_name().to_str()?.parse().ok());
    let mut others: Vec<Descendant> = numbers.filter_map(describe).collect();
    let (mut found, mut parents) = (Vec::new(), vec![process::id()]);
    while let Some(parent) = parents.pop() {
        let children: Vec<_> = others.extract_if(.., |it| it.parent == parent).collect();
        parents.extend(children.iter().map(|it| it.pid));
        found.extend(children);
    }
    Ok(found)
}

/// None if it has ended in the meantime.
fn describe(pid: u32) -> Option<Descendant> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, fields) = text.split_once(" (")?.1.rsplit_once(") ")?;
    let parent = fields.split_whitespace().nth(1)?.parse().ok()?;
    let name = name.to_owned();
    Some(Descendant { pid, parent, name })
}

/// What a program holds that it could leak.
#[derive(Debug)]
struct Holdings {
    resident_kib: u64,
    threads: u64,
    descriptors: u64,
    memory_files: u64,
    processes: u64,
}

impl Holdings {
    /// Looks when every worker lives, and nothing is left of those before them.
    fn when_whole(pool: &ProcessPoolExecutor) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let holdings = Self::now()?;
            let is_whole =
                pool.worker_pids().len() == WORKERS && holdings.processes == WORKERS as u64 + 1;
            if is_whole || Instant::now() > deadline {
                return Ok(holdings);
            }
            thread::sleep(PAUSE);
        }
    }

    fn now() -> Result<Self> {
        let descriptors: Vec<_> = fs::read_dir("/proc/self/fd")?.flatten().collect();
        let targets = descriptors
            .iter()
            .filter_map(|it| fs::read_link(it.path()).ok());
        Ok(Self {
            resident_kib: status("VmRSS:")?,
            threads: status("Threads:")?,
            descriptors: descriptors.len() as u64,
            memory_files: targets
                .filter(|it| it.to_string_lossy().starts_with("/memfd:"))
                .count() as u64,
            processes: descendants()?.len() as u64,
        })
    }

    /// Whether they are the same, but for free memory that is kept for the next large value: how much, is not the same each time.
    fn are_flat(&self, before: &Self) -> bool {
        let slabs = 8;
        self.resident_kib <= before.resident_kib + before.resident_kib / 10 + 4096
            && self.descriptors <= before.descriptors + slabs
            && self.memory_files <= before.memory_files + slabs
            && (self.threads, self.processes) == (before.threads, before.processes)
    }
}

/// A number in what the system says of this process.
fn status(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let value = text.lines().find_map(|it| it.strip_prefix(field));
    let number = value.and_then(|it| it.split_whitespace().next());
    Ok(number.ok_or("no such field")?.parse()?)
}

// Telling.

fn print_report(chaos: &Chaos, calm: &Spell, storm: &Spell, [before, after]: [&Holdings; 2]) {
    for (name, spell) in [("undisturbed", calm), ("disturbed", storm)] {
        let (tasks, seconds) = (spell.tasks, spell.lasted.as_secs_f64());
        println!(
            "{name}: {tasks} tasks in {seconds:.1} s, {:.0} a second",
            spell.rate()
        );
    }
    let rate = chaos.workers as f64 / chaos.lasted.as_secs_f64();
    println!(
        "killed: {} workers ({rate:.1} a second), {} fork servers",
        chaos.workers, chaos.servers
    );
    println!(
        "\n{:<12} {:>10} {:>10}",
        "disturbed", "result", "WorkerDied"
    );
    for (kind, [results, deaths]) in &storm.tally.ended {
        println!("{:<12} {results:>10} {deaths:>10}", format!("{kind:?}"));
    }
    println!("tried again: {}", storm.tally.tried_again);
    println!("\nheld before: {before:?}");
    println!("held after:  {after:?}\n");
}

fn print_claims(calm: &Spell, storm: &Spell, [before, after]: [&Holdings; 2]) -> bool {
    let (ratio, spells) = (storm.rate() / calm.rate(), [calm, storm]);
    let faults = |of: fn(&Tally) -> &Vec<String>| {
        let found: Vec<_> = spells.iter().flat_map(|it| of(&it.tally)).collect();
        found.iter().take(10).for_each(|it| println!("{it}"));
        found.is_empty()
    };
    let claims = [
        (faults(|it| &it.not_once), "each task ended once".into()),
        (
            faults(|it| &it.wrong),
            "each ended with its result or WorkerDied".into(),
        ),
        (
            faults(|it| &it.too_often),
            "none started more often than it may".into(),
        ),
        (
            after.are_flat(before),
            "memory, threads, descriptors and processes are flat".into(),
        ),
        (
            ratio >= 0.5,
            format!("throughput is {ratio:.2} of undisturbed, at least 0.5"),
        ),
    ];
    for (holds, claim) in &claims {
        println!("{} {claim}", if *holds { "ok  " } else { "FAIL" });
    }
    claims.iter().all(|it| it.0)
}
