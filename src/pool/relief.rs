//! When the background thread takes over from a caller that led and has left.
//!
//! A caller that leads reads its reply, leaves, and mostly comes back at once for the next one. So
//! no thread takes over at first: the background thread does when [`ABSENCE`] has passed, or
//! [`IDLE_ABSENCE`] if no task is outstanding, woken by an alarm.
//!
//! Setting a timer that is the next to expire on its core costs 13 µs on a virtual machine, as much as
//! the whole round trip. So the alarm stays as it is while it goes off early enough: it may go off
//! before the background thread is due, which then sets it again.
//!
//! | leader | `is_armed` | `due` | |
//! |---|---|---|---|
//! | yes | any | `None` | the leader drives |
//! | no | yes | `None` | the background thread drives |
//! | no | no | `Some` | no thread drives until then; `alarm` is `Some` and not later |

use std::time::{Duration, Instant};

/// How long no thread drives while tasks are outstanding: longer than most callers take to come back for
/// their next result, so that a loop over results does not wake the background thread with each.
const ABSENCE: Duration = Duration::from_micros(250);

/// The same while none is: then the pool only has the death of an idle worker to notice.
const IDLE_ABSENCE: Duration = Duration::from_millis(10);

/// When the background thread is due, and when its alarm goes off.
#[derive(Debug, Default)]
pub(super) struct Relief {
    due: Option<Instant>,
    alarm: Option<Instant>,
}

/// What the background thread does when its alarm has gone off.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Alarmed {
    /// It takes over.
    Takes,
    /// It sleeps on, with the alarm set again.
    SleepsFor(Duration),
    /// It sleeps on: someone drives the pool.
    Sleeps,
}

impl Relief {
    /// Notes that a leader leaves with no heir; returns what to set the alarm to, if it must be set.
    pub(super) fn leader_leaves(&mut self, now: Instant, is_idle: bool) -> Option<Duration> {
        let absence = if is_idle { IDLE_ABSENCE } else { ABSENCE };
        self.due = Some(now + absence);
        self.set_alarm(now)
    }

    /// Makes the background thread due within [`ABSENCE`]: there is work, and no caller may come.
    /// Returns what to set the alarm to, if it must be set.
    pub(super) fn hurry(&mut self) -> Option<Duration> {
        let due = self.due?;
        let now = Instant::now();
        self.due = Some(due.min(now + ABSENCE));
        self.set_alarm(now)
    }

    /// Notes that a caller or the background thread drives the pool from now on.
    pub(super) fn cancel(&mut self) {
        self.due = None;
    }

    /// Decides what follows from the alarm.
    pub(super) fn alarm_goes_off(&mut self, now: Instant) -> Alarmed {
        self.alarm = None;
        match self.due {
            None => Alarmed::Sleeps,
            Some(due) if due <= now => Alarmed::Takes,
            Some(_) => self
                .set_alarm(now)
                .map_or(Alarmed::Sleeps, Alarmed::SleepsFor),
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
        let (mut relief, now) = (Relief::default(), Instant::now());
        assert_eq!(relief.leader_leaves(now, false), Some(ABSENCE));
        relief.cancel();
        assert_eq!(relief.leader_leaves(now + ABSENCE / 2, false), None);
        let alarmed = relief.alarm_goes_off(now + ABSENCE);
        assert_eq!(alarmed, Alarmed::SleepsFor(ABSENCE / 2));
        let alarmed = relief.alarm_goes_off(now + ABSENCE * 3 / 2);
        assert_eq!(alarmed, Alarmed::Takes);
    }

    #[test]
    fn an_idle_pool_hurries_when_there_is_work() {
        let (mut relief, now) = (Relief::default(), Instant::now());
        assert_eq!(relief.leader_leaves(now, true), Some(IDLE_ABSENCE));
        let delay = relief.hurry();
        assert!(delay.is_some_and(|it| it <= ABSENCE), "{delay:?}");
        assert_eq!(relief.hurry(), None);
    }

    #[test]
    fn the_alarm_does_not_disturb_a_thread_that_drives() {
        let (mut relief, now) = (Relief::default(), Instant::now());
        relief.leader_leaves(now, false);
        relief.cancel();
        assert_eq!(relief.alarm_goes_off(now + ABSENCE), Alarmed::Sleeps);
        assert_eq!(relief.hurry(), None);
    }
}
