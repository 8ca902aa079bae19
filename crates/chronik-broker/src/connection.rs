//! A client's connection, as the broker knows it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

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
#[derive(Debug)]
pub struct Connection {
    /// This connection's number.
    pub id: ConnectionId,
    /// The address on this side, which is the one that the client dialled.
    pub local: SocketAddr,
    /// The client's address.
    pub peer: SocketAddr,
    /// Name and version of the client's software, once `ApiVersions` v3 or later has told them (KIP-511).
    pub client_software: OnceLock<(String, String)>,
    closed: AtomicBool,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(id: ConnectionId, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { id, local, peer, client_software: OnceLock::new(), closed: AtomicBool::new(false) }
    }

    /// Says that the client is gone; nothing is parked for it from now on.
    pub fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the client is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}
