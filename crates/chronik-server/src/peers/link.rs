//! What waits to be sent to one peer.
//!
//! The Raft thread puts messages in and never waits; the connection's task takes them out. While there is no
//! connection nothing is kept: what is new when the peer returns serves it better.

use bytes::Bytes;
use chronik_raft::{Dropped, PeerMessage, PeerQueue};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::Peer;

/// The way to one peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Peer,
    state: Mutex<State>,
    /// A message waits.
    pub(crate) message_queued: Notify,
    /// A snapshot waits.
    pub(crate) snapshot_queued: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_connected: bool,
    queue: PeerQueue,
    snapshot: Snapshot,
}

/// A peer is sent one snapshot at a time.
#[derive(Debug, Default)]
enum Snapshot {
    #[default]
    None,
    Waiting(Bytes),
    UnderWay,
}

impl Link {
    pub(crate) fn new(peer: Peer) -> Self {
        Self { peer, state: Mutex::default(), message_queued: Notify::new(), snapshot_queued: Notify::new() }
    }

    /// Takes a message for the peer.
    pub(crate) fn send(&self, message: PeerMessage) -> Result<(), Dropped> {
        let mut state = self.state.lock();
        if !state.is_connected {
            return Err(Dropped);
        }
        if message.is_snapshot {
            if !matches!(state.snapshot, Snapshot::None) {
                return Err(Dropped);
            }
            state.snapshot = Snapshot::Waiting(message.bytes);
            drop(state);
            self.snapshot_queued.notify_one();
        } else {
            state.queue.push(message)?;
            drop(state);
            self.message_queued.notify_one();
        }
        Ok(())
    }

    /// From now on messages are taken.
    pub(crate) fn connected(&self) {
        let mut state = self.state.lock();
        state.queue.clear();
        state.is_connected = true;
    }

    /// From now on messages are dropped, as are those that wait.
    pub(crate) fn disconnected(&self) {
        let mut state = self.state.lock();
        state.is_connected = false;
        state.queue.clear();
        if matches!(state.snapshot, Snapshot::Waiting(_)) {
            state.snapshot = Snapshot::None;
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.state.lock().is_connected
    }

    /// The oldest message that waits.
    pub(crate) fn next_message(&self) -> Option<Bytes> {
        self.state.lock().queue.pop().map(|message| message.bytes)
    }

    /// The snapshot that waits; no other is taken until [`Link::snapshot_ended`].
    pub(crate) fn next_snapshot(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        match std::mem::take(&mut state.snapshot) {
            Snapshot::Waiting(bytes) => {
                state.snapshot = Snapshot::UnderWay;
                Some(bytes)
            }
            other @ (Snapshot::None | Snapshot::UnderWay) => {
                state.snapshot = other;
                None
            }
        }
    }

    /// The snapshot has arrived or been given up.
    pub(crate) fn snapshot_ended(&self) {
        self.state.lock().snapshot = Snapshot::None;
    }
}

#[cfg(test)]
mod tests {
    use chronik_types::NodeId;

    use super::*;

    fn message(len_bytes: usize, is_snapshot: bool) -> PeerMessage {
        PeerMessage { bytes: Bytes::from(vec![0; len_bytes]), is_snapshot }
    }

    #[test]
    fn nothing_is_kept_for_a_peer_that_is_away() {
        let peer = Peer { id: NodeId(2), host: "localhost".to_owned(), kafka_port: 1, raft_port: 2 };
        let link = Link::new(peer);
        assert_eq!(link.send(message(1, false)), Err(Dropped));
        link.connected();
        assert_eq!(link.send(message(1, false)), Ok(()));
        assert_eq!(link.send(message(9, true)), Ok(()));
        assert_eq!(link.send(message(9, true)), Err(Dropped), "one snapshot at a time");
        assert_eq!(link.next_snapshot().map(|bytes| bytes.len()), Some(9));
        assert_eq!((link.next_snapshot(), link.send(message(9, true))), (None, Err(Dropped)));
        link.snapshot_ended();
        assert_eq!(link.send(message(8, true)), Ok(()));
        link.disconnected();
        link.connected();
        assert_eq!((link.next_message(), link.next_snapshot()), (None, None));
        for _ in 0..PeerQueue::MESSAGES_MAX {
            assert_eq!(link.send(message(1, false)), Ok(()));
        }
        assert_eq!(link.send(message(1, false)), Err(Dropped), "the queue is bounded");
    }
}
