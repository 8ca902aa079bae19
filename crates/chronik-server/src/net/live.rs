//! The limits of connections that can be changed while the process runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chronik_broker::config::BrokerValues;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;

/// `max.connections` and `max.connections.per.ip`. Connections that are there stay when a limit falls below them; there
/// are new ones when enough of them have ended.
#[derive(Debug)]
pub struct LiveLimits {
    permits: Arc<Semaphore>,
    connections: Mutex<Connections>,
    connections_per_ip_max: AtomicU32,
}

#[derive(Debug)]
struct Connections {
    max: usize,
    /// Permits that are in use and must not come back.
    surplus_count: usize,
}

impl LiveLimits {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let max = limits.connections_max.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(max)),
            connections: Mutex::new(Connections { max, surplus_count: 0 }),
            connections_per_ip_max: AtomicU32::new(limits.connections_per_ip_max),
        })
    }

    /// Does what the broker configs say, and where they say nothing what was set at start.
    pub fn follow(&self, at_start: &Limits, values: &BrokerValues) {
        let set = |name: &str| values.get(name).and_then(|value| value.parse::<u32>().ok());
        let max = set("max.connections").and_then(|max| usize::try_from(max).ok());
        // What was found at start is never exceeded: open files set a limit too.
        let max = max.map_or(at_start.connections_max, |max| max.min(at_start.connections_possible_max));
        self.set_connections_max(max);
        let per_ip_max = set("max.connections.per.ip").unwrap_or(at_start.connections_per_ip_max);
        self.set_connections_per_ip_max(per_ip_max);
    }

    /// Changes how many clients may be connected.
    pub fn set_connections_max(&self, max: usize) {
        let max = max.min(Semaphore::MAX_PERMITS);
        let mut connections = self.connections.lock();
        if connections.max < max {
            let more = max - connections.max;
            let kept = more.min(connections.surplus_count);
            connections.surplus_count -= kept;
            self.permits.add_permits(more - kept);
        } else {
            let less = connections.max - max;
            connections.surplus_count += less - self.permits.forget_permits(less);
        }
        connections.max = max;
    }

    /// Changes how many clients may be connected from one address.
    pub fn set_connections_per_ip_max(&self, max: u32) {
        self.connections_per_ip_max.store(max, Ordering::Relaxed);
    }

    pub(super) fn connections_per_ip_max(&self) -> u32 {
        self.connections_per_ip_max.load(Ordering::Relaxed)
    }

    /// Waits for leave to have one more client.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Gives back what [`acquire`](Self::acquire) gave.
    pub(super) fn release(&self, permit: OwnedSemaphorePermit) {
        let mut connections = self.connections.lock();
        if connections.surplus_count == 0 {
            drop(permit);
        } else {
            connections.surplus_count -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_connections_follows_its_limit() {
        let limits = LiveLimits::new(&Limits { connections_max: 3, ..Limits::default() });
        let available = || limits.permits.available_permits();
        let take = || Arc::clone(&limits.permits).try_acquire_owned();
        let held: Vec<_> = (0..3).map(|_| take().expect("a permit")).collect();
        limits.set_connections_max(1);
        assert_eq!(available(), 0);
        let mut held = held.into_iter();
        limits.release(held.next().expect("held"));
        assert_eq!(available(), 0, "two are left, and one is allowed");
        limits.set_connections_max(2);
        limits.release(held.next().expect("held"));
        assert_eq!(available(), 1);
        limits.set_connections_max(5);
        assert_eq!(available(), 4);
        limits.release(held.next().expect("held"));
        assert_eq!(available(), 5);
        let at_start = Limits { connections_max: 3, connections_possible_max: 4, ..Limits::default() };
        let follow = |value: Option<&str>| {
            let set = value.map(|value| ("max.connections".to_owned(), value.to_owned()));
            limits.follow(&at_start, &set.into_iter().collect());
            available()
        };
        assert_eq!((follow(None), follow(Some("2")), follow(Some("9"))), (3, 2, 4));
        limits.set_connections_max(0);
        assert_eq!(available(), 0);
        assert!(take().is_err());
    }
}
