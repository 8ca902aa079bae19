//! Everything that happens only because time passes, in one ordered set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_types::MonotonicMs;

use crate::WriteId;

/// What a timer is about. A second timer of the same key replaces the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A member has not been heard of for its session timeout.
    Session { group: Arc<str>, member: Arc<str> },
    /// The join phase has lasted for its delay or its timeout.
    Join { group: Arc<str> },
    /// The sync phase has lasted for its timeout.
    Sync { group: Arc<str> },
    /// The metadata of an emptied group is to be written again.
    EmptyMetadata { group: Arc<str> },
    /// The reply to a request has waited too long for its records.
    Write(WriteId),
    /// Expired offsets are to be looked for.
    Expiry,
}

/// Deadlines, by time and by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    by_deadline: BTreeSet<(MonotonicMs, Timer)>,
    deadlines: BTreeMap<Timer, MonotonicMs>,
}

impl Timers {
    /// Sets `timer` to go off at `deadline`, and no longer at any earlier set time.
    pub(crate) fn schedule(&mut self, timer: Timer, deadline: MonotonicMs) {
        if let Some(previous) = self.deadlines.insert(timer.clone(), deadline) {
            self.by_deadline.remove(&(previous, timer.clone()));
        }
        self.by_deadline.insert((deadline, timer));
    }

    /// Forgets `timer`.
    pub(crate) fn cancel(&mut self, timer: &Timer) {
        if let Some(deadline) = self.deadlines.remove(timer) {
            self.by_deadline.remove(&(deadline, timer.clone()));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<MonotonicMs> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out the earliest timer, if its time has come.
    pub(crate) fn pop_due(&mut self, now: MonotonicMs) -> Option<Timer> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, timer) = self.by_deadline.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }

    /// Forgets every timer.
    pub(crate) fn clear(&mut self) {
        self.by_deadline.clear();
        self.deadlines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_goes_off_once_at_its_latest_set_time() {
        let mut timers = Timers::default();
        let join = || Timer::Join { group: "g".into() };
        timers.schedule(join(), MonotonicMs(10));
        timers.schedule(Timer::Expiry, MonotonicMs(20));
        timers.schedule(join(), MonotonicMs(30));
        assert_eq!(timers.next_deadline(), Some(MonotonicMs(20)));
        assert_eq!(timers.pop_due(MonotonicMs(19)), None);
        assert_eq!(timers.pop_due(MonotonicMs(30)), Some(Timer::Expiry));
        assert_eq!(timers.pop_due(MonotonicMs(30)), Some(join()));
        assert_eq!(timers.pop_due(MonotonicMs(99)), None);
        timers.schedule(join(), MonotonicMs(40));
        timers.cancel(&join());
        assert_eq!(timers.next_deadline(), None);
    }
}
