//! A client's connection, as the broker knows it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

/// Tells connections apart for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of one client's connection. The server makes one for each socket that it accepts and shares it
/// with the broker.
pub struct Connection {
    /// This connection's number.
    pub id: ConnectionId,
    /// The address on this side, which is the one that the client dialled.
    pub local: SocketAddr,
    /// The client's address.
    pub peer: SocketAddr,
    /// The name of the listener that the client came by; `None` for the one that every broker has.
    pub listener: Option<Arc<str>>,
    /// Name and version of the client's software, once `ApiVersions` v3 or later has told them (KIP-511).
    pub client_software: OnceLock<(String, String)>,
    closed: AtomicBool,
    parked: Mutex<BTreeMap<u64, Arc<dyn Parked>>>,
}

/// A request that waits for something. Its connection holds it, so that it goes when the client does.
pub(crate) trait Parked: Send + Sync {
    /// The client is gone: forget the request and all that it holds.
    fn cancel(&self);
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} from {})", self.id, self.peer)
    }
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(id: ConnectionId, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            id,
            local,
            peer,
            listener: None,
            client_software: OnceLock::new(),
            closed: AtomicBool::new(false),
            parked: Mutex::default(),
        }
    }

    /// The same connection, by the listener of this name.
    #[must_use]
    pub fn by_listener(self, listener: Option<Arc<str>>) -> Self {
        Self { listener, ..self }
    }

    /// Says that the client is gone; nothing is parked for it from now on.
    pub fn mark_closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// The client is gone: everything that is parked for it is dropped, and nothing is parked from now on.
    pub(crate) fn close(&self) {
        self.mark_closed();
        let parked = std::mem::take(&mut *self.parked.lock());
        for request in parked.into_values() {
            request.cancel();
        }
    }

    pub(crate) fn park(&self, id: u64, request: Arc<dyn Parked>) {
        self.parked.lock().insert(id, request);
    }

    pub(crate) fn unpark(&self, id: u64) {
        let removed = self.parked.lock().remove(&id);
        drop(removed);
    }

    /// Whether the client is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}
