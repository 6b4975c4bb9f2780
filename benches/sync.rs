//! Locks and events beside what they stand on: a bare robust mutex, a bare futex, and a lock between threads.

#![expect(unsafe_code, reason = "the bare limits are system calls")]

use criterion::Criterion;
use parking_lot::Mutex;
use procpool::{Event, Lock, Process, SharedMemory, Value};
use std::{
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Turns of each of two processes in one measurement of contention.
const TURNS: u64 = 300_000;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    bench_uncontended(&mut criterion);
    bench_value(&mut criterion);
    bench_contended(&mut criterion);
    bench_event(&mut criterion);
    criterion.final_summary();
}

/// A robust, process-shared mutex, and a number behind it.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Bare(SharedMemory);

impl Bare {
    fn new() -> Self {
        let bare = Self(SharedMemory::create(4096).expect("shared memory"));
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: it initialises a local.
        unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
        let attributes = attributes.as_mut_ptr();
        // SAFETY: the attributes are initialised.
        unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) };
        // SAFETY: as above.
        unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) };
        // SAFETY: nobody else knows the memory yet.
        unsafe { libc::pthread_mutex_init(bare.mutex(), attributes) };
        bare
    }

    fn mutex(&self) -> *mut libc::pthread_mutex_t {
        // SAFETY: only the address is taken.
        unsafe { self.0.as_ptr() }.cast()
    }

    fn number(&self) -> *mut u64 {
        // SAFETY: inside of the memory.
        unsafe { self.mutex().byte_add(128) }.cast()
    }

    fn lock(mutex: *mut libc::pthread_mutex_t) {
        // SAFETY: it is initialised.
        unsafe { libc::pthread_mutex_lock(mutex) };
    }

    fn unlock(mutex: *mut libc::pthread_mutex_t) {
        // SAFETY: it is initialised.
        unsafe { libc::pthread_mutex_unlock(mutex) };
    }

    fn count(&self, times: u64) {
        let (mutex, number) = (self.mutex(), self.number());
        for _ in 0..times {
            Self::lock(mutex);
            // SAFETY: the mutex is held by all who touch it.
            let before = unsafe { ptr::read_volatile(number) };
            // SAFETY: as above.
            unsafe { ptr::write_volatile(number, before + 1) };
            Self::unlock(mutex);
        }
    }
}

fn bench_uncontended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uncontended");
    let lock = Lock::new().expect("a lock");
    group.bench_function("Lock", |it| it.iter(|| drop(lock.acquire())));
    let bare = Bare::new();
    let mutex = bare.mutex();
    group.bench_function("bare robust mutex", |it| {
        it.iter(|| {
            Bare::lock(mutex);
            Bare::unlock(mutex);
        });
    });
    let threads = Mutex::new(());
    group.bench_function("parking_lot", |it| it.iter(|| drop(threads.lock())));
    group.finish();
}

fn bench_value(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("increment");
    let value = Value::new(0u64).expect("a value");
    group.bench_function("Value", |it| {
        it.iter(|| *value.lock().expect("nobody died") += 1);
    });
    let bare = Bare::new();
    group.bench_function("bare robust mutex", |it| it.iter(|| bare.count(1)));
    group.finish();
}

fn bench_contended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("contended by two processes");
    group.bench_function("Value", |it| {
        it.iter_custom(|rounds| {
            let value = Value::new(0u64).expect("a value");
            let count = |value: Value<u64>| {
                (0..TURNS).for_each(|_| *value.lock().expect("nobody died") += 1);
            };
            (0..rounds).map(|_| timed(count, value.clone())).sum()
        });
    });
    group.bench_function("bare robust mutex", |it| {
        it.iter_custom(|rounds| {
            let bare = Bare::new();
            let count = |bare: Bare| bare.count(TURNS);
            (0..rounds).map(|_| timed(count, bare.clone())).sum()
        });
    });
    group.finish();
}

/// The time until this process and another have both done something.
fn timed<A: procpool::Wire + Clone>(run: fn(A), shared: A) -> Duration {
    let start = Instant::now();
    let process = Process::start(run, shared.clone()).expect("a process");
    run(shared);
    process.result().expect("an end");
    start.elapsed()
}

/// Waits for its word to be 1, makes it 0, and the other's 1.
fn answer((memory, rounds): (SharedMemory, u32)) {
    // SAFETY: only the address is taken.
    let start = unsafe { memory.as_ptr() }.cast::<AtomicU32>();
    // SAFETY: words that are only used as atomics.
    let words = unsafe { std::slice::from_raw_parts(start, 32) };
    for _ in 0..rounds {
        wait(&words[0]);
        wake(&words[16]);
    }
}

fn wait(word: &AtomicU32) {
    while word.swap(0, Ordering::SeqCst) == 0 {
        let forever = ptr::null::<libc::timespec>();
        // SAFETY: the word is alive for the call.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 0, forever) };
    }
}

fn wake(word: &AtomicU32) {
    word.store(1, Ordering::SeqCst);
    // SAFETY: the kernel takes the address as a key.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

fn bench_event(criterion: &mut Criterion) {
    const ROUNDS: u32 = 1000;
    let mut group = criterion.benchmark_group("1000 round trips");
    group.bench_function("Event", |it| {
        it.iter(|| {
            let (ping, pong) = (
                Event::new().expect("an event"),
                Event::new().expect("an event"),
            );
            let answer = |(ping, pong): (Event, Event)| {
                for _ in 0..ROUNDS {
                    ping.wait().expect("a set");
                    ping.clear();
                    pong.set();
                }
            };
            let process = Process::start(answer, (ping.clone(), pong.clone())).expect("a process");
            for _ in 0..ROUNDS {
                ping.set();
                pong.wait().expect("a set");
                pong.clear();
            }
            process.result().expect("an end");
        });
    });
    group.bench_function("bare futex", |it| {
        it.iter(|| {
            let memory = SharedMemory::create(4096).expect("shared memory");
            let process = Process::start(answer, (memory.clone(), ROUNDS)).expect("a process");
            // SAFETY: only the address is taken.
            let start = unsafe { memory.as_ptr() }.cast::<AtomicU32>();
            // SAFETY: words that are only used as atomics.
            let words = unsafe { std::slice::from_raw_parts(start, 32) };
            for _ in 0..ROUNDS {
                wake(&words[0]);
                wait(&words[16]);
            }
            process.result().expect("an end");
        });
    });
    group.finish();
}
