//! Pools that are gone leave nothing, and workers get next to nothing of their host program.
//!
//! Every test runs in a program of its own, in which nothing else opens, maps or starts anything.

use common::processes::{
    Inventory, Process, descriptors_of, eventually, fork_server, kill, kill_fork_server,
};
use common::{A_MOMENT, DEADLINE, Gate, alone, failure, pass, pool_of, square};
use futures::{StreamExt, executor::block_on, stream};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::Signal,
};
use procpool::{ErrorKind, Event, Lock, ProcessPoolExecutor, Sender, StartMethod, Value, one_way};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    os::fd::AsFd,
    process,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Does something once, and then often, which must leave nothing more in this process and its fork
/// server.
fn leaves_nothing(rounds: usize, action: impl Fn()) {
    action();
    let own = process::id();
    settle(own);
    let before = Inventory::of(own);
    assert_eq!(before.mappings, 0, "unused shared memory");
    assert_eq!(before.children, 1, "the fork server alone");
    let server_before = Inventory::of(fork_server());
    assert_eq!(server_before.children, 0, "workers of pools that are gone");
    (0..rounds).for_each(|_| action());
    let end = Instant::now() + DEADLINE / 4;
    // A thread that was joined is gone in a moment, and so is a worker that was waited for.
    while Instant::now() < end
        && (Inventory::of(own) != before || Inventory::of(fork_server()) != server_before)
    {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(Inventory::of(own), before);
    assert_eq!(Inventory::of(fork_server()), server_before);
}

/// Waits until the threads and workers of pools that are gone are gone, too.
fn settle(own: u32) {
    let mut last = Inventory::of(own);
    eventually("nothing changes any more", || {
        thread::sleep(A_MOMENT / 4);
        let now = Inventory::of(own);
        let workers = Process::children_of(fork_server()).len();
        std::mem::replace(&mut last, now) == last && workers == 0
    });
}

// Pools that are gone.

#[test]
fn a_pool_that_was_used_leaves_nothing_behind() {
    alone("", || {
        leaves_nothing(200, || {
            let pool = pool_of(2);
            assert_eq!(
                pool.map(square, 0..100).expect("a pool that works").len(),
                100
            );
            assert_eq!(pool.apply(square, 3).expect("a pool that works"), 9);
        });
    });
}

#[test]
fn a_pool_that_was_not_used_leaves_nothing_behind() {
    alone("", || leaves_nothing(200, || drop(pool_of(3))));
}

#[test]
fn a_pool_whose_workers_crashed_leaves_nothing_behind() {
    alone("", || {
        leaves_nothing(50, || {
            let pool = pool_of(2);
            let results = pool.map_results(
                |x: u32| {
                    if x % 10 == 3 {
                        process::abort();
                    }
                },
                0..50,
            );
            assert_eq!(results.iter().filter(|it| it.is_err()).count(), 5);
            pool.worker_pids()
                .iter()
                .for_each(|it| kill(*it, Signal::SIGKILL));
        });
    });
}

#[test]
fn a_pool_that_was_stopped_while_it_was_busy_leaves_nothing_behind() {
    alone("", || {
        for stop in [ProcessPoolExecutor::kill, ProcessPoolExecutor::terminate] {
            leaves_nothing(50, || {
                let pool = pool_of(2);
                let gate = Gate::new();
                let futures: Vec<_> = (0..20).map(|_| pool.submit(pass, gate.path())).collect();
                gate.wait_for(2);
                stop(&pool);
                drop(pool);
                drop(futures);
            });
        }
    });
}

#[test]
fn a_pool_whose_initializer_failed_leaves_nothing_behind() {
    alone("", || {
        leaves_nothing(100, || {
            let built = ProcessPoolExecutor::builder()
                .workers(2)
                .initializer(|()| Err::<(), _>("no"), ())
                .build();
            let outcome = built.and_then(|it| it.apply(square, 3));
            assert_eq!(failure(outcome).kind(), ErrorKind::StartFailed);
        });
    });
}

#[test]
fn a_pool_whose_server_was_killed_leaves_nothing_behind() {
    alone("", || {
        leaves_nothing(30, || {
            let pool = pool_of(2);
            kill_fork_server();
            assert_eq!(pool.map(square, 0..100).expect("new workers").len(), 100);
        });
    });
}

#[test]
fn large_values_leave_no_memory_behind() {
    alone("", || {
        leaves_nothing(30, || {
            let pool = pool_of(2);
            let sizes = [70_000, 1 << 20, 5 << 20];
            let values = || sizes.map(|it| vec![7u8; it]);
            let echoed = pool
                .map(|x: Vec<u8>| x, values())
                .expect("a pool that works");
            assert!(echoed == values());
            // No thread waits for these or takes them, and some are cut off.
            for value in values() {
                drop(pool.submit(|x: Vec<u8>| x, value));
            }
            let unread = values().map(|it| pool.submit(|x: Vec<u8>| x, it));
            failure(pool.apply(|_: Vec<u8>| -> () { process::abort() }, vec![0; 1 << 20]));
            drop(pool);
            drop(unread);
        });
    });
}

#[test]
fn futures_that_outlive_their_pool_leave_nothing_behind() {
    alone("", || {
        leaves_nothing(50, || {
            let pool = pool_of(2);
            let futures: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
            let list = pool.map_async(square, 0..100);
            drop(pool);
            assert_eq!(list.result().expect("it was finished").len(), 100);
            for (x, future) in (0..).zip(futures) {
                assert_eq!(future.result().expect("it was finished"), x * x);
            }
        });
    });
}

#[test]
fn streams_that_are_dropped_early_leave_nothing_behind() {
    alone("", || {
        leaves_nothing(50, || {
            let pool = pool_of(2);
            assert!(pool.imap(square, 0..).nth(10).is_some());
            assert!(pool.imap_unordered(square, 0..).nth(10).is_some());
            assert_eq!(pool.feed(square, 0..100).count(), 100);
            let results = pool.imap_stream(square, stream::iter(0..));
            assert_eq!(block_on(results.take(10).count()), 10);
            let with = pool.map_with(vec![7u8; 100_000], |c, x: usize| c.len() + x, 0..10);
            assert_eq!(with.expect("a pool that works").len(), 10);
        });
    });
}

#[test]
fn callbacks_leave_nothing_behind() {
    alone("", || {
        leaves_nothing(50, || {
            let pool = pool_of(2);
            let (tell, told) = mpsc::channel();
            for x in 0..10 {
                let tell = tell.clone();
                drop(pool.apply_async(square, x, move |it| {
                    let value = it.as_ref().map_or(0, |it| *it);
                    tell.send(value).expect("the test waits");
                }));
            }
            drop(tell);
            assert_eq!(told.iter().sum::<u64>(), 285);
        });
    });
}

#[test]
fn pools_inside_workers_leave_nothing_behind() {
    alone("", || {
        leaves_nothing(20, || {
            let pool = pool_of(1);
            let task = |x| pool_of(2).apply(square, x).expect("a pool that works");
            assert_eq!(pool.apply(task, 3).expect("a pool that works"), 9);
        });
    });
}

// A pool that lives.

#[test]
fn a_living_pool_does_not_grow_with_the_deaths_of_its_workers() {
    alone("", || {
        let pool = pool_of(2);
        let crash = || {
            failure(pool.apply(|_: Vec<u8>| -> () { process::abort() }, vec![0; 200_000]));
            let echoed = pool.apply(|x: Vec<u8>| x, vec![0; 200_000]);
            assert_eq!(echoed.expect("a pool that works").len(), 200_000);
        };
        (0..10).for_each(|_| crash());
        eventually("both workers live", || pool.worker_pids().len() == 2);
        let before = Inventory::of(process::id());
        (0..200).for_each(|_| crash());
        eventually("both workers live", || pool.worker_pids().len() == 2);
        let after = Inventory::of(process::id());
        let held = |it: &Inventory| it.descriptors.values().sum::<usize>() + it.mappings;
        // Free memory is kept for the next large value; how much of it, is not the same each time.
        assert!(held(&after) <= held(&before) + 8, "{before:#?} {after:#?}");
        assert_eq!(
            (after.threads, after.children),
            (before.threads, before.children)
        );
        assert_eq!(Process::children_of(fork_server()).len(), 2);
    });
}

#[test]
fn a_living_pool_does_not_grow_with_its_tasks() {
    alone("", || {
        let pool = pool_of(2);
        let work = || {
            assert_eq!(
                pool.map(square, 0..100).expect("a pool that works").len(),
                100
            );
            let values = (0..10).map(|it| vec![7u8; 50_000 * it]);
            assert_eq!(
                pool.map(|x: Vec<u8>| x, values)
                    .expect("a pool that works")
                    .len(),
                10
            );
            failure(pool.apply(|()| -> () { panic!("no") }, ()));
        };
        (0..10).for_each(|_| work());
        let inventories = || {
            let pids = pool
                .worker_pids()
                .into_iter()
                .chain([process::id(), fork_server()]);
            pids.map(Inventory::of).collect::<Vec<_>>()
        };
        let before = inventories();
        (0..200).for_each(|_| work());
        // How many slabs are kept depends on how many values met. What grows with the tasks grows
        // by 200 and more.
        for (before, after) in before.iter().zip(inventories()) {
            let held = |it: &Inventory| it.descriptors.values().sum::<usize>() + it.mappings;
            assert!(held(&after) <= held(before) + 50, "{before:#?} {after:#?}");
            assert_eq!(after.threads, before.threads);
        }
    });
}

#[test]
fn a_living_pool_does_not_grow_with_the_handles_of_its_tasks() {
    type Ends = Vec<Sender<u64>>;
    alone("", || {
        let pool = pool_of(2);
        let ends = |count| -> Ends { (0..count).map(|_| one_way().expect("a pipe").1).collect() };
        let give_back = |ends: Ends| ends;
        let work = || {
            let back = pool.map(give_back, (0..10).map(ends)).expect("values");
            assert!(back.iter().map(Vec::len).eq(0..10));
            // Some are cancelled while they wait in a worker's socket, some lose their worker.
            let tasks: Vec<_> = (0..10).map(|_| pool.submit(give_back, ends(3))).collect();
            failure(pool.apply(|_: Ends| -> () { process::abort() }, ends(3)));
            for task in tasks.iter().skip(5) {
                task.cancel();
            }
            for task in tasks {
                let ended = task.result();
                assert!(ended.is_ok() || failure(ended).kind() == ErrorKind::Cancelled);
            }
            // Argument and result hold handles, and neither can be used.
            failure(pool.apply(|_: Ends| -> Ends { panic!("no") }, ends(3)));
        };
        (0..5).for_each(|_| work());
        let held = |pid| Inventory::of(pid).descriptors.values().sum::<usize>();
        let quiet = || pool.apply(|()| (), ()).expect("a pool that works");
        quiet();
        let before = held(process::id());
        (0..100).for_each(|_| work());
        quiet();
        eventually("its descriptors are closed", || {
            held(process::id()) <= before + 20
        });
        eventually("the workers' are closed", || {
            let pids = pool.worker_pids();
            pids.len() == 2
                && pids
                    .into_iter()
                    .all(|it| Process::of(it).is_some() && held(it) < 20)
        });
    });
}

// What workers hold.

#[test]
fn a_worker_holds_nothing_but_the_standard_descriptors_and_its_own() {
    alone("", || {
        let pools = [pool_of(2), pool_of(2)];
        pools.iter().for_each(use_every_worker);
        let mut owners: BTreeMap<String, u32> = BTreeMap::new();
        for pid in pools.iter().flat_map(ProcessPoolExecutor::worker_pids) {
            let own: Vec<_> = descriptors_of(pid)
                .into_iter()
                .filter(|it| it.0 > 2)
                .collect();
            // The request pipe, the wake-up pipe, the socket, the shared region.
            assert!(own.len() <= 4, "{own:?}");
            for (_, target) in own {
                let is_ours = ["pipe:", "socket:", "/memfd:procpool"]
                    .iter()
                    .any(|it| target.starts_with(it));
                assert!(is_ours, "{target}");
                if !target.starts_with("/memfd:") {
                    let other = owners.insert(target.clone(), pid);
                    assert_eq!(other, None, "{target} is in two workers");
                }
            }
        }
    });
}

/// Waits until every worker of two has run a task.
fn use_every_worker(pool: &ProcessPoolExecutor) {
    let gate = Gate::new();
    let futures = [(), ()].map(|()| pool.submit(pass, gate.path()));
    gate.wait_for(2);
    gate.open();
    let results = futures.into_iter().map(|it| it.result());
    results.for_each(|it| it.expect("a pool that works"));
}

/// Lets programs that this one starts inherit a descriptor.
fn make_inheritable(fd: impl AsFd) {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).expect("an open descriptor");
}

#[test]
fn no_descriptor_of_the_host_is_in_a_worker() {
    alone("", || {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        make_inheritable(&file);
        make_inheritable(&socket);
        // Far beyond the numbers that are used by themselves.
        let far = fcntl(&file, FcntlArg::F_DUPFD(900)).expect("a descriptor");
        let pool = pool_of(2);
        let late = File::open(file.path()).expect("the file");
        make_inheritable(&late);
        failure(pool.apply(|()| -> () { process::abort() }, ()));
        use_every_worker(&pool);
        let own = descriptors_of(process::id());
        assert!(own.iter().any(|it| it.0 == far));
        let path = file.path().display().to_string();
        let listens = own
            .iter()
            .find(|it| it.0 == std::os::fd::AsRawFd::as_raw_fd(&socket));
        let listens = &listens.expect("an open descriptor").1;
        for pid in pool.worker_pids().into_iter().chain([fork_server()]) {
            for (number, target) in descriptors_of(pid) {
                assert!(target != path && target != *listens, "{number} is {target}");
            }
        }
    });
}

#[test]
fn programs_that_the_host_starts_inherit_nothing_of_its_pools() {
    alone("", || {
        let own = || descriptors_of(process::id()).into_iter();
        let before: Vec<String> = own().map(|it| it.1).collect();
        let pool = pool_of(2);
        assert_eq!(
            pool.map(square, 0..100).expect("a pool that works").len(),
            100
        );
        let task = |x: Vec<u8>| x.len();
        pool.apply(task, vec![0; 1 << 20])
            .expect("a pool that works");
        let listed = process::Command::new("ls")
            .args(["-l", "/proc/self/fd"])
            .output();
        let listed = String::from_utf8(listed.expect("a program").stdout).expect("text");
        for (_, target) in own().filter(|it| !before.contains(&it.1)) {
            assert!(!listed.contains(&target), "{target} in {listed}");
        }
    });
}

#[test]
fn programs_that_a_task_starts_inherit_nothing_of_its_worker() {
    alone("", || {
        let pool = pool_of(1);
        let echoed = pool.apply(|x: Vec<u8>| x, vec![0; 1 << 20]);
        assert_eq!(echoed.expect("a pool that works").len(), 1 << 20);
        let task = |()| {
            let listed = process::Command::new("ls")
                .args(["-1", "/proc/self/fd"])
                .output();
            listed
                .map(|it| String::from_utf8_lossy(&it.stdout).into_owned())
                .unwrap_or_default()
        };
        let listed = pool.apply(task, ()).expect("a pool that works");
        // The last is the directory itself.
        assert_eq!(
            listed.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3"]
        );
    });
}

// What it costs to wait.

/// Processor time that this process, its fork server and their workers have used.
fn processor_time() -> Duration {
    let own = Process::descendants_of(process::id())
        .into_iter()
        .map(|it| it.pid);
    let ticks: u64 = own.chain([process::id()]).map(ticks_of).sum();
    // USER_HZ is 100 on every system.
    Duration::from_millis(10) * u32::try_from(ticks).expect("less than a year")
}

fn ticks_of(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let times = fields.split(' ').skip(11).take(2);
    times.map(|it| it.parse::<u64>().expect("a number")).sum()
}

/// How long a wait lasts that must not use the processor.
const WAIT: Duration = Duration::from_millis(600);

/// Does something that waits for `WAIT` and checks that this costs nearly no processor time.
fn costs_no_processor_time(wait: impl FnOnce()) {
    let before = processor_time();
    let start = Instant::now();
    wait();
    assert!(start.elapsed() >= WAIT, "it did not wait");
    let used = processor_time() - before;
    assert!(used < WAIT / 3, "{used:?} of {WAIT:?}");
}

#[test]
fn an_idle_pool_uses_no_processor_time() {
    alone("", || {
        let pool = pool_of(2);
        assert_eq!(
            pool.map(square, 0..100).expect("a pool that works").len(),
            100
        );
        costs_no_processor_time(|| thread::sleep(WAIT));
    });
}

#[test]
fn waiting_for_a_long_task_uses_no_processor_time() {
    alone("", || {
        let pool = pool_of(2);
        assert_eq!(
            pool.map(square, 0..100).expect("a pool that works").len(),
            100
        );
        costs_no_processor_time(|| {
            let behind = pool.submit(square, 3);
            pool.apply(thread::sleep, WAIT).expect("a pool that works");
            drop(behind);
        });
        costs_no_processor_time(|| {
            let results = pool.map(thread::sleep, [WAIT, WAIT, Duration::ZERO]);
            assert_eq!(results.expect("a pool that works").len(), 3);
        });
    });
}

#[test]
fn joining_a_busy_pool_uses_no_processor_time() {
    alone("", || {
        let pool = pool_of(1);
        // The worker's own time is not counted once it is gone, but it sleeps.
        let future = pool.submit(thread::sleep, WAIT);
        eventually("the task runs", || future.is_running());
        costs_no_processor_time(|| {
            pool.join().expect("a pool that ends");
            thread::sleep(A_MOMENT);
        });
    });
}

#[test]
fn processes_leave_nothing() {
    alone("", || {
        for method in [StartMethod::ForkServer, StartMethod::Spawn] {
            leaves_nothing(
                if method == StartMethod::ForkServer {
                    2000
                } else {
                    100
                },
                || {
                    let process = procpool::Process::builder(square, 7)
                        .start_method(method)
                        .start();
                    assert_eq!(process.and_then(procpool::Process::result).ok(), Some(49));
                },
            );
        }
    });
}

#[test]
fn handles_to_shared_memory_leave_nothing() {
    alone("", || {
        leaves_nothing(20, || {
            let (lock, event) = (
                Lock::new().expect("a lock"),
                Event::new().expect("an event"),
            );
            let value = Value::new(0u64).expect("a value");
            let child = |(lock, event, value): (Lock, Event, Value<u64>)| {
                let _held = lock.acquire().expect("no holder died");
                value.set(1).expect("no holder died");
                event.set();
                value
            };
            let handles = (lock.clone(), event.clone(), value.clone());
            let child = procpool::Process::start(child, handles).expect("a process");
            event.wait().expect("a set");
            // A second handle to the same, which is mapped once.
            let back = child.result().expect("a value");
            assert_eq!(back.get().ok(), value.get().ok());
            drop(lock.acquire());
        });
    });
}
