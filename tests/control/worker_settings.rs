//! What workers get, what they may use, and what is known of them.

use common::{Gate, failure, in_time, pass, pool_of, square};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::resource::{Resource, getrlimit},
    unistd::Pid,
};
use procpool::{ErrorKind, Output, PoolStats, ProcessPoolExecutor, ResourceLimits, Result};
use std::{
    env, fs, hint,
    path::PathBuf,
    process, thread,
    time::{Duration, Instant},
};

fn limited(limits: ResourceLimits) -> Result<ProcessPoolExecutor> {
    ProcessPoolExecutor::builder()
        .workers(1)
        .limits(limits)
        .build()
}

/// A task: the CPUs it may run on.
fn cpus((): ()) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("an affinity mask");
    (0..CpuSet::count())
        .filter(|it| set.is_set(*it) == Ok(true))
        .collect()
}

/// A task that never ends, and is always busy.
fn spin((): ()) {
    loop {
        hint::spin_loop();
    }
}

#[test]
fn workers_get_variables_and_a_directory_also_those_that_replace_others() -> Result<()> {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(1);
        let builder = builder.env("FIRST", "1").env("FIRST", "2").current_dir("/");
        let pool = builder.build()?;
        let look = |()| (env::var("FIRST").ok(), env::current_dir().ok());
        let expected = (Some("2".to_owned()), Some(PathBuf::from("/")));
        assert_eq!(pool.apply(look, ())?, expected);
        failure(pool.apply(|()| -> () { process::abort() }, ()));
        assert_eq!(pool.apply(look, ())?, expected);
        assert!(env::var("FIRST").is_err());
        Ok(())
    })
}

#[test]
fn what_cannot_be_set_is_refused() {
    in_time(|| {
        for (key, value) in [("", "x"), ("A=B", "x"), ("A", "x\0")] {
            let refused = ProcessPoolExecutor::builder().env(key, value).build();
            assert_eq!(failure(refused).kind(), ErrorKind::InvalidInput);
        }
        let builder = ProcessPoolExecutor::builder()
            .workers(1)
            .current_dir("/nowhere");
        let error = failure(builder.build().and_then(|it| it.apply(square, 1)));
        assert_eq!(error.kind(), ErrorKind::StartFailed);
        assert!(
            error.to_string().contains("the working directory /nowhere"),
            "{error}"
        );
    });
}

#[test]
fn what_workers_write_goes_where_the_builder_says() -> Result<()> {
    in_time(|| {
        let goes = |()| [1, 2].map(|it| fs::read_link(format!("/proc/self/fd/{it}")).ok());
        let [stdout, stderr] = goes(());
        let null = Some(PathBuf::from("/dev/null"));
        assert_eq!(pool_of(1).apply(goes, ())?, [stdout, stderr.clone()]);
        let silent = ProcessPoolExecutor::builder()
            .workers(1)
            .stdout(Output::Null);
        let pool = silent.build()?;
        assert_eq!(pool.apply(goes, ())?, [null.clone(), stderr]);
        let both = ProcessPoolExecutor::builder()
            .workers(1)
            .stdout(Output::Null);
        let pool = both.stderr(Output::Null).build()?;
        pool.apply(|()| (println!("nothing"), eprintln!("nothing")).1, ())?;
        failure(pool.apply(|()| -> () { process::abort() }, ()));
        assert_eq!(pool.apply(goes, ())?, [null.clone(), null]);
        Ok(())
    })
}

#[test]
fn workers_are_pinned_to_cpus_when_that_is_asked_for() -> Result<()> {
    in_time(|| {
        let all = cpus(());
        assert_eq!(pool_of(1).apply(cpus, ())?, all);
        let builder = ProcessPoolExecutor::builder().workers(1).cpu_affinity(true);
        assert_eq!(builder.build()?.apply(cpus, ())?, all[..1]);
        Ok(())
    })
}

#[test]
fn limits_hold_in_workers_and_nowhere_else() -> Result<()> {
    in_time(|| {
        let limits = ResourceLimits::new()
            .open_files(64)
            .processes(4096)
            .file_size(1 << 30)
            .nice(5);
        let pool = limited(limits)?;
        let look = |()| {
            let limit = |it| getrlimit(it).map_or(0, |it| it.0);
            let all = [
                Resource::RLIMIT_NOFILE,
                Resource::RLIMIT_NPROC,
                Resource::RLIMIT_FSIZE,
                Resource::RLIMIT_CORE,
            ];
            let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
            (all.map(limit), stat.split(' ').nth(18).map(str::to_owned))
        };
        assert_eq!(
            pool.apply(look, ())?,
            ([64, 4096, 1 << 30, 0], Some("5".to_owned()))
        );
        assert_ne!(look(()).0[0], 64);
        Ok(())
    })
}

#[test]
fn the_error_names_the_limit_that_ended_a_worker() -> Result<()> {
    in_time(|| {
        let pool = limited(ResourceLimits::new().memory(1 << 30))?;
        let error = failure(pool.apply(|bytes: usize| vec![1u8; bytes].len(), 4 << 30));
        assert!(
            error
                .to_string()
                .ends_with(": its memory is limited to 1073741824 bytes"),
            "{error}"
        );
        let pool = limited(ResourceLimits::new().cpu_time(Duration::from_millis(300)))?;
        let error = failure(pool.apply(spin, ()));
        assert_eq!(error.worker().and_then(|it| it.signal), Some(24), "{error}");
        assert!(
            error
                .to_string()
                .ends_with(": its CPU time is limited to 300ms"),
            "{error}"
        );
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_pool_counts_what_becomes_of_tasks() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        assert_eq!(pool.stats().workers.len(), 1);
        pool.map(square, 0..100)?;
        failure(pool.apply(|()| -> () { panic!("no") }, ()));
        failure(
            pool.options()
                .retries(1)
                .apply(|()| -> () { process::abort() }, ()),
        );
        let slow = pool.options().timeout(Duration::from_millis(20));
        failure(slow.apply(spin, ()));
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let queued: Vec<_> = (0..3).map(|it| pool.submit(square, it)).collect();
        assert!(queued[0].cancel());
        let stats = pool.stats();
        let PoolStats {
            done,
            failed,
            retried,
            restarts,
            ..
        } = stats;
        assert_eq!((done, failed, retried, restarts), (100, 4, 1, 3));
        let reasons = stats.restart_reasons;
        assert_eq!((reasons.died, reasons.stopped), (2, 1));
        assert_eq!((reasons.max_tasks, reasons.max_memory), (0, 0));
        assert_eq!(
            (
                stats.panicked,
                stats.workers_died,
                stats.timed_out,
                stats.cancelled
            ),
            (1, 1, 1, 1)
        );
        assert_eq!((stats.queued, stats.running), (2, 1));
        gate.open();
        held.result()?;
        pool.join()?;
        let stats = pool.stats();
        assert_eq!(
            (stats.queued, stats.running, stats.workers.len()),
            (0, 0, 0)
        );
        Ok(())
    })
}

#[test]
fn a_worker_s_tasks_and_time_are_counted() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for number in 0..10 {
            pool.apply(square, number)?;
        }
        pool.apply(|()| thread::sleep(Duration::from_millis(5)), ())?;
        // A reply may be read before its worker has counted it.
        let worker = loop {
            let worker = pool.stats().workers.pop().expect("a worker");
            if worker.busy >= Duration::from_millis(5) {
                break worker;
            }
            thread::yield_now();
        };
        assert_eq!(worker.pid, pool.worker_pids()[0]);
        assert_eq!((worker.id, worker.tasks_done), (0, 11));
        Ok(())
    })
}

#[test]
fn a_pool_tells_how_long_tasks_waited_and_ran_also_in_workers_that_are_gone() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let waiting = pool.submit(square, 3);
        let before = Instant::now();
        while before.elapsed() < Duration::from_millis(20) {
            thread::yield_now();
        }
        gate.open();
        held.result()?;
        waiting.result()?;
        failure(pool.apply(|()| -> () { process::abort() }, ()));
        pool.map(square, 0..1000)?;
        pool.join()?;
        let stats = pool.stats();
        assert_eq!(
            (stats.wait_times.count(), stats.run_times.count()),
            (1003, 1003)
        );
        let longest = [&stats.wait_times, &stats.run_times].map(|it| it.quantile(1.0));
        assert!(
            longest
                .iter()
                .all(|it| *it >= Some(Duration::from_millis(20))),
            "{stats:?}"
        );
        assert!(stats.run_times.quantile(0.5) < Some(Duration::from_millis(20)));
        let filled: u64 = stats.run_times.buckets().map(|it| it.1).sum();
        assert_eq!(filled, 1003);
        Ok(())
    })
}

#[test]
fn statistics_can_be_sent() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        pool.map(square, 0..10)?;
        let stats = pool.stats();
        let (sent, done) = (stats.clone(), stats.done);
        let received = pool.apply(|it: PoolStats| it, sent)?;
        assert_eq!((received, done), (stats, 10));
        Ok(())
    })
}
