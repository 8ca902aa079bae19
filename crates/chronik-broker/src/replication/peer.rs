//! How a broker reaches another one.

use bytes::Bytes;
use chronik_types::NodeId;

/// The connections to one leader. Requests on one are answered in order, and one waits for what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Partitions that keep up. The leader holds the request until there is something to say.
    Main,
    /// Partitions that have just been taken up, however far they are behind. They neither wait for the others nor starve
    /// them.
    Newcomers,
}

impl Lane {
    pub(crate) const ALL: [Self; 2] = [Self::Main, Self::Newcomers];
}

/// Why there is no answer. The connection is of no more use.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerError(pub String);

/// Called once with the answer, without its length, or with why there is none. It may take its time: records are
/// written from within.
pub type PeerAnswer = Box<dyn FnOnce(Result<Bytes, PeerError>) + Send>;

/// Sends requests to other brokers.
pub trait PeerClient: Send + Sync {
    /// Sends a whole frame, its length included, to the broker at this address. Requests of one lane arrive in order;
    /// the caller has one under way on each. Never waits, and never calls `done` before it returns.
    fn call(&self, to: NodeId, lane: Lane, address: (String, u16), frame: Bytes, done: PeerAnswer);
}

/// For a broker without others.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeerClient;

impl PeerClient for NoPeerClient {
    fn call(&self, to: NodeId, _lane: Lane, _address: (String, u16), _frame: Bytes, _done: PeerAnswer) {
        tracing::error!("there is no way to broker {to}: this node was started without a cluster");
    }
}
