//! The takeover timer: when the background thread takes over from a leader that has left.
//!
//! A leader reads its reply, leaves, and mostly leads again at once for the next reply. So no
//! thread drives the pool at first. An alarm wakes the background thread after [`TAKEOVER_DELAY`],
//! or after [`IDLE_TAKEOVER_DELAY`] if no task is outstanding.
//!
//! Setting a timer that is the next to expire on its core costs 13 µs on a virtual machine, as much
//! as the whole round trip. So the alarm is left as it is if it expires early enough. If it expires
//! before the background thread is due, that thread sets it again.
//!
//! | leader | `is_armed` | `due` | |
//! |---|---|---|---|
//! | yes | any | `None` | the leader drives |
//! | no | yes | `None` | the background thread drives |
//! | no | no | `Some` | no thread drives until then; `alarm` is `Some` and not later |

use std::time::{Duration, Instant};

/// How long no thread drives the pool while tasks are outstanding. Longer than most callers take to
/// ask for their next result, so that a loop over results does not wake the background thread with
/// each.
const TAKEOVER_DELAY: Duration = Duration::from_micros(250);

/// The same while no task is outstanding: only the death of an idle worker waits to be noticed.
const IDLE_TAKEOVER_DELAY: Duration = Duration::from_millis(10);

/// When the background thread is due, and when its alarm expires.
#[derive(Debug, Default)]
pub(crate) struct TakeoverTimer {
    /// When the background thread takes over; `None` while a thread drives the pool.
    due: Option<Instant>,
    /// When the kernel's timer expires; `None` after it has. At most `due`, if both are set.
    alarm: Option<Instant>,
}

/// How the background thread reacts to its alarm.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AlarmAction {
    /// Takes over.
    TakeOver,
    /// Sets the alarm again, and sleeps on.
    Rearm(Duration),
    /// Sleeps on: another thread drives the pool.
    Ignore,
}

impl TakeoverTimer {
    /// Records that a leader leaves without a follower. Returns the delay to set the alarm to, if
    /// it must be set.
    pub(crate) fn leader_left(&mut self, now: Instant, is_idle: bool) -> Option<Duration> {
        let absence = if is_idle {
            IDLE_TAKEOVER_DELAY
        } else {
            TAKEOVER_DELAY
        };
        self.due = Some(now + absence);
        self.set_alarm(now)
    }

    /// Makes the background thread due within [`TAKEOVER_DELAY`]: a task was submitted, and perhaps
    /// no caller waits for it. Returns the delay to set the alarm to, if it must be set.
    pub(crate) fn expedite(&mut self) -> Option<Duration> {
        let due = self.due?;
        let now = Instant::now();
        self.due = Some(due.min(now + TAKEOVER_DELAY));
        self.set_alarm(now)
    }

    /// Records that a caller or the background thread drives the pool from now on. The alarm stays
    /// set.
    pub(crate) fn cancel(&mut self) {
        self.due = None;
    }

    /// Returns how the background thread reacts to the alarm, which has expired.
    pub(crate) fn on_alarm(&mut self, now: Instant) -> AlarmAction {
        self.alarm = None;
        match self.due {
            // 1. A leader left.
            // 2. The alarm was set.
            // 3. A caller led again, and let the alarm run.
            None => AlarmAction::Ignore,
            Some(due) if due <= now => AlarmAction::TakeOver,
            // 1. A leader left.
            // 2. The alarm was set.
            // 3. A caller led, and left: due later.
            Some(_) => self
                .set_alarm(now)
                .map_or(AlarmAction::Ignore, AlarmAction::Rearm),
        }
    }

    fn set_alarm(&mut self, now: Instant) -> Option<Duration> {
        let due = self.due?;
        if self.alarm.is_some_and(|alarm| alarm <= due) {
            return None;
        }
        self.alarm = Some(due);
        Some(due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_that_goes_off_early_enough_is_not_set_again() {
        let (mut timer, now) = (TakeoverTimer::default(), Instant::now());
        assert_eq!(timer.leader_left(now, false), Some(TAKEOVER_DELAY));
        timer.cancel();
        assert_eq!(timer.leader_left(now + TAKEOVER_DELAY / 2, false), None);
        let action = timer.on_alarm(now + TAKEOVER_DELAY);
        assert_eq!(action, AlarmAction::Rearm(TAKEOVER_DELAY / 2));
        let action = timer.on_alarm(now + TAKEOVER_DELAY * 3 / 2);
        assert_eq!(action, AlarmAction::TakeOver);
    }

    #[test]
    fn an_idle_pool_hurries_when_there_is_work() {
        let (mut timer, now) = (TakeoverTimer::default(), Instant::now());
        assert_eq!(timer.leader_left(now, true), Some(IDLE_TAKEOVER_DELAY));
        let delay = timer.expedite();
        assert!(
            delay.is_some_and(|delay| delay <= TAKEOVER_DELAY),
            "{delay:?}"
        );
        assert_eq!(timer.expedite(), None);
    }

    #[test]
    fn the_alarm_does_not_disturb_a_thread_that_drives() {
        let (mut timer, now) = (TakeoverTimer::default(), Instant::now());
        timer.leader_left(now, false);
        timer.cancel();
        assert_eq!(timer.on_alarm(now + TAKEOVER_DELAY), AlarmAction::Ignore);
        assert_eq!(timer.expedite(), None);
    }
}
