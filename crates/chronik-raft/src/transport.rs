//! How messages leave a node: bytes, in order, to one peer at a time.

use std::collections::VecDeque;

use bytes::Bytes;
use chronik_types::NodeId;

/// Carries messages to other nodes. Messages to one peer arrive in order or not at all; losing some is fine.
pub trait Transport: Send {
    /// Takes a message for a peer, without waiting. `Err` says that it was dropped, for want of room or of a
    /// connection; the node then probes that peer before it sends more.
    fn send(&mut self, to: NodeId, message: PeerMessage) -> Result<(), Dropped>;
}

/// A message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped;

/// A message for a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// What the peer is to hand to its own node.
    pub bytes: Bytes,
    /// Whether it is a snapshot: large, and sent beside the other messages rather than before them. Once it has
    /// arrived or been given up, the sender is told.
    pub is_snapshot: bool,
}

/// A transport for a node without peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, _to: NodeId, _message: PeerMessage) -> Result<(), Dropped> {
        Err(Dropped)
    }
}

/// Messages on their way to one peer, bounded by number and size.
#[derive(Debug, Default)]
pub struct PeerQueue {
    messages: VecDeque<PeerMessage>,
    queued_bytes: usize,
}

impl PeerQueue {
    /// A peer that is this many messages behind is better served by what is newest when it returns.
    pub const MESSAGES_MAX: usize = 1024;

    /// The most bytes that wait for one peer, snapshots aside: a few full appends.
    pub const BYTES_MAX: usize = 16 << 20;

    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message, unless there is no room. One message always fits into an empty queue.
    pub fn push(&mut self, message: PeerMessage) -> Result<(), Dropped> {
        let total_bytes = self.queued_bytes.saturating_add(message.bytes.len());
        if !self.messages.is_empty()
            && (Self::MESSAGES_MAX <= self.messages.len() || Self::BYTES_MAX < total_bytes)
        {
            return Err(Dropped);
        }
        self.queued_bytes = total_bytes;
        self.messages.push_back(message);
        Ok(())
    }

    /// Takes the oldest message.
    pub fn pop(&mut self) -> Option<PeerMessage> {
        let message = self.messages.pop_front()?;
        self.queued_bytes = self.queued_bytes.saturating_sub(message.bytes.len());
        Some(message)
    }

    /// Drops everything, as when the connection is lost.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The number of messages that wait.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len_bytes: usize) -> PeerMessage {
        PeerMessage { bytes: Bytes::from(vec![0; len_bytes]), is_snapshot: false }
    }

    #[test]
    fn a_queue_is_ordered_and_bounded() {
        let mut queue = PeerQueue::new();
        for len_bytes in 0..PeerQueue::MESSAGES_MAX {
            assert_eq!(queue.push(message(len_bytes)), Ok(()));
        }
        assert_eq!(queue.push(message(0)), Err(Dropped));
        assert_eq!(queue.pop(), Some(message(0)));
        assert_eq!(queue.pop(), Some(message(1)));
        assert_eq!(queue.push(message(7)), Ok(()));
        queue.clear();
        assert!(queue.is_empty());
        assert_eq!(queue.push(message(PeerQueue::BYTES_MAX + 1)), Ok(()));
        assert_eq!(queue.push(message(1)), Err(Dropped));
        queue.pop();
        assert_eq!((queue.len(), queue.push(message(1))), (0, Ok(())));
    }
}
