//! A kernel that refuses: system calls of this process, or of its children, fail as chosen.
//!
//! A seccomp filter has the kernel ask about each call of some kinds that this thread makes, or a
//! thread or process that comes from it. A thread that was there before is asked: it counts the
//! calls that are meant, has one of them fail, or each from one on, and lets the others happen.

#![expect(unsafe_code, reason = "seccomp, which no crate at hand wraps")]

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::prctl::set_no_new_privs,
};
use std::{
    ffi::c_long,
    fs,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// No descriptor.
const NONE_YET: i32 = -1;

/// Calls of a kind, and how they fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) name: &'static str,
    pub(crate) call: c_long,
    pub(crate) errno: Errno,
    /// Which of them.
    pub(crate) is_meant: fn(&libc::seccomp_notif) -> bool,
}

/// Whose calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// This process's.
    Own,
    /// Those of the processes that come from it.
    Others,
}

/// Which of the calls fail, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Only(usize),
    All,
}

impl Which {
    fn has(self, number: usize) -> bool {
        match self {
            Self::Only(it) => number == it,
            Self::All => true,
        }
    }
}

/// What is refused just now.
struct Order {
    refusal: Refusal,
    whose: Whose,
    which: Which,
    seen: usize,
    refused: usize,
    given: Instant,
}

/// The kernel, as it is from [`Kernel::new`] on for the calling thread and all that comes from it.
pub(crate) struct Kernel {
    order: Arc<Mutex<Option<Order>>>,
}

impl Kernel {
    /// A kernel that can refuse any of these. `limit` is how long it may take until what was
    /// refused comes to an end.
    pub(crate) fn new(refusals: &[Refusal], limit: Duration) -> Self {
        let order = Arc::new(Mutex::new(None));
        let listener = Arc::new(AtomicI32::new(NONE_YET));
        let (theirs, place) = (Arc::clone(&order), Arc::clone(&listener));
        // It has not got the filter: it is older. To wake it from a sleep would take a call that it
        // has to answer first.
        thread::spawn(move || {
            while place.load(Ordering::Acquire) == NONE_YET {
                thread::yield_now();
            }
            // SAFETY: the kernel has opened it for this thread alone.
            let listener = unsafe { OwnedFd::from_raw_fd(place.load(Ordering::Acquire)) };
            answer(&listener, &theirs, limit);
        });
        let mut calls: Vec<c_long> = refusals.iter().map(|it| it.call).collect();
        calls.sort_unstable();
        calls.dedup();
        listener.store(listen_to(&calls), Ordering::Release);
        Self { order }
    }

    /// Does something while calls are refused, and says how many were.
    pub(crate) fn refusing<T>(
        &self,
        refusal: Refusal,
        (whose, which): (Whose, Which),
        action: impl FnOnce() -> T,
    ) -> (T, usize) {
        *lock(&self.order) = Some(Order {
            refusal,
            whose,
            which,
            seen: 0,
            refused: 0,
            given: Instant::now(),
        });
        let outcome = action();
        let order = lock(&self.order).take().expect("given above");
        (outcome, order.refused)
    }
}

fn lock(order: &Mutex<Option<Order>>) -> MutexGuard<'_, Option<Order>> {
    order.lock().expect("no thread panics with it")
}

/// Installs a filter that has the kernel ask at the descriptor about these calls.
fn listen_to(calls: &[c_long]) -> i32 {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let say = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, if_so: usize, k: u32| libc::sock_filter {
        code: code as u16,
        jt: if_so as u8,
        jf: 0,
        k,
    };
    let number = mem::offset_of!(libc::seccomp_data, nr);
    let mut program = vec![step(load, 0, number as u32)];
    for (at, call) in calls.iter().enumerate() {
        program.push(step(equals, calls.len() - at, *call as u32));
    }
    program.push(step(say, 0, libc::SECCOMP_RET_ALLOW));
    program.push(step(say, 0, libc::SECCOMP_RET_USER_NOTIF));
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    set_no_new_privs().expect("every process may do with less");
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the kernel reads the program, which is alive.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    let listener = Errno::result(listener).expect("Linux 5.19 or later");
    listener as i32
}

/// Answers the kernel's questions, until the process ends.
fn answer(listener: &OwnedFd, order: &Mutex<Option<Order>>, limit: Duration) {
    loop {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::from(100u8);
        let asked = poll(&mut ready, timeout).is_ok_and(|it| it > 0);
        if asked && let Some(question) = next_question(listener) {
            reply(listener, question.id, decide(&question, order));
        }
        if let Some(order) = lock(order).as_ref()
            && order.given.elapsed() > limit
        {
            eprintln!("no end {limit:?} after {}", order.describe());
            std::process::abort();
        }
    }
}

impl Order {
    fn describe(&self) -> String {
        let Self {
            refusal,
            whose,
            which,
            seen,
            refused,
            ..
        } = self;
        let (name, errno) = (refusal.name, refusal.errno);
        format!("{name} failed with {errno} ({whose:?}, {which:?}; {refused} of {seen} calls)")
    }
}

/// Returns `None` if the caller is gone.
fn next_question(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    // SAFETY: it is made of numbers; and the kernel wants zeros.
    let mut question: libc::seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
    let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
    // SAFETY: the kernel writes to a local.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw mut question) };
    (received == 0).then_some(question)
}

/// How the call is to fail, if it is.
fn decide(question: &libc::seccomp_notif, order: &Mutex<Option<Order>>) -> Option<Errno> {
    let mut order = lock(order);
    let order = order.as_mut()?;
    let refusal = order.refusal;
    if c_long::from(question.data.nr) != refusal.call || !(refusal.is_meant)(question) {
        return None;
    }
    let is_own = fs::exists(format!("/proc/self/task/{}", question.pid)).unwrap_or(false);
    if is_own != (order.whose == Whose::Own) {
        return None;
    }
    order.seen += 1;
    let is_refused = order.which.has(order.seen - 1);
    order.refused += usize::from(is_refused);
    is_refused.then_some(refusal.errno)
}

fn reply(listener: &OwnedFd, id: u64, errno: Option<Errno>) {
    let reply = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: errno.map_or(0, |it| -(it as i32)),
        flags: errno.map_or(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32, |_| 0),
    };
    let request = libc::SECCOMP_IOCTL_NOTIF_SEND;
    // Fails only if the caller is gone.
    // SAFETY: the kernel reads a local.
    unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw const reply) };
}
