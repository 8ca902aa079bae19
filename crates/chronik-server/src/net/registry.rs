//! Which connections there are, and how they are all told to end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use chronik_broker::ConnectionId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::live::LiveLimits;
use super::outbox::Outbox;

/// How far the end of the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// All goes on.
    Open,
    /// No further request is read; what has been read is finished.
    Draining,
    /// Connections end where they stand.
    Aborting,
}

/// All connections of the process.
#[derive(Debug)]
pub(crate) struct Registry {
    limits: Arc<LiveLimits>,
    phase: AtomicU8,
    state: Mutex<State>,
    one_less: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    connections: BTreeMap<u64, Arc<Outbox>>,
    per_ip: BTreeMap<IpAddr, u32>,
}

impl Registry {
    pub(crate) fn new(limits: Arc<LiveLimits>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            phase: AtomicU8::new(Phase::Open as u8),
            state: Mutex::default(),
            one_less: Notify::new(),
        })
    }

    /// A place for a connection from `ip`, unless that address has its share already.
    pub(crate) fn admit(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let mut state = self.state.lock();
        let from_ip = state.per_ip.entry(ip).or_insert(0);
        if *from_ip >= self.limits.connections_per_ip_max() {
            if *from_ip == 0 {
                state.per_ip.remove(&ip);
            }
            return None;
        }
        *from_ip += 1;
        state.last_id += 1;
        let id = state.last_id;
        let outbox = Arc::new(Outbox::default());
        state.connections.insert(id, Arc::clone(&outbox));
        Some(Place { registry: Arc::clone(self), id, ip, outbox })
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.state.lock().connections.len()
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Open,
            1 => Phase::Draining,
            _ => Phase::Aborting,
        }
    }

    /// Moves on to a later phase and tells all connections.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        let all: Vec<_> = self.state.lock().connections.values().cloned().collect();
        for outbox in all {
            outbox.poke();
        }
    }

    /// Waits until no connection is left.
    pub(crate) async fn emptied(&self) {
        loop {
            let one_less = self.one_less.notified();
            if self.connection_count() == 0 {
                return;
            }
            one_less.await;
        }
    }
}

/// One connection's entry in the registry; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Place {
    registry: Arc<Registry>,
    id: u64,
    ip: IpAddr,
    outbox: Arc<Outbox>,
}

impl Place {
    pub(crate) fn id(&self) -> ConnectionId {
        ConnectionId(self.id)
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    pub(crate) fn phase(&self) -> Phase {
        self.registry.phase()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.registry.state.lock();
            state.connections.remove(&self.id);
            if let Some(from_ip) = state.per_ip.get_mut(&self.ip) {
                *from_ip = from_ip.saturating_sub(1);
                if *from_ip == 0 {
                    state.per_ip.remove(&self.ip);
                }
            }
        }
        self.registry.one_less.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Limits;

    fn limits() -> Arc<LiveLimits> {
        LiveLimits::new(&Limits { connections_per_ip_max: 2, ..Limits::default() })
    }

    #[test]
    fn an_address_gets_its_share_and_gets_it_again_when_one_ends() {
        let limits = limits();
        let registry = Registry::new(Arc::clone(&limits));
        let [here, there]: [IpAddr; 2] = [[127, 0, 0, 1].into(), [127, 0, 0, 2].into()];
        let first = registry.admit(here).expect("one");
        let second = registry.admit(here).expect("two");
        assert!(registry.admit(here).is_none());
        assert!(registry.admit(there).is_some());
        assert_ne!(first.id(), second.id());
        drop(first);
        assert!(registry.admit(here).is_some());
        limits.set_connections_per_ip_max(1);
        assert!(registry.admit(here).is_none());
        limits.set_connections_per_ip_max(3);
        assert!(registry.admit(here).is_some());
        drop(second);
        assert_eq!(registry.connection_count(), 0);
        assert!(registry.state.lock().per_ip.is_empty());
    }

    #[test]
    fn phases_only_go_forward() {
        let registry = Registry::new(limits());
        registry.enter(Phase::Aborting);
        registry.enter(Phase::Draining);
        assert_eq!(registry.phase(), Phase::Aborting);
    }
}
