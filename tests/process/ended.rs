//! Ended: by itself, by a panic, by a signal, waited for and not.

use common::for_every_method;
use common::methods::start;
use common::processes::Process as Seen;
use common::{DEADLINE, Gate, failure, park_forever, pass, square};
use nix::{
    sys::{prctl::set_child_subreaper, signal::Signal},
    unistd::{Uid, geteuid, setuid},
};
use procpool::{
    ErrorKind, Process, ProcessPoolExecutor, Result, StartMethod, Wire, one_way, wait_ready,
};
use std::{fs, mem, process, thread, time::Duration};

fn is_there(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).expect("a directory that can be read")
}

/// Keeps a pool and a daemon until it ends: by returning or by `exit`.
fn keep_children((method, exits): (StartMethod, bool)) -> std::result::Result<(), String> {
    let pool = ProcessPoolExecutor::builder()
        .workers(1)
        .start_method(method);
    let pool = pool.build().map_err(|it| it.to_string())?;
    assert_eq!(pool.apply(square, 7).ok(), Some(49));
    let daemon = Process::builder(park_forever, ()).daemon(true);
    let daemon = daemon.start_method(method).start();
    mem::forget((pool, daemon.map_err(|it| it.to_string())?));
    if exits {
        process::exit(0);
    }
    Ok(())
}

/// The processes that are left to this one by a child that keeps children; in a process that has
/// none otherwise.
fn left_by_a_child<A: Wire>(
    keep: fn(A) -> std::result::Result<(), String>,
    how: A,
) -> std::result::Result<Vec<Seen>, String> {
    set_child_subreaper(true).map_err(|it| it.to_string())?;
    let child = start(StartMethod::Fork, keep, how).map_err(|it| it.to_string())?;
    let ended = child.join().map_err(|it| it.to_string())?;
    assert!(ended.success(), "{ended:?}");
    Ok(Seen::children_of(process::id()))
}

/// Keeps a pool until it ends as another user, which may not signal the processes of this user.
fn keep_a_pool_as_another_user(method: StartMethod) -> std::result::Result<(), String> {
    let pool = ProcessPoolExecutor::builder()
        .workers(1)
        .start_method(method);
    let pool = pool.build().map_err(|it| it.to_string())?;
    assert_eq!(pool.apply(square, 7).ok(), Some(49));
    mem::forget(pool);
    setuid(Uid::from_raw(65534)).map_err(|it| it.to_string())
}

for_every_method! {
    // If process 1 reaps no children, a zombie stays forever.
    fn a_process_that_ends_leaves_nothing_to_be_reaped(method) {
        for exits in [false, true] {
            let look = |how| left_by_a_child(keep_children, how).map(|it| format!("{it:?}"));
            let left = start(StartMethod::ForkServer, look, (method, exits))?.result()?;
            assert_eq!(left.as_deref(), Ok("[]"), "exits: {exits}");
        }
        Ok(())
    }

    fn a_process_that_ends_as_another_user_leaves_nothing_to_be_reaped(method) {
        if !geteuid().is_root() {
            eprintln!("skipped: only root becomes another user");
            return Ok(());
        }
        let look = |method| {
            left_by_a_child(keep_a_pool_as_another_user, method).map(|left| format!("{left:?}"))
        };
        let left = start(StartMethod::ForkServer, look, method)?.result()?;
        assert_eq!(left.as_deref(), Ok("[]"));
        Ok(())
    }

    fn exit_codes_are_told(method) {
        for code in [0, 1, 3, 255] {
            let process = start(method, |code| -> () { process::exit(code) }, code)?;
            assert_eq!(process.join()?.code(), Some(code));
            assert_eq!((process.exit_code(), process.is_alive()), (Some(code), false));
            let error = failure(process.result());
            assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
            assert_eq!(error.worker().and_then(|it| it.exit_code), Some(code));
        }
        Ok(())
    }

    fn a_function_that_returns_exits_with_zero(method) {
        let process = start(method, square, 7)?;
        assert!(process.join()?.success());
        assert_eq!(process.exit_code(), Some(0));
        Ok(())
    }

    fn a_panic_is_told(method) {
        let process = start(method, |()| -> () { panic!("on purpose") }, ())?;
        assert_eq!(process.join()?.code(), Some(101));
        let error = failure(process.result());
        let panic = error.remote_panic().expect("a panic");
        assert_eq!((error.kind(), &*panic.message), (ErrorKind::Panicked, "on purpose"));
        assert!(panic.location.as_ref().is_some_and(|it| it.contains("ended.rs")));
        Ok(())
    }

    fn signals_are_told(method) {
        let gate = Gate::new();
        let terminate: fn(&Process<()>) -> Result<()> = Process::terminate;
        for (stop, signal) in [(terminate, Signal::SIGTERM), (Process::kill, Signal::SIGKILL)] {
            let process = start(method, pass, gate.path())?;
            gate.wait_for(1);
            assert_eq!((process.exit_code(), process.is_alive()), (None, true));
            stop(&process)?;
            assert_eq!(process.join()?.signal(), Some(signal as i32));
            assert_eq!(process.exit_code(), Some(-(signal as i32)));
            stop(&process)?;
            let error = failure(process.result());
            assert_eq!(error.worker().and_then(|it| it.signal), Some(signal as i32));
        }
        Ok(())
    }

    fn just_started_processes_can_be_terminated(method) {
        let all: Result<Vec<_>> = (0..20).map(|_| start(method, park_forever, ())).collect();
        for process in all? {
            process.terminate()?;
            assert_eq!(process.join()?.signal(), Some(Signal::SIGTERM as i32));
        }
        Ok(())
    }

    fn a_join_with_a_limit_returns(method) {
        let gate = Gate::new();
        let process = start(method, pass, gate.path())?;
        assert_eq!(process.join_timeout(Duration::from_millis(5))?, None);
        gate.open();
        assert!(process.join_timeout(Duration::MAX)?.is_some_and(|it| it.success()));
        assert!(process.join_timeout(Duration::ZERO)?.is_some());
        Ok(())
    }

    fn a_running_process_cannot_be_closed(method) {
        let gate = Gate::new();
        let process = start(method, pass, gate.path())?;
        assert_eq!(failure(process.close()).kind(), ErrorKind::InvalidInput);
        gate.open();
        process.join()?;
        process.close()?;
        process.close()
    }

    fn dropping_a_handle_waits(method) {
        let gate = Gate::new();
        let process = start(method, pass, gate.path())?;
        let pid = process.pid();
        gate.let_in(1);
        drop(process);
        assert!(!is_there(pid));
        Ok(())
    }

    fn dropping_a_daemon_stops_it(method) {
        let process = Process::builder(park_forever, ()).daemon(true).start_method(method).start()?;
        let pid = process.pid();
        assert!(process.daemon());
        drop(process);
        assert!(!is_there(pid));
        Ok(())
    }

    fn a_detached_process_is_neither_waited_for_nor_stopped(method) {
        let gate = Gate::new();
        let process = start(method, pass, gate.path())?;
        gate.wait_for(1);
        let pid = process.pid();
        process.detach();
        assert!(procpool::active_children().iter().any(|it| it.pid() == pid));
        gate.open();
        Ok(())
    }

    fn a_sentinel_is_readable_after_the_end(method) {
        let gate = Gate::new();
        let process = start(method, pass, gate.path())?;
        let (receiver, _sender) = one_way::<u8>()?;
        let ready = |limit| wait_ready(&[&receiver, &process.sentinel()], Some(limit));
        assert_eq!(ready(Duration::ZERO)?, []);
        gate.open();
        assert_eq!(ready(Duration::MAX)?, [1]);
        assert_eq!(process.exit_code(), Some(0));
        Ok(())
    }

    fn the_sentinel_of_a_killed_process_is_readable(method) {
        let gate = Gate::new();
        let process = start(method, pass, gate.path())?;
        gate.wait_for(1);
        let ready = |limit| wait_ready(&[&process.sentinel()], Some(limit));
        assert_eq!(ready(Duration::ZERO)?, []);
        process.kill()?;
        assert_eq!(ready(DEADLINE)?, [0]);
        assert!(!process.is_alive());
        assert_eq!(process.exit_code(), Some(-(Signal::SIGKILL as i32)));
        // It stays so.
        assert_eq!(ready(Duration::ZERO)?, [0]);
        Ok(())
    }

    fn several_threads_can_join(method) {
        if method == StartMethod::Fork {
            // Where it is allowed, there are no other threads.
            return Ok(());
        }
        let gate = Gate::new();
        let process = start(method, pass, gate.path())?;
        thread::scope(|scope| {
            let joined: Vec<_> = (0..4).map(|_| scope.spawn(|| process.join())).collect();
            gate.open();
            for it in joined {
                assert!(it.join().expect("no panic").is_ok_and(|it| it.success()));
            }
        });
        Ok(())
    }
}
