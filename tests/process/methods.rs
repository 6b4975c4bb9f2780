//! What differs between the start methods.

use common::methods::{in_a_process_with_one_thread, start};
use common::{failure, in_time};
use procpool::{ErrorKind, Process, Result, StartMethod, set_start_method, start_method};
use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(1);

fn state((): ()) -> u64 {
    STATE.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn only_a_fork_sees_what_its_parent_has_made_of_a_static() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            STATE.store(7, Ordering::Relaxed);
            for (method, seen) in StartMethod::ALL.into_iter().zip([1, 1, 7]) {
                let process = start(method, state, ()).and_then(Process::result);
                assert_eq!(process.map_err(|it| it.to_string()), Ok(seen), "{method:?}");
            }
            // What a child makes of it stays in the child.
            assert_eq!(STATE.load(Ordering::Relaxed), 7);
            Ok(())
        })
    })
}

#[test]
fn a_process_with_threads_is_not_forked() {
    // The test harness has some.
    let error = failure(start(StartMethod::Fork, |()| (), ()));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let message = error.to_string();
    assert!(
        message.contains("threads") && message.contains("ForkServer"),
        "{message}"
    );
}

#[test]
fn the_method_that_is_set_is_used_and_inherited() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let inherited = |()| start_method();
            let set_and_ask = |method| {
                set_start_method(method)?;
                assert_eq!(start_method(), method);
                Process::start(inherited, ())?.result()
            };
            for method in StartMethod::ALL {
                assert_eq!(set_and_ask(method).map_err(|it| it.to_string()), Ok(method));
            }
            Ok(())
        })
    })
}
