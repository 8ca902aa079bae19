//! What the sockets ask of the broker.

use std::sync::Arc;

use bytes::BytesMut;
use chronik_broker::{Connection, Responder};
use chronik_types::Now;

/// Answers requests. The listener calls it from many threads at once.
pub trait Service: Send + Sync + 'static {
    /// Runs one request, or parks it with its responder. `frame` is the request without its 4-byte length. The
    /// requests of one connection come one after the other, in the order in which the client sent them.
    fn handle(&self, now: Now, connection: &Arc<Connection>, frame: BytesMut, responder: Responder);

    /// Says that a connection is gone, so that what is parked for it can go too. Called once per connection,
    /// after [`Connection::mark_closed`].
    fn connection_closed(&self, now: Now, connection: &Arc<Connection>);

    /// Says that the process is about to end: what is parked is to be answered now, and nothing parked any more.
    fn stopping(&self, _now: Now) {}
}
