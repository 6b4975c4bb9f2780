//! A kernel that refuses: whatever it does not give, and at whichever call, there is an error, or
//! none; and nothing is left.
//!
//! Each operation is done again and again, and each time another one of its system calls fails:
//! every call of every kind is hit once, of this process, and of the fork server and the workers.
//! What comes of it is a result or an error, in time and without a panic; then the operation is
//! done as if nothing had been, and leaves behind what it left behind before.

#![expect(unsafe_code, reason = "a timer that interrupts system calls")]

use super::kernel::{Kernel, Refusal, Which, Whose};
use common::processes::{Inventory, Program, eventually, find_fork_server};
use common::{A_MOMENT, DEADLINE, in_time, pattern, race_budget, square};
use nix::{
    errno::Errno,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};
use procpool::{
    Barrier, Condition, ErrorKind, Event, JoinableQueue, Lock, Manager, Process,
    ProcessPoolExecutor, Queue, Receiver, Result, Semaphore, Sender, SharedMemory, StartMethod,
    Value, one_way, pipe,
};
use std::{
    ffi::c_long,
    fs::{self, File},
    mem,
    os::unix::fs::FileExt,
    panic, process, thread,
    time::{Duration, Instant, SystemTime},
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("use pools", || sweep(use_a_pool)),
    ("pass large values", || sweep(pass_large_values)),
    ("pass handles", || sweep(pass_handles)),
    ("lose workers", || sweep(lose_workers)),
    ("spawn workers", || sweep(spawn_workers)),
    ("start processes", || sweep(start_processes)),
    ("share things", || sweep(share_things)),
    ("run managers", || sweep(run_managers)),
    ("be interrupted", be_interrupted),
];

/// What an operation may fail with. That a worker or a server could not go on is its death. A
/// manager's server is full that has no thread or descriptor for another client. One that hangs up
/// in the middle of a handshake is taken to refuse the key: to a stranger it says no more.
const KINDS: [ErrorKind; 7] = [
    ErrorKind::StartFailed,
    ErrorKind::Io,
    ErrorKind::Codec,
    ErrorKind::WorkerDied,
    ErrorKind::Disconnected,
    ErrorKind::Full,
    ErrorKind::AuthenticationFailed,
];

/// Calls that never fail so in the processes that this one has started: no pipe of theirs is full,
/// and none waits for a child.
const OWN_ALONE: [&str; 2] = ["write to a pipe", "wait4"];

/// How long it may take from the refusal to the end of the operation.
const LIMIT: Duration = Duration::from_secs(15);

const fn any(name: &'static str, call: c_long, errno: Errno) -> Refusal {
    Refusal {
        name,
        call,
        errno,
        is_meant: |_| true,
    }
}

const REFUSALS: &[Refusal] = &[
    any("pipe2", libc::SYS_pipe2, Errno::EMFILE),
    any("socketpair", libc::SYS_socketpair, Errno::EMFILE),
    any("socket", libc::SYS_socket, Errno::ENFILE),
    any("accept4", libc::SYS_accept4, Errno::EMFILE),
    any("memfd_create", libc::SYS_memfd_create, Errno::ENFILE),
    any("openat", libc::SYS_openat, Errno::EMFILE),
    any("epoll_create1", libc::SYS_epoll_create1, Errno::EMFILE),
    any("epoll_ctl", libc::SYS_epoll_ctl, Errno::ENOMEM),
    any("eventfd2", libc::SYS_eventfd2, Errno::EMFILE),
    any("timerfd_create", libc::SYS_timerfd_create, Errno::EMFILE),
    any("signalfd4", libc::SYS_signalfd4, Errno::EMFILE),
    any("pidfd_open", libc::SYS_pidfd_open, Errno::EMFILE),
    Refusal {
        name: "fcntl(F_DUPFD)",
        call: libc::SYS_fcntl,
        errno: Errno::EMFILE,
        is_meant: |it| [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC].contains(&(it.data.args[1] as i32)),
    },
    any("ftruncate", libc::SYS_ftruncate, Errno::ENOSPC),
    any("fallocate", libc::SYS_fallocate, Errno::ENOSPC),
    any("clone", libc::SYS_clone, Errno::EAGAIN),
    any("clone3", libc::SYS_clone3, Errno::EAGAIN),
    Refusal {
        name: "mmap",
        call: libc::SYS_mmap,
        errno: Errno::ENOMEM,
        is_meant: is_of_shared_memory_or_a_thread,
    },
    any("mremap", libc::SYS_mremap, Errno::ENOMEM),
    Refusal {
        name: "sendmsg with descriptors",
        call: libc::SYS_sendmsg,
        errno: Errno::ETOOMANYREFS,
        is_meant: has_descriptors,
    },
    Refusal {
        name: "write to a pipe",
        call: libc::SYS_write,
        errno: Errno::EAGAIN,
        is_meant: is_of_a_pipe,
    },
    Refusal {
        name: "read",
        call: libc::SYS_read,
        errno: Errno::EINTR,
        is_meant: may_wait,
    },
    any("recvmsg", libc::SYS_recvmsg, Errno::EINTR),
    any("ppoll", libc::SYS_ppoll, Errno::EINTR),
    // Newer architectures have only the calls with a signal mask.
    #[cfg(target_arch = "x86_64")]
    any("poll", libc::SYS_poll, Errno::EINTR),
    any("epoll_pwait2", libc::SYS_epoll_pwait2, Errno::EINTR),
    any("epoll_pwait", libc::SYS_epoll_pwait, Errno::EINTR),
    #[cfg(target_arch = "x86_64")]
    any("epoll_wait", libc::SYS_epoll_wait, Errno::EINTR),
    Refusal {
        name: "futex",
        call: libc::SYS_futex,
        errno: Errno::EINTR,
        is_meant: |it| {
            let operation = it.data.args[1] as i32 & libc::FUTEX_CMD_MASK;
            [libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET].contains(&operation)
        },
    },
    any("waitid", libc::SYS_waitid, Errno::EINTR),
    any("wait4", libc::SYS_wait4, Errno::EINTR),
];

/// Not the allocator's, nor the standard library's in a thread that starts: a Rust program that has
/// no memory at all ends.
fn is_of_shared_memory_or_a_thread(call: &libc::seccomp_notif) -> bool {
    let (access, flags) = (call.data.args[2] as i32, call.data.args[3] as i32);
    let is_of_a_thread = access == libc::PROT_NONE && flags & libc::MAP_STACK != 0;
    flags & libc::MAP_SHARED != 0 || is_of_a_thread
}

/// A pipe that may be full: one that does not wait for room, as is that of requests.
fn is_of_a_pipe(call: &libc::seccomp_notif) -> bool {
    let (pid, fd) = (call.pid, call.data.args[0]);
    let target = fs::read_link(format!("/proc/{pid}/fd/{fd}"));
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|it| it.strip_prefix("flags:"));
    let flags = flags.and_then(|it| i32::from_str_radix(it.trim(), 8).ok());
    flags.is_some_and(|it| it & libc::O_NONBLOCK != 0)
        && target.is_ok_and(|it| it.to_string_lossy().starts_with("pipe:"))
}

/// A read of a pipe or a socket. No signal interrupts that of a file, and the loader does not
/// expect it.
fn may_wait(call: &libc::seccomp_notif) -> bool {
    let target = fs::read_link(format!("/proc/{}/fd/{}", call.pid, call.data.args[0]));
    target.is_ok_and(|it| !it.starts_with("/"))
}

/// A message with descriptors, of which the kernel allows a limited number in transit.
fn has_descriptors(call: &libc::seccomp_notif) -> bool {
    let length = mem::offset_of!(libc::msghdr, msg_controllen) as u64;
    let mut bytes = [0; 8];
    let memory = File::open(format!("/proc/{}/mem", call.pid));
    let read = memory.and_then(|it| it.read_exact_at(&mut bytes, call.data.args[1] + length));
    read.is_ok() && bytes != [0; 8]
}

/// An operation, on things that it makes itself. It checks what it gets, and gives the first error.
type Operation = fn() -> Result<()>;

fn pool_by(method: StartMethod, workers: usize) -> Result<ProcessPoolExecutor> {
    let builder = ProcessPoolExecutor::builder().workers(workers);
    builder.start_method(method).build()
}

fn check_squares(pool: &ProcessPoolExecutor) -> Result<()> {
    let squares = pool.map(square, 0..50)?;
    assert_eq!(squares, Vec::from_iter((0..50).map(|it| it * it)));
    Ok(())
}

fn use_a_pool() -> Result<()> {
    let pool = pool_by(StartMethod::ForkServer, 2)?;
    check_squares(&pool)?;
    let future = pool.submit(square, 7);
    assert_eq!(future.result()?, 49);
    pool.join()
}

fn spawn_workers() -> Result<()> {
    let pool = pool_by(StartMethod::Spawn, 1)?;
    check_squares(&pool)
}

/// Larger than what travels in pipes.
const LARGE: usize = 200_000;

fn pass_large_values() -> Result<()> {
    let pool = pool_by(StartMethod::ForkServer, 1)?;
    for size in [LARGE, 3 * LARGE] {
        let bytes = pattern(size, 1);
        assert!(pool.apply(|x: Vec<u8>| x, bytes.clone())? == bytes);
    }
    let sizes = pool.map(|x: Vec<u8>| x.len(), (1..4).map(|it| vec![0; it * LARGE]))?;
    assert_eq!(sizes, [LARGE, 2 * LARGE, 3 * LARGE]);
    Ok(())
}

fn pass_handles() -> Result<()> {
    let pool = pool_by(StartMethod::ForkServer, 1)?;
    let (receiver, sender) = one_way::<u32>()?;
    let say = |sender: Sender<u32>| sender.send(&5).is_ok();
    if pool.apply(say, sender)? {
        assert_eq!(receiver.recv()?, 5);
    }
    let open = |()| {
        let ends = one_way::<u32>().ok();
        ends.map(|(receiver, sender)| (receiver, sender.send(&6).is_ok()))
    };
    let opened: Option<(Receiver<u32>, bool)> = pool.apply(open, ())?;
    if let Some((receiver, true)) = opened {
        assert_eq!(receiver.recv()?, 6);
    }
    Ok(())
}

fn lose_workers() -> Result<()> {
    let pool = pool_by(StartMethod::ForkServer, 2)?;
    for _ in 0..2 {
        let died = pool.apply(|()| -> () { process::abort() }, ()).err();
        let died = died.expect("no task comes back from that");
        if died.kind() != ErrorKind::WorkerDied {
            return Err(died);
        }
    }
    check_squares(&pool)?;
    pool.join()
}

fn start_processes() -> Result<()> {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let process = Process::builder(square, 7).start_method(method).start()?;
        assert_eq!(process.result()?, 49);
    }
    let process = Process::start(|x: Vec<u8>| x, pattern(LARGE, 2))?;
    assert!(process.result()? == pattern(LARGE, 2));
    let (receiver, sender) = one_way::<u32>()?;
    let say = |sender: Sender<u32>| sender.send(&5).is_ok();
    if Process::start(say, sender)?.result()? {
        assert_eq!(receiver.recv()?, 5);
    }
    Ok(())
}

fn share_things() -> Result<()> {
    let queue = Queue::unbounded()?;
    for size in [10, LARGE] {
        queue.put(&pattern(size, 3))?;
        assert!(queue.get()? == pattern(size, 3));
    }
    let bounded = Queue::bounded(2)?;
    bounded.put_many(&[1, 2])?;
    assert_eq!(bounded.get_many(2)?, [1, 2]);
    let (_joinable, _event) = (JoinableQueue::<u8>::unbounded()?, Event::new()?);
    let (_barrier, _condition) = (Barrier::new(1)?.wait()?, Condition::new()?);
    let value = Value::new(3u64)?;
    *value.lock()? += 1;
    drop(Lock::new()?.acquire()?);
    Semaphore::new(1)?.acquire()?;
    let memory = SharedMemory::create(LARGE)?;
    memory.write_at(0, b"here")?;
    let (one, other) = pipe::<Vec<u8>, Vec<u8>>()?;
    one.send(&pattern(1000, 4))?;
    assert!(other.recv()? == pattern(1000, 4));
    assert_eq!(value.get()?, 4);
    Ok(())
}

fn run_managers() -> Result<()> {
    let manager = Manager::start()?;
    let list = manager.list::<Vec<u8>>()?;
    list.push(pattern(LARGE, 5))?;
    assert!(list.to_vec()? == [pattern(LARGE, 5)]);
    let value = manager.value(1)?;
    let other = Manager::connect(manager.address().clone(), procpool::authkey())?;
    value.set(2)?;
    drop(other);
    assert_eq!(value.get()?, 2);
    Ok(())
}

/// What this process and its fork server hold.
fn holdings() -> (Inventory, Option<Inventory>) {
    let server = find_fork_server().map(Inventory::of);
    (Inventory::of(process::id()), server)
}

/// Runs an operation with each of its system calls refused in turn, until all were, or for two race
/// budgets. Each run begins with another kind of call.
fn sweep(operation: Operation) {
    let kernel = Kernel::new(REFUSALS, LIMIT);
    abort_on_panic();
    // The second finds what the first has left for it.
    for _ in 0..2 {
        operation().expect("nothing is refused");
    }
    let before = settle();
    let end = Instant::now() + 2 * race_budget();
    for (refusal, whose) in kinds_of_calls() {
        for number in 0.. {
            let (outcome, refused) =
                kernel.refusing(refusal, (whose, Which::Only(number)), operation);
            if refused == 0 {
                break;
            }
            let place = format!("call {number} of {} ({whose:?})", refusal.name);
            if let Err(error) = outcome {
                assert!(KINDS.contains(&error.kind()), "{place}: {error}");
            }
            operation().unwrap_or_else(|it| panic!("not again after {place}: {it}"));
            check_nothing_is_left(&before, &place);
            if Instant::now() > end {
                return;
            }
        }
    }
}

fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        process::abort();
    }));
}

fn kinds_of_calls() -> Vec<(Refusal, Whose)> {
    let mut kinds: Vec<(Refusal, Whose)> = REFUSALS
        .iter()
        .flat_map(|it| [(*it, Whose::Own), (*it, Whose::Others)])
        .filter(|it| it.1 == Whose::Own || !OWN_ALONE.contains(&it.0.name))
        .collect();
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
    let first = now.subsec_nanos() as usize % kinds.len();
    kinds.rotate_left(first);
    kinds
}

/// Waits until there is no more than there was.
fn check_nothing_is_left(before: &(Inventory, Option<Inventory>), place: &str) {
    let deadline = Instant::now() + DEADLINE / 6;
    while holdings() != *before && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(holdings(), *before, "after {place}");
}

/// Waits until what has ended is gone.
fn settle() -> (Inventory, Option<Inventory>) {
    let mut last = holdings();
    eventually("nothing changes any more", || {
        thread::sleep(A_MOMENT / 2);
        let now = holdings();
        mem::replace(&mut last, now) == last
    });
    last
}

extern "C" fn do_nothing(_: i32) {}

/// Every operation, while a signal interrupts this process a thousand times a second, and no system
/// call is restarted.
fn be_interrupted() {
    abort_on_panic();
    let (handler, flags) = (SigHandler::Handler(do_nothing), SaFlags::empty());
    let action = SigAction::new(handler, flags, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGALRM, &action) }.expect("a signal that can be handled");
    let often = libc::timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    let timer = libc::itimerval {
        it_interval: often,
        it_value: often,
    };
    // SAFETY: the kernel reads a local.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let end = Instant::now() + 2 * race_budget();
    while Instant::now() < end {
        for operation in OPERATIONS {
            operation().expect("a signal is no failure");
        }
    }
}

const OPERATIONS: [Operation; 8] = [
    use_a_pool,
    pass_large_values,
    pass_handles,
    lose_workers,
    spawn_workers,
    start_processes,
    share_things,
    run_managers,
];

macro_rules! operations {
    ($($name:ident: $program:literal,)*) => {
        $(
            #[test]
            fn $name() {
                in_time(|| {
                    let finished = Program::start($program).finish();
                    assert!(finished.status.success(), "{finished:#?}");
                    assert_eq!(finished.errors, "");
                });
            }
        )*
    };
}

operations! {
    a_pool_works_or_says_why_not: "use pools",
    large_values_arrive_or_it_is_said_why_not: "pass large values",
    handles_arrive_or_it_is_said_why_not: "pass handles",
    lost_workers_are_replaced_or_it_is_said_why_not: "lose workers",
    workers_are_spawned_or_it_is_said_why_not: "spawn workers",
    processes_run_or_it_is_said_why_not: "start processes",
    what_is_shared_works_or_says_why_not: "share things",
    managers_run_or_say_why_not: "run managers",
    everything_works_while_signals_interrupt_all_the_time: "be interrupted",
}
