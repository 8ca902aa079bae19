//! A fetch that waits for data.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use chronik_types::Now;
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::connection::{Connection, Parked};
use crate::context::RequestContext;
use crate::partition::{Partition, Watcher};
use crate::timers::{Expire, TimerKey};

use super::read::read_all;
use super::{FetchPlan, answer};

/// How often a fetch that parks reads again because more came while it read.
const READS_MAX: usize = 4;

/// How much a fetch that waits has been told of.
struct Arrivals {
    needed_bytes: u64,
    counted_bytes: AtomicU64,
}

impl Arrivals {
    /// Counts what has become readable; says whether there is enough now.
    fn note(&self, bytes: u64) -> bool {
        let before = self.counted_bytes.fetch_add(bytes.min(u64::from(u32::MAX)), Ordering::AcqRel);
        bytes == u64::MAX || before.saturating_add(bytes) >= self.needed_bytes
    }

    /// Counts what came before anybody was told of it, by reading once more. `read` gives how many bytes there are and
    /// whether they are enough, nothing where the fetch has ended; says whether they are.
    fn count_unnoted(&self, mut read: impl FnMut() -> Option<(u64, bool)>) -> bool {
        for _ in 0..READS_MAX {
            let counted = self.counted_bytes.load(Ordering::Acquire);
            let Some((bytes, is_enough)) = read() else { return false };
            if is_enough {
                return true;
            }
            let all = counted.max(bytes);
            let replaced =
                self.counted_bytes.compare_exchange(counted, all, Ordering::AcqRel, Ordering::Acquire);
            // What has been noted since may have been read or not, so it is read again.
            if replaced.is_ok() {
                return false;
            }
        }
        // It keeps coming. To be answered a little early is better than to wait for what is there.
        true
    }
}

/// A fetch that found fewer bytes than it asked for. Whichever comes first ends it: enough bytes, the end of its
/// wait, or the end of its connection.
pub(super) struct ParkedFetch {
    id: u64,
    broker: Arc<Broker>,
    arrivals: Arrivals,
    timer: OnceLock<TimerKey>,
    partitions: Vec<Arc<Partition>>,
    waiting: Mutex<Option<(RequestContext, FetchPlan)>>,
}

/// Parks a fetch that has found `found_bytes` so far, for at most `max_wait_ms`.
pub(super) fn park(broker: &Arc<Broker>, context: RequestContext, plan: FetchPlan, found_bytes: u64) {
    let now = context.now;
    let limits = plan.limits;
    let connection = Arc::clone(&context.connection);
    let deadline = now.monotonic.plus_ms(u64::try_from(plan.limits.max_wait_ms).unwrap_or(0));
    let seen: Vec<(Arc<Partition>, i64)> = plan
        .targets
        .iter()
        .zip(&plan.seen_ends)
        .filter_map(|(target, seen)| target.partition.as_ref().ok().map(|found| (Arc::clone(found), *seen)))
        .collect();
    let parked = Arc::new(ParkedFetch {
        id: broker.next_parked_id(),
        broker: Arc::clone(broker),
        arrivals: Arrivals {
            needed_bytes: u64::try_from(plan.limits.min_bytes).unwrap_or(0),
            counted_bytes: AtomicU64::new(found_bytes),
        },
        timer: OnceLock::new(),
        partitions: seen.iter().map(|(partition, _)| Arc::clone(partition)).collect(),
        waiting: Mutex::new(Some((context, plan))),
    });
    connection.park(parked.id, Arc::clone(&parked) as Arc<dyn Parked>);
    for partition in &parked.partitions {
        let watcher = Arc::clone(&parked) as Arc<dyn Watcher>;
        if limits.replica.is_some() {
            partition.watch_appends(parked.id, watcher);
        } else {
            partition.watch(parked.id, watcher);
        }
    }
    let key = broker.timers.arm(deadline, Arc::clone(&parked) as Arc<dyn Expire>);
    let armed = parked.timer.set(key);
    debug_assert!(armed.is_ok(), "a fetch is armed once");
    // What was appended between the read and the registration told nobody. Looking again closes the gap.
    let has_moved = seen.iter().any(|(partition, seen)| {
        limits.end_of(partition).get() != *seen || partition.check_leader().is_err()
    });
    if connection.is_closed() {
        parked.cancel();
    } else if broker.is_stopping() || has_moved && parked.has_enough() {
        parked.finish(now);
    }
    if parked.waiting.lock().is_none() {
        // Whoever ended it may have come while it was still being registered; what was registered later is undone
        // here.
        parked.forget(&connection);
    }
}

impl ParkedFetch {
    fn take(&self) -> Option<(RequestContext, FetchPlan)> {
        let waiting = self.waiting.lock().take()?;
        self.forget(&waiting.0.connection);
        Some(waiting)
    }

    /// Takes itself out of all lists.
    fn forget(&self, connection: &Connection) {
        for partition in &self.partitions {
            partition.unwatch(self.id);
        }
        if let Some(key) = self.timer.get() {
            self.broker.timers.disarm(*key);
        }
        connection.unpark(self.id);
    }

    /// Whether what can be read now answers the fetch.
    fn has_enough(&self) -> bool {
        self.arrivals.count_unnoted(|| {
            let waiting = self.waiting.lock();
            let (_, plan) = waiting.as_ref()?;
            let reading = read_all(&plan.limits, &plan.targets);
            Some((reading.bytes, reading.is_enough(&plan.limits)))
        })
    }

    fn finish(&self, now: Now) {
        if let Some((mut context, plan)) = self.take() {
            context.now = now;
            answer(&self.broker, context, &plan);
        }
    }
}

impl Watcher for ParkedFetch {
    fn arrived(&self, bytes: u64) -> bool {
        self.arrivals.note(bytes)
    }

    fn wake(self: Arc<Self>, now: Now) {
        self.finish(now);
    }
}

impl Expire for ParkedFetch {
    fn expire(self: Arc<Self>, now: Now) {
        self.finish(now);
    }
}

impl Parked for ParkedFetch {
    fn cancel(&self) {
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::Arrivals;

    fn needs(needed_bytes: u64) -> Arrivals {
        Arrivals { needed_bytes, counted_bytes: AtomicU64::new(0) }
    }

    #[test]
    fn what_came_between_reading_and_watching_counts() {
        let arrivals = needs(100);
        assert!(!arrivals.count_unnoted(|| Some((60, false))));
        assert!(!arrivals.note(39));
        assert!(arrivals.note(1));
    }

    #[test]
    fn what_comes_while_it_is_read_again_counts_once() {
        let arrivals = needs(100);
        let mut reads = [(60, Some(10)), (70, None)].into_iter();
        let read = || {
            let (bytes, meanwhile) = reads.next().unwrap();
            if let Some(meanwhile) = meanwhile {
                assert!(!arrivals.note(meanwhile));
            }
            Some((bytes, false))
        };
        assert!(!arrivals.count_unnoted(read));
        assert!(!arrivals.note(29));
        assert!(arrivals.note(1));
    }

    #[test]
    fn a_fetch_that_something_comes_for_again_and_again_is_answered() {
        let arrivals = needs(1 << 40);
        assert!(arrivals.count_unnoted(|| {
            arrivals.note(1);
            Some((1, false))
        }));
        assert!(!needs(1).count_unnoted(|| None));
    }
}
