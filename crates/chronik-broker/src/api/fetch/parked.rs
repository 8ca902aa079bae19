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

/// A fetch that found fewer bytes than it asked for. Whichever comes first ends it: enough bytes, the end of its
/// wait, or the end of its connection.
pub(super) struct ParkedFetch {
    id: u64,
    broker: Arc<Broker>,
    needed_bytes: u64,
    arrived_bytes: AtomicU64,
    timer: OnceLock<TimerKey>,
    partitions: Vec<Arc<Partition>>,
    waiting: Mutex<Option<(RequestContext, FetchPlan)>>,
}

/// Parks a fetch that has found `found_bytes` so far, for at most `max_wait_ms`.
pub(super) fn park(broker: &Arc<Broker>, context: RequestContext, plan: FetchPlan, found_bytes: u64) {
    let now = context.now;
    let connection = Arc::clone(&context.connection);
    let deadline = now.monotonic.plus_ms(u64::try_from(plan.limits.max_wait_ms).unwrap_or(0));
    let seen: Vec<(Arc<Partition>, i64)> = plan
        .targets
        .iter()
        .zip(&plan.seen_high_watermarks)
        .filter_map(|(target, seen)| target.partition.as_ref().ok().map(|found| (Arc::clone(found), *seen)))
        .collect();
    let parked = Arc::new(ParkedFetch {
        id: broker.next_parked_id(),
        broker: Arc::clone(broker),
        needed_bytes: u64::try_from(plan.limits.min_bytes).unwrap_or(0),
        arrived_bytes: AtomicU64::new(found_bytes),
        timer: OnceLock::new(),
        partitions: seen.iter().map(|(partition, _)| Arc::clone(partition)).collect(),
        waiting: Mutex::new(Some((context, plan))),
    });
    connection.park(parked.id, Arc::clone(&parked) as Arc<dyn Parked>);
    for partition in &parked.partitions {
        partition.watch(parked.id, Arc::clone(&parked) as Arc<dyn Watcher>);
    }
    let key = broker.timers.arm(deadline, Arc::clone(&parked) as Arc<dyn Expire>);
    let armed = parked.timer.set(key);
    debug_assert!(armed.is_ok(), "a fetch is armed once");
    // What was appended between the read and the registration told nobody. Looking again closes the gap.
    let has_moved = seen.iter().any(|(partition, seen)| {
        partition.high_watermark().get() != *seen || partition.check_leader().is_err()
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
        let waiting = self.waiting.lock();
        waiting
            .as_ref()
            .is_some_and(|(_, plan)| read_all(&plan.limits, &plan.targets).is_enough(&plan.limits))
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
        let before = self.arrived_bytes.fetch_add(bytes.min(u64::from(u32::MAX)), Ordering::AcqRel);
        bytes == u64::MAX || before.saturating_add(bytes) >= self.needed_bytes
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
