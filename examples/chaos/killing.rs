//! Kills workers and their fork server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procpool::ProcessPoolExecutor;

use crate::Result;
use crate::looking::{SERVER, descendants};

/// Pause between two kills. Every hundredth kill hits the fork server.
const PAUSE: Duration = Duration::from_millis(20);
const SERVER_TURN: u64 = 100;

/// Counts of kills.
#[derive(Default)]
pub(crate) struct Chaos {
    pub(crate) workers: u64,
    pub(crate) servers: u64,
    pub(crate) lasted: Duration,
    /// Processes that were killed.
    struck: Vec<u32>,
}

impl Chaos {
    /// Kills processes while `work` runs.
    pub(crate) fn reign(
        &mut self,
        pool: &ProcessPoolExecutor,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (started, is_over) = (Instant::now(), AtomicBool::new(false));
        let outcome = thread::scope(|scope| {
            let killer = scope.spawn(|| -> Result<(), String> {
                let mut next = Instant::now();
                while !is_over.load(Ordering::Relaxed) {
                    self.strike(pool).map_err(|it| it.to_string())?;
                    next += PAUSE;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                Ok(())
            });
            let worked = work();
            is_over.store(true, Ordering::Relaxed);
            worked.and(killer.join().expect("it does not panic").map_err(Box::from))
        });
        self.lasted += started.elapsed();
        outcome
    }

    fn strike(&mut self, pool: &ProcessPoolExecutor) -> Result<()> {
        if (self.workers + self.servers + 1).is_multiple_of(SERVER_TURN) {
            let server = descendants()?.into_iter().find(|it| it.name == SERVER);
            self.servers += u64::from(server.is_some_and(|it| kill_process(it.pid)));
            self.struck.extend(pool.worker_pids());
        }
        // A pool breaks if its workers die again and again before they are ready, so one worker
        // that has run a task must survive. On a busy machine a killed worker may not have ended
        // yet.
        let mut workers = pool.stats().workers;
        workers.retain(|it| !self.struck.contains(&it.pid));
        if workers.iter().any(|it| it.tasks_done > 0) {
            let chosen = workers[getrandom::u32()? as usize % workers.len()].pid;
            self.workers += u64::from(kill_process(chosen));
            self.struck.push(chosen);
        }
        Ok(())
    }
}

/// Sends SIGKILL. Returns false if the process was gone.
fn kill_process(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok()
}
