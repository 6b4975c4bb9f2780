//! What is asked of a pool at the same time: stops, limits, retries, deaths, and wakers that wait
//! for it.

use common::processes::eventually;
use common::{
    Gate, arrive, block_sigterm, failure, in_time, pass, pool_of, race, race_until, square,
    wait_until_running,
};
use procpool::{
    ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, TaskFuture, Wire, current_worker, wait,
};
use std::{
    fs,
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    pin::Pin,
    process,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

/// A place where each try of a task leaves a byte.
struct Tries {
    folder: tempfile::TempDir,
}

impl Tries {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("tries"), "").expect("a file");
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tries")
    }

    fn count(&self) -> usize {
        fs::read(self.path()).expect("it is there").len()
    }
}

fn leave_a_byte(path: &Path) {
    let file = fs::File::options().append(true).open(path);
    file.and_then(|mut it| it.write_all(b"x")).expect("a file");
}

/// A task that only SIGKILL ends.
fn go_on_for_ever(tries: PathBuf) {
    block_sigterm();
    leave_a_byte(&tries);
    loop {
        thread::park();
    }
}

/// A task that panics when it is asked to stop.
fn panic_when_stopped(tries: PathBuf) {
    block_sigterm();
    leave_a_byte(&tries);
    let worker = current_worker().expect("a worker");
    while !worker.stop_requested() {
        thread::yield_now();
    }
    panic!("it was asked to stop");
}

/// A task that ends its worker once it was let in.
fn pass_and_crash(gate: PathBuf) {
    pass(gate);
    process::abort();
}

#[test]
fn a_killed_task_is_cancelled_though_its_limit_passes_before_it_has_ended() {
    in_time(|| {
        let pool = pool_of(1);
        let limit = Duration::from_millis(200);
        race_until("the task was killed before its limit", || {
            let tries = Tries::new();
            let submitted = Instant::now();
            let options = pool.options().timeout(limit).retries(3);
            let future = options.submit(go_on_for_ever, tries.path());
            eventually("it has begun", || tries.count() > 0);
            let killed = future.kill() && submitted.elapsed() < limit;
            let error = failure(future.result()).kind();
            // It dies by SIGKILL, a second after its limit.
            assert!(!killed || (error, tries.count()) == (ErrorKind::Cancelled, 1));
            killed
        });
    });
}

#[test]
fn a_task_that_is_killed_again_and_again_ends() {
    in_time(|| {
        let (pool, tries) = (pool_of(1), Tries::new());
        let future = pool.submit(go_on_for_ever, tries.path());
        eventually("it has begun", || tries.count() == 1);
        eventually("it has ended", || {
            future.kill();
            future.is_done()
        });
        assert_eq!(failure(future.result()).kind(), ErrorKind::Cancelled);
    });
}

#[test]
fn a_killed_task_that_panics_is_not_tried_again() {
    in_time(|| {
        let (pool, tries) = (pool_of(1), Tries::new());
        let options = pool.options().retries(2).retry_panics(true);
        let future = options.submit(panic_when_stopped, tries.path());
        eventually("it has begun", || tries.count() == 1);
        assert!(future.kill());
        assert_eq!(failure(future.result()).kind(), ErrorKind::Cancelled);
        assert_eq!(tries.count(), 1);
    });
}

/// A waker that does something else.
struct Errand(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Errand {
    fn wake(self: Arc<Self>) {
        let errand = self.0.lock().expect("no panic").take();
        errand.expect("it is woken once")();
    }
}

/// Polls a future once, so that `errand` is run by the pool's own thread when it is done.
fn send_on_an_errand<R: Wire + Send>(
    future: &mut TaskFuture<R>,
    errand: impl FnOnce() + Send + 'static,
) {
    let errand = Errand(Mutex::new(Some(Box::new(errand))));
    let waker = Waker::from(Arc::new(errand));
    let polled = Pin::new(future).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
}

/// Checks that a waker can have a square from the pool when its task, held at a gate, has ended.
fn a_waker_waits(pool: ProcessPoolExecutor, task: fn(PathBuf)) {
    let (pool, gate) = (Arc::new(pool), Gate::new());
    let (tell, told) = mpsc::channel();
    let mut held = pool.submit(task, gate.path());
    let same = Arc::clone(&pool);
    send_on_an_errand(&mut held, move || {
        let squared = same.apply(square, 3);
        tell.send(squared.map_err(|it| it.to_string()))
            .expect("the test waits");
    });
    gate.wait_for(1);
    gate.open();
    assert_eq!(told.recv(), Ok(Ok(9)));
}

#[test]
fn a_waker_can_wait_for_a_pool_that_has_just_lost_its_worker() {
    in_time(|| {
        a_waker_waits(pool_of(1), pass_and_crash);
    });
}

#[test]
fn a_waker_can_wait_for_a_pool_whose_workers_rest() {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(1);
        let pool = builder.idle_timeout(Duration::ZERO).build();
        a_waker_waits(pool.expect("a pool"), pass);
    });
}

#[test]
fn a_waker_can_wait_for_a_pool_that_has_just_lost_its_worker_while_others_wait() {
    in_time(|| {
        race(|| {
            let (pool, gate) = (Arc::new(pool_of(1)), Gate::new());
            let (tell, told) = mpsc::channel();
            let mut held = pool.submit(pass_and_crash, gate.path());
            let same = Arc::clone(&pool);
            send_on_an_errand(&mut held, move || {
                let squared = same.apply(square, 3);
                tell.send(squared.ok()).expect("the test waits");
            });
            gate.wait_for(1);
            let behind = [4, 5].map(|it| pool.submit(square, it));
            thread::scope(|scope| {
                let waiting = behind.map(|it| scope.spawn(|| it.result().ok()));
                gate.open();
                assert_eq!(told.recv(), Ok(Some(9)));
                let squares = waiting.map(|it| it.join().expect("no panic"));
                assert_eq!(squares, [Some(16), Some(25)]);
            });
        });
    });
}

#[test]
fn a_waker_can_wait_for_several_pools() {
    in_time(|| {
        let (pool, gate) = (Arc::new(pool_of(1)), Gate::new());
        let (tell, told) = mpsc::channel();
        let mut held = pool.submit(pass_and_crash, gate.path());
        let same = Arc::clone(&pool);
        send_on_an_errand(&mut held, move || {
            let other = pool_of(1);
            let futures = [same.submit(square, 3), other.submit(square, 4)];
            let waited = wait(&futures, ReturnWhen::AllCompleted, None);
            tell.send(waited.done).expect("the test waits");
        });
        gate.wait_for(1);
        gate.open();
        assert_eq!(told.recv(), Ok(vec![0, 1]));
    });
}

#[test]
fn a_task_that_is_killed_as_it_fails_is_not_tried_again() {
    in_time(|| {
        let pool = pool_of(1);
        race(|| {
            let panics = |()| -> () { panic!("on purpose") };
            let options = pool.options().retries(1000).retry_panics(true);
            let future = options.submit(panics, ());
            // Whenever it is: it ends with this, and not after a thousand tries.
            while !future.kill() && !future.is_done() {
                thread::yield_now();
            }
            assert_eq!(failure(future.result()).kind(), ErrorKind::Cancelled);
        });
    });
}

#[test]
fn a_worker_that_one_thread_has_killed_is_replaced_while_another_waits() {
    in_time(|| {
        let pool = pool_of(1);
        race(|| {
            let gate = Gate::new();
            let stays = |gate: PathBuf| -> () {
                arrive(&gate);
                loop {
                    thread::park();
                }
            };
            let (killed, behind) = (pool.submit(stays, gate.path()), pool.submit(square, 4));
            wait_until_running(&killed);
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !is_over.load(Ordering::Relaxed) && !killed.is_cancelled() {
                            killed.kill();
                        }
                    });
                }
                let squared = behind.result();
                is_over.store(true, Ordering::Relaxed);
                assert_eq!(squared.ok(), Some(16));
            });
            killed.kill();
        });
    });
}

#[test]
fn what_starts_in_the_moment_in_which_another_is_stopped_is_left_alone() {
    in_time(|| {
        let pool = pool_of(1);
        let spin = |micros: u64| {
            let end = Instant::now() + Duration::from_micros(micros);
            while Instant::now() < end {}
        };
        let mut round = 0;
        race(|| {
            round += 1;
            // About as long as it may take: it is stopped, or just not.
            let limit = Duration::from_micros(1950 + round % 100);
            let limited = pool.options().timeout(limit).submit(spin, 2000);
            let behind = [(); 2].map(|()| pool.submit(spin, 1000));
            if let Err(error) = limited.result() {
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            }
            for future in behind {
                assert_eq!(future.result().map_err(|it| it.to_string()), Ok(()));
            }
        });
    });
}

#[test]
fn of_several_threads_that_resize_a_pool_the_last_one_decides() {
    in_time(|| {
        let pool = pool_of(1);
        for _ in 0..200 {
            let start = Barrier::new(2);
            thread::scope(|scope| {
                for workers in [2, 3] {
                    let (pool, start) = (&pool, &start);
                    scope.spawn(move || {
                        start.wait();
                        pool.resize(workers).expect("it is open");
                    });
                }
            });
            eventually("there are as many as it says", || {
                pool.worker_pids().len() == pool.workers()
            });
        }
    });
}

fn count_a_start(path: PathBuf) -> Result<(), String> {
    leave_a_byte(&path);
    Ok(())
}

#[test]
fn no_worker_is_started_for_what_waits_for_another_try() {
    in_time(|| {
        let starts = Tries::new();
        let pool = ProcessPoolExecutor::builder()
            .workers(2)
            .idle_timeout(Duration::ZERO)
            .initializer(count_a_start, starts.path())
            .build()
            .expect("a pool");
        let crash = |()| -> () { process::abort() };
        let error = failure(pool.options().retries(5).apply(crash, ()));
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        // Two at first, one for each try, and what comes for a moment in the place of those.
        assert!(starts.count() <= 2 + 3 * 6, "{}", starts.count());
    });
}

#[test]
fn whoever_has_waited_for_a_task_finds_its_room_free() {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(1);
        let pool = builder.max_pending_bytes(1000).build().expect("a pool");
        race(|| {
            let future = pool.try_submit(|it: Vec<u8>| it.len(), vec![0; 700]);
            let future = future.map_err(|it| it.kind()).expect("there is room");
            while !future.is_done() {
                std::hint::spin_loop();
            }
        });
    });
}

#[test]
fn a_hundred_thousand_queued_tasks_are_cancelled_one_by_one() {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        for backwards in [false, true] {
            let mut futures: Vec<_> = (0..100_000).map(|it| pool.submit(square, it)).collect();
            if backwards {
                futures.reverse();
            }
            let kept = futures.split_off(99_999);
            assert!(futures.iter().all(TaskFuture::cancel));
            assert_eq!(pool.stats().queued, 1);
            drop(futures);
            kept.into_iter().for_each(|it| assert!(it.cancel()));
        }
        let after = pool.submit(square, 7);
        gate.open();
        held.result().expect("it was let in");
        assert_eq!(after.result().ok(), Some(49));
        let stats = pool.stats();
        assert_eq!((stats.queued, stats.done, stats.cancelled), (0, 2, 200_000));
    });
}
