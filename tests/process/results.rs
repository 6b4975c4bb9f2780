//! What results need of the processes that leave and take them: descriptors above all.

use common::for_every_method;
use common::methods::start;
use common::{alone, failure};
use procpool::{ErrorKind, Process, Receiver, StartMethod, one_way};
use std::{fs::File, iter, mem};

fn panics_by_name((): ()) {
    panic!("out of tea");
}

for_every_method! {
    fn a_panic_arrives_with_its_place_and_its_backtrace(method) {
        let error = failure(start(method, panics_by_name, ())?.result());
        let panic = error.remote_panic().expect("a panic");
        assert_eq!(panic.message, "out of tea");
        assert!(panic.location.as_deref().is_some_and(|it| it.starts_with(file!())), "{panic:?}");
        let backtrace = panic.backtrace();
        assert!(backtrace.contains("panics_by_name"), "{backtrace}");
        // Neither what the hook calls, nor what has called the function.
        assert!(!backtrace.contains("procpool::"), "{backtrace}");
        Ok(())
    }
}

/// Ends of pipes whose other ends are closed.
fn many_handles(count: usize) -> Vec<Receiver<u64>> {
    (0..count).map(|_| one_way().expect("a pipe").0).collect()
}

#[test]
fn joined_processes_hold_no_handles_before_their_results_are_taken() {
    alone("ulimit -n 120", || {
        let start = |_| start(StartMethod::ForkServer, many_handles, 20).expect("a process");
        let processes: Vec<_> = (0..20).map(start).collect();
        for process in &processes {
            assert!(process.join().expect("an end").success());
        }
        for process in processes {
            assert_eq!(process.result().expect("handles").len(), 20);
        }
    });
}

/// Takes every descriptor that this process may have.
fn take_every_descriptor() -> Vec<File> {
    iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
fn a_large_result_waits_for_a_descriptor() {
    alone("ulimit -n 200", || {
        let make = |()| vec![7_u8; 1 << 20];
        let process = start(StartMethod::ForkServer, make, ()).expect("a process");
        let taken = take_every_descriptor();
        process.join().expect("an end");
        drop(taken);
        assert_eq!(process.result().expect("a value").len(), 1 << 20);

        let process = start(StartMethod::ForkServer, make, ()).expect("a process");
        let taken = take_every_descriptor();
        let error = failure(process.result());
        drop(taken);
        assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
        assert!(error.to_string().contains("Too many open files"), "{error}");
    });
}

#[test]
fn a_process_without_descriptors_leaves_what_fits_a_message() {
    alone("ulimit -n 200", || {
        let make = |size: usize| {
            mem::forget(take_every_descriptor());
            vec![7_u8; size]
        };
        let result = |size| start(StartMethod::ForkServer, make, size).and_then(Process::result);
        for size in [0, 10, 70_000, 100_000] {
            assert_eq!(result(size).expect("a value").len(), size);
        }
        let error = failure(result(10 << 20));
        assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
        assert!(error.to_string().contains("Too many open files"), "{error}");
    });
}
