//! Workers: their number, their identity, and the initializer that runs in them.

use common::{Gate, failure, in_time, pass, pool_of, process_id, square};
use procpool::{
    ErrorKind, ProcessPoolBuilder, ProcessPoolExecutor, Result, ReturnWhen, cpu_count,
    current_worker, wait,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

fn builder() -> ProcessPoolBuilder {
    ProcessPoolExecutor::builder()
}

#[test]
fn a_pool_has_a_worker_for_every_cpu_by_default() -> Result<()> {
    in_time(|| {
        assert_eq!(ProcessPoolExecutor::new()?.workers(), cpu_count());
        Ok(())
    })
}

#[test]
fn a_pool_of_no_workers_is_refused() {
    in_time(|| {
        let error = failure(builder().workers(0).build());
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_pool_with_chunks_of_nothing_is_refused() {
    in_time(|| {
        let error = failure(builder().workers(1).chunk_size(0).build());
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_pool_with_a_window_of_nothing_is_refused() {
    in_time(|| {
        let error = failure(builder().workers(1).window(0).build());
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn the_workers_are_forked_when_the_pool_is_built() {
    in_time(|| {
        let pids: HashSet<u32> = pool_of(5).worker_pids().into_iter().collect();
        assert_eq!(pids.len(), 5);
    });
}

#[test]
fn tasks_one_after_the_other_run_in_one_worker() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let pids = (0..3).map(|_| pool.apply(process_id, ()));
        let pids: HashSet<u32> = pids.collect::<Result<_>>()?;
        assert_eq!(pids.len(), 1);
        Ok(())
    })
}

#[test]
fn many_tasks_start_no_more_workers() -> Result<()> {
    in_time(|| {
        let pool = pool_of(3);
        let before: BTreeSet<u32> = pool.worker_pids().into_iter().collect();
        let futures: Vec<_> = (0..45).map(|_| pool.submit(process_id, ())).collect();
        let pids: Result<BTreeSet<u32>> = futures.into_iter().map(|it| it.result()).collect();
        assert!(pids?.is_subset(&before));
        assert_eq!(
            pool.worker_pids().into_iter().collect::<BTreeSet<_>>(),
            before
        );
        Ok(())
    })
}

#[test]
fn every_worker_gets_work() -> Result<()> {
    in_time(|| {
        let pool = pool_of(4);
        let gate = Gate::new();
        let futures: Vec<_> = (0..4).map(|_| pool.submit(pass, gate.path())).collect();
        // No task ends before all have started: each needs a worker of its own.
        gate.wait_for(4);
        gate.open();
        futures.into_iter().try_for_each(|it| it.result())
    })
}

#[test]
fn a_worker_knows_its_place() -> Result<()> {
    in_time(|| {
        let pool = pool_of(3);
        let gate = Gate::new();
        let place = |gate| {
            pass(gate);
            current_worker().map(|it| it.id)
        };
        let futures: Vec<_> = (0..3).map(|_| pool.submit(place, gate.path())).collect();
        gate.wait_for(3);
        gate.open();
        let places: Result<BTreeSet<_>> = futures.into_iter().map(|it| it.result()).collect();
        assert_eq!(places?, [Some(0), Some(1), Some(2)].into());
        Ok(())
    })
}

#[test]
fn a_worker_knows_its_process() -> Result<()> {
    in_time(|| {
        let pids = pool_of(1).apply(
            |()| (current_worker().map(|it| it.pid), std::process::id()),
            (),
        )?;
        assert_eq!(pids.0, Some(pids.1));
        Ok(())
    })
}

#[test]
fn a_worker_counts_its_tasks() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let counts = pool.map(|()| current_worker().map(|it| it.tasks_done), [(); 5])?;
        assert_eq!(counts, [0, 1, 2, 3, 4].map(Some));
        Ok(())
    })
}

#[test]
fn the_program_itself_is_no_worker() {
    in_time(|| {
        let _pool = pool_of(1);
        assert!(current_worker().is_none());
    });
}

// The initializer.

static GIVEN: AtomicU64 = AtomicU64::new(0);

fn keep(value: u64) -> std::result::Result<(), String> {
    GIVEN.fetch_add(value, Ordering::Relaxed);
    Ok(())
}

fn given(gate: std::path::PathBuf) -> u64 {
    pass(gate);
    GIVEN.load(Ordering::Relaxed)
}

#[test]
fn the_initializer_runs_once_in_every_worker_before_its_first_task() -> Result<()> {
    in_time(|| {
        let pool = builder().workers(3).initializer(keep, 7).build()?;
        let gate = Gate::new();
        let futures: Vec<_> = (0..3).map(|_| pool.submit(given, gate.path())).collect();
        gate.wait_for(3);
        gate.open();
        let all: Result<Vec<u64>> = futures.into_iter().map(|it| it.result()).collect();
        assert_eq!(all?, [7, 7, 7]);
        Ok(())
    })
}

#[test]
fn the_initializer_does_not_run_in_the_program_itself() -> Result<()> {
    in_time(|| {
        let pool = builder().workers(1).initializer(keep, 1 << 32).build()?;
        pool.apply(square, 7)?;
        assert_eq!(GIVEN.load(Ordering::Relaxed), 0);
        Ok(())
    })
}

#[test]
fn the_initializer_runs_in_a_replacement() -> Result<()> {
    in_time(|| {
        let pool = builder().workers(1).initializer(keep, 7).build()?;
        let _died = pool.apply(|()| -> () { std::process::abort() }, ());
        assert_eq!(pool.apply(|()| GIVEN.load(Ordering::Relaxed), ())?, 7);
        Ok(())
    })
}

#[test]
fn an_initializer_can_have_a_large_argument() -> Result<()> {
    in_time(|| {
        static LENGTH: AtomicU64 = AtomicU64::new(0);
        let keep = |bytes: Vec<u8>| {
            LENGTH.store(bytes.len() as u64, Ordering::Relaxed);
            Ok::<(), String>(())
        };
        let pool = builder()
            .workers(1)
            .initializer(keep, vec![7; 5 << 20])
            .build()?;
        assert_eq!(
            pool.apply(|()| LENGTH.load(Ordering::Relaxed), ())?,
            5 << 20
        );
        Ok(())
    })
}

/// A pool whose initializer says no.
fn refused() -> Result<ProcessPoolExecutor> {
    let refuse = |name: String| Err::<(), _>(format!("{name} is not welcome"));
    builder()
        .workers(2)
        .initializer(refuse, "Bob".to_owned())
        .build()
}

#[track_caller]
fn assert_is_refusal<T: std::fmt::Debug>(outcome: Result<T>) {
    let error = outcome.expect_err("the initializer fails");
    assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
    assert!(error.to_string().contains("Bob is not welcome"), "{error}");
}

#[test]
fn a_failing_initializer_fails_every_waiting_future() -> Result<()> {
    in_time(|| {
        let pool = refused()?;
        let futures: Vec<_> = (0..20).map(|x| pool.submit(square, x)).collect();
        futures
            .into_iter()
            .for_each(|it| assert_is_refusal(it.result()));
        Ok(())
    })
}

#[test]
fn a_failing_initializer_fails_every_later_call() -> Result<()> {
    in_time(|| {
        let pool = refused()?;
        assert_is_refusal(pool.apply(square, 1));
        assert_is_refusal(pool.submit(square, 1).result());
        assert_is_refusal(pool.map(square, 0..3));
        assert_is_refusal(pool.map_async(square, 0..3).result());
        assert_is_refusal(pool.map_with(1, |a, b| a + b, 0..3u64));
        assert_is_refusal(pool.starmap(|a, b| a + b, [(1, 2)]));
        pool.map_results(square, 0..3)
            .into_iter()
            .for_each(assert_is_refusal);
        pool.imap(square, 0..3).for_each(assert_is_refusal);
        pool.imap_unordered(square, 0..3)
            .for_each(assert_is_refusal);
        Ok(())
    })
}

#[test]
fn a_failing_initializer_ends_a_wait() -> Result<()> {
    in_time(|| {
        let pool = refused()?;
        let futures = [1, 2].map(|x| pool.submit(square, x));
        let waited = wait(&futures, ReturnWhen::AllCompleted, None);
        assert_eq!(waited.done, [0, 1]);
        Ok(())
    })
}

#[test]
fn a_failing_initializer_is_the_error_of_join() -> Result<()> {
    in_time(|| {
        let pool = refused()?;
        let _refused = pool.apply(square, 1);
        assert_is_refusal(pool.join());
        Ok(())
    })
}

#[test]
fn a_failing_initializer_leaves_no_worker() -> Result<()> {
    in_time(|| {
        let pool = refused()?;
        let _refused = pool.apply(square, 1);
        let _refused = pool.join();
        assert!(pool.worker_pids().is_empty());
        Ok(())
    })
}

#[test]
fn an_initializer_that_panics_breaks_the_pool() -> Result<()> {
    in_time(|| {
        let fall = |()| -> std::result::Result<(), String> { panic!("fell over") };
        let pool = builder().workers(2).initializer(fall, ()).build()?;
        let error = failure(pool.apply(square, 1));
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
        assert!(error.to_string().contains("fell over"), "{error}");
        Ok(())
    })
}

#[test]
fn an_initializer_that_ends_its_worker_every_time_breaks_the_pool() -> Result<()> {
    in_time(|| {
        let leave = |()| -> std::result::Result<(), String> { std::process::exit(3) };
        let pool = builder().workers(2).initializer(leave, ()).build()?;
        let error = failure(pool.apply(square, 1));
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
        assert!(error.to_string().contains("code 3"), "{error}");
        Ok(())
    })
}

#[test]
fn an_initializer_with_a_long_error_breaks_the_pool_all_the_same() -> Result<()> {
    in_time(|| {
        let ramble = |()| Err::<(), _>("no ".repeat(1 << 20));
        let pool = builder().workers(1).initializer(ramble, ()).build()?;
        let error = failure(pool.apply(square, 1));
        assert_eq!(error.kind(), ErrorKind::StartFailed);
        Ok(())
    })
}

#[test]
fn a_task_waits_for_a_slow_initializer() -> Result<()> {
    in_time(|| {
        let gate = Gate::new();
        let enter = |gate| {
            pass(gate);
            Ok::<(), String>(())
        };
        let pool = builder()
            .workers(1)
            .initializer(enter, gate.path())
            .build()?;
        let mut future = pool.submit(square, 7);
        gate.wait_for(1);
        let error = failure(future.result_timeout(Duration::ZERO));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        gate.open();
        assert_eq!(future.result()?, 49);
        Ok(())
    })
}

/// A value that can be encoded or decoded, but not both.
#[derive(Clone, Copy)]
enum OneWay {
    Out,
    In,
}

impl Serialize for OneWay {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Out => serializer.serialize_u8(0),
            Self::In => Err(serde::ser::Error::custom("there is no way out")),
        }
    }
}

impl<'de> Deserialize<'de> for OneWay {
    fn deserialize<D: Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        Err(serde::de::Error::custom("there is no way in"))
    }
}

#[test]
fn an_initializers_argument_that_cannot_be_encoded_is_an_error_of_build() {
    in_time(|| {
        let accept = |_: OneWay| Ok::<(), String>(());
        let error = failure(builder().workers(1).initializer(accept, OneWay::In).build());
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.to_string().contains("there is no way out"), "{error}");
    });
}

#[test]
fn an_initializers_argument_that_cannot_be_decoded_breaks_the_pool() -> Result<()> {
    in_time(|| {
        let accept = |_: OneWay| Ok::<(), String>(());
        let pool = builder()
            .workers(1)
            .initializer(accept, OneWay::Out)
            .build()?;
        let error = failure(pool.apply(square, 1));
        assert_eq!(error.kind(), ErrorKind::StartFailed);
        assert!(error.to_string().contains("there is no way in"), "{error}");
        Ok(())
    })
}

#[test]
fn what_an_initializer_made_is_there_for_every_task() -> Result<()> {
    in_time(|| {
        static WORDS: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let load = |text: String| {
            WORDS
                .lock()
                .map_err(|it| it.to_string())?
                .extend(text.split(' ').map(String::from));
            Ok::<(), String>(())
        };
        let text = "a list of words".to_owned();
        let pool = builder().workers(2).initializer(load, text).build()?;
        let word = |index: usize| WORDS.lock().ok().and_then(|it| it.get(index).cloned());
        let words = pool.map(word, [3, 0, 4])?;
        assert_eq!(
            words,
            [Some("words".to_owned()), Some("a".to_owned()), None]
        );
        Ok(())
    })
}
