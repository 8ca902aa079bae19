//! What happens at its time, and the order of what happens at the same.

use bytes::Bytes;

use super::effects::{Duty, Life};
use super::network::{Answer, Endpoint, Network};

/// Something that happens at its time.
pub(super) enum Event {
    /// A duty of a process.
    Duty { life: Life, duty: Duty },
    /// A message of the metadata log arrives.
    Raft { from: usize, to: usize, bytes: Bytes, is_snapshot: bool },
    /// A peer's connection is lost.
    PeerLost { at: usize, peer: usize },
    /// A peer's port is tried.
    PeerTried { at: usize, peer: usize },
    /// A follower of a leader that is gone campaigns.
    Campaign { at: usize, peer: usize },
    /// A machine, or a process on it, starts.
    Start { node: usize },
    /// A process is killed, if it still runs.
    Kill { life: Life },
    /// A process goes on.
    Resume { node: usize },
    /// A request arrives at its server.
    Request { stream: u64, request: u64, frame: Bytes },
    /// An answer arrives at its asker.
    Response { stream: u64, request: u64, answer: Answer },
    /// The asker's end of a connection is closed, and the server hears of it.
    Closed { stream: u64 },
    /// The server's end of a connection is gone, and the asker hears of it.
    Broken { stream: u64 },
    /// A request was never sent.
    Refused { request: u64 },
    /// A request has waited for long enough.
    Timeout { request: u64 },
    /// A client goes on.
    Wake { client: usize },
    /// Something goes wrong.
    Fault,
    /// The checkers look at what nodes know of themselves.
    Look,
    /// A disk has room again.
    DiskEmptied { node: usize },
    /// What has rotted on a disk is read again as it was.
    DiskRestored { node: usize },
}

impl Event {
    /// The node that must not stand still for the event to take place.
    pub(super) fn node(&self, network: &Network) -> Option<usize> {
        match self {
            Self::Duty { life, .. } => Some(life.node),
            Self::Raft { to, .. } => Some(*to),
            Self::PeerLost { at, .. } | Self::PeerTried { at, .. } | Self::Campaign { at, .. } => Some(*at),
            Self::Request { stream, .. } | Self::Closed { stream } => {
                network.streams.get(stream).map(|stream| stream.to)
            }
            Self::Response { stream, .. } | Self::Broken { stream } => {
                let from = network.streams.get(stream)?.from;
                if let Endpoint::Node(node) = from { Some(node) } else { None }
            }
            Self::Start { .. }
            | Self::Kill { .. }
            | Self::Resume { .. }
            | Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Wake { .. }
            | Self::Fault
            | Self::Look
            | Self::DiskEmptied { .. }
            | Self::DiskRestored { .. } => None,
        }
    }

    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Duty { life, duty } => 100 + life.number * 1_000 + (life.node * 10) as u64 + *duty as u64,
            Self::Raft { from, to, bytes, .. } => u64::from(crc32c::crc32c(bytes)) + (from * 10 + to) as u64,
            Self::PeerLost { at, peer } => 1_000 + (at * 10 + peer) as u64,
            Self::PeerTried { at, peer } => 2_000 + (at * 10 + peer) as u64,
            Self::Campaign { at, peer } => 3_000 + (at * 10 + peer) as u64,
            Self::Start { node } => 4_000 + *node as u64,
            Self::Kill { life } => 30 + life.node as u64,
            Self::Resume { node } => 5_000 + *node as u64,
            Self::Request { request, frame, .. } => u64::from(crc32c::crc32c(frame)) + request,
            Self::Response { request, answer, .. } => u64::from(crc32c::crc32c(&answer.frame)) + request,
            Self::Closed { stream } => 6_000 + stream,
            Self::Broken { stream } => 7_000 + stream,
            Self::Refused { request } => 8_000 + request,
            Self::Timeout { request } => 9_000 + request,
            Self::Wake { client } => 10_000 + *client as u64,
            Self::Fault => 1,
            Self::Look => 2,
            Self::DiskEmptied { node } => 20 + *node as u64,
            Self::DiskRestored { node } => 40 + *node as u64,
        }
    }
}

pub(super) struct Scheduled {
    pub(super) at_ms: u64,
    pub(super) serial: u64,
    pub(super) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.serial).cmp(&(other.at_ms, other.serial))
    }
}
