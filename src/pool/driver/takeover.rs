//! When the background thread takes over from a caller that led and has left.
//!
//! A caller that leads reads its reply, leaves, and mostly comes back at once for the next one. So
//! no thread takes over at first: the background thread does when [`TAKEOVER_DELAY`] has passed, or
//! [`IDLE_TAKEOVER_DELAY`] if no task is outstanding, woken by an alarm.
//!
//! Setting a timer that is the next to expire on its core costs 13 µs on a virtual machine, as much
//! as the whole round trip. So the alarm stays as it is while it goes off early enough: it may go
//! off before the background thread is due, which then sets it again.
//!
//! | leader | `is_armed` | `check_timeout_at` | |
//! |---|---|---|---|
//! | yes | any | `None` | the leader drives |
//! | no | yes | `None` | the background thread drives |
//! | no | no | `Some` | no thread drives until then; `alarm` is `Some` and not later |

use std::time::{Duration, Instant};

/// How long no thread drives while tasks are outstanding: longer than most callers take to come
/// back for their next result, so that a loop over results does not wake the background thread with
/// each.
const TAKEOVER_DELAY: Duration = Duration::from_micros(250);

/// The same while none is: then the pool only has the death of an idle worker to notice.
const IDLE_TAKEOVER_DELAY: Duration = Duration::from_millis(10);

/// When the background thread is due, and when its alarm goes off.
#[derive(Debug, Default)]
pub(crate) struct TakeoverTimer {
    due: Option<Instant>,
    alarm: Option<Instant>,
}

/// What the background thread does when its alarm has gone off.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AlarmAction {
    /// It takes over.
    TakeOver,
    /// It sleeps on, with the alarm set again.
    Rearm(Duration),
    /// It sleeps on: someone drives the pool.
    Ignore,
}

impl TakeoverTimer {
    /// Notes that a leader leaves with no heir; returns what to set the alarm to, if it must be
    /// set.
    pub(crate) fn leader_left(&mut self, now: Instant, is_idle: bool) -> Option<Duration> {
        let absence = if is_idle {
            IDLE_TAKEOVER_DELAY
        } else {
            TAKEOVER_DELAY
        };
        self.due = Some(now + absence);
        self.set_alarm(now)
    }

    /// Makes the background thread due within [`TAKEOVER_DELAY`]: there is work, and no caller may
    /// come. Returns what to set the alarm to, if it must be set.
    pub(crate) fn expedite(&mut self) -> Option<Duration> {
        let due = self.due?;
        let now = Instant::now();
        self.due = Some(due.min(now + TAKEOVER_DELAY));
        self.set_alarm(now)
    }

    /// Notes that a caller or the background thread drives the pool from now on.
    pub(crate) fn cancel(&mut self) {
        self.due = None;
    }

    /// Decides what follows from the alarm.
    pub(crate) fn on_alarm(&mut self, now: Instant) -> AlarmAction {
        self.alarm = None;
        match self.due {
            None => AlarmAction::Ignore,
            Some(due) if due <= now => AlarmAction::TakeOver,
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
        let (mut relief, now) = (TakeoverTimer::default(), Instant::now());
        assert_eq!(relief.leader_left(now, false), Some(TAKEOVER_DELAY));
        relief.cancel();
        assert_eq!(relief.leader_left(now + TAKEOVER_DELAY / 2, false), None);
        let alarmed = relief.on_alarm(now + TAKEOVER_DELAY);
        assert_eq!(alarmed, AlarmAction::Rearm(TAKEOVER_DELAY / 2));
        let alarmed = relief.on_alarm(now + TAKEOVER_DELAY * 3 / 2);
        assert_eq!(alarmed, AlarmAction::TakeOver);
    }

    #[test]
    fn an_idle_pool_hurries_when_there_is_work() {
        let (mut relief, now) = (TakeoverTimer::default(), Instant::now());
        assert_eq!(relief.leader_left(now, true), Some(IDLE_TAKEOVER_DELAY));
        let delay = relief.expedite();
        assert!(delay.is_some_and(|it| it <= TAKEOVER_DELAY), "{delay:?}");
        assert_eq!(relief.expedite(), None);
    }

    #[test]
    fn the_alarm_does_not_disturb_a_thread_that_drives() {
        let (mut relief, now) = (TakeoverTimer::default(), Instant::now());
        relief.leader_left(now, false);
        relief.cancel();
        assert_eq!(relief.on_alarm(now + TAKEOVER_DELAY), AlarmAction::Ignore);
        assert_eq!(relief.expedite(), None);
    }
}
