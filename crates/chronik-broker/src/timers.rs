//! Deadlines of parked requests.
//!
//! A map ordered by deadline: arming and disarming cost a logarithm, and nothing is ever scanned. The process
//! that owns a clock calls [`Timers::take_due`] and is told through the waker when a deadline earlier than all
//! others appears.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use chronik_types::{MonotonicMs, Now};
use parking_lot::Mutex;

/// Something that is told when its time is up.
pub(crate) trait Expire: Send + Sync {
    /// The deadline has passed. Called at most once for each arming.
    fn expire(self: Arc<Self>, now: Now);
}

/// Names an armed deadline, for disarming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    deadline: MonotonicMs,
    serial: u64,
}

type Waker = Box<dyn Fn(MonotonicMs) + Send + Sync>;

/// All armed deadlines. Bounded by what arms them: each is one parked request, of which each connection has a
/// bounded number.
#[derive(Default)]
pub(crate) struct Timers {
    armed: Mutex<Armed>,
    waker: OnceLock<Waker>,
}

#[derive(Default)]
struct Armed {
    by_deadline: BTreeMap<TimerKey, Arc<dyn Expire>>,
    next_serial: u64,
}

impl Timers {
    /// Sets what is called, from any thread, when a new earliest deadline appears. Only the first call counts.
    pub(crate) fn set_waker(&self, waker: Waker) -> bool {
        self.waker.set(waker).is_ok()
    }

    /// Calls `target.expire` once `deadline` has passed.
    pub(crate) fn arm(&self, deadline: MonotonicMs, target: Arc<dyn Expire>) -> TimerKey {
        let (key, is_first) = {
            let mut armed = self.armed.lock();
            let key = TimerKey { deadline, serial: armed.next_serial };
            armed.next_serial = armed.next_serial.wrapping_add(1);
            armed.by_deadline.insert(key, target);
            (key, armed.by_deadline.first_key_value().is_some_and(|(first, _)| *first == key))
        };
        if is_first && let Some(waker) = self.waker.get() {
            waker(deadline);
        }
        key
    }

    /// Forgets a deadline; one that has passed already is no error.
    pub(crate) fn disarm(&self, key: TimerKey) {
        let removed = self.armed.lock().by_deadline.remove(&key);
        // The target is dropped outside the lock: its own drop may want to disarm others.
        drop(removed);
    }

    /// Expires everything that is due and returns the next deadline.
    pub(crate) fn run(&self, now: Now) -> Option<MonotonicMs> {
        loop {
            let due = {
                let mut armed = self.armed.lock();
                match armed.by_deadline.first_key_value() {
                    None => return None,
                    Some((key, _)) if key.deadline > now.monotonic => return Some(key.deadline),
                    Some(_) => armed.by_deadline.pop_first(),
                }
            };
            if let Some((_, target)) = due {
                target.expire(now);
            }
        }
    }

    /// Expires everything, due or not.
    pub(crate) fn run_all(&self, now: Now) {
        while let Some((_, target)) = self.pop_first() {
            target.expire(now);
        }
    }

    fn pop_first(&self) -> Option<(TimerKey, Arc<dyn Expire>)> {
        self.armed.lock().by_deadline.pop_first()
    }

    /// How many deadlines are armed.
    #[cfg(test)]
    pub(crate) fn armed_count(&self) -> usize {
        self.armed.lock().by_deadline.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use chronik_types::TimestampMs;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU64);

    impl Expire for Counter {
        fn expire(self: Arc<Self>, _now: Now) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn at(ms: u64) -> Now {
        Now { monotonic: MonotonicMs(ms), wall: TimestampMs(0) }
    }

    #[test]
    fn what_is_due_expires_once_and_the_rest_waits() {
        let timers = Timers::default();
        let woken = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&woken);
        assert!(timers.set_waker(Box::new(move |deadline| seen.store(deadline.0, Ordering::Relaxed))));
        let counter = Arc::new(Counter::default());
        timers.arm(MonotonicMs(20), counter.clone());
        assert_eq!(woken.load(Ordering::Relaxed), 20);
        timers.arm(MonotonicMs(30), counter.clone());
        assert_eq!(woken.load(Ordering::Relaxed), 20, "a later deadline wakes nobody");
        let early = timers.arm(MonotonicMs(10), counter.clone());
        assert_eq!(woken.load(Ordering::Relaxed), 10);
        timers.disarm(early);
        assert_eq!(timers.run(at(15)), Some(MonotonicMs(20)));
        assert_eq!(counter.0.load(Ordering::Relaxed), 0);
        assert_eq!(timers.run(at(20)), Some(MonotonicMs(30)));
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert_eq!(timers.run(at(99)), None);
        assert_eq!(counter.0.load(Ordering::Relaxed), 2);
        assert_eq!(timers.armed_count(), 0);
    }
}
