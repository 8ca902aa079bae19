//! What a node wants of the world. Nodes call out in the middle of their work; the world hears of it afterwards, in
//! order.

use std::sync::Arc;

use bytes::Bytes;
use chronik_broker::{Answered, ControllerLink, Lane, PeerAnswer, PeerClient, Reply, Responder};
use chronik_raft::metadata::{CommandBatch, MetadataImage, PartitionImage};
use chronik_raft::{
    BarrierDone, Dropped, MetadataListener, MetadataLog, PeerMessage, ProposalDone, QuorumState, RaftHandle,
    Transport,
};
use chronik_types::{MonotonicMs, NodeId, PartitionIndex, Term, TopicId};
use parking_lot::Mutex;

/// What a node does besides answering requests: on a server, each is a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// The metadata log.
    Raft,
    /// Deadlines of parked requests.
    Timers,
    /// The controller's duties.
    Controller,
    /// Checkpoints, retention, removals.
    Maintenance,
    /// Syncing of logs.
    Flush,
    /// Registration, until the node serves.
    Ready,
    /// Ending in good order.
    Leave,
}

impl Duty {
    pub(super) const COUNT: usize = 7;
}

/// A life of a node: one process, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life {
    pub(super) node: usize,
    pub(super) number: u64,
}

/// One thing that a node wants.
pub(super) enum Effect {
    /// A duty is due, at once where the time has passed.
    Due { life: Life, duty: Duty, at_ms: u64 },
    /// A message of the metadata log.
    Raft { life: Life, to: NodeId, message: PeerMessage },
    /// A follower asks its leader.
    Fetch { life: Life, to: NodeId, lane: Lane, frame: Bytes, done: PeerAnswer },
    /// A node asks the controller.
    Ask { life: Life, to: NodeId, frame: Bytes, done: Answered },
    /// A log directory has gone offline, and the process ends with it.
    Failed { life: Life },
    /// A request is answered.
    Reply { request: u64, reply: Reply },
    /// The node has another image.
    Image {
        life: Life,
        image: Arc<MetadataImage>,
        changed: Vec<(TopicId, PartitionIndex, Arc<PartitionImage>)>,
        deleted: Vec<TopicId>,
    },
}

/// Where all nodes leave what they want.
#[derive(Clone, Default)]
pub(super) struct Effects(Arc<Mutex<Vec<Effect>>>);

impl Effects {
    pub(super) fn push(&self, effect: Effect) {
        self.0.lock().push(effect);
    }

    pub(super) fn take(&self) -> Vec<Effect> {
        std::mem::take(&mut *self.0.lock())
    }

    pub(super) fn due(&self, life: Life, duty: Duty, at_ms: u64) {
        self.push(Effect::Due { life, duty, at_ms });
    }

    /// What answers a request; one that is dropped closes the connection.
    pub(super) fn responder(&self, request: u64) -> Responder {
        let mut waiting = Waiting { effects: self.clone(), request, is_answered: false };
        Box::new(move |reply| {
            waiting.is_answered = true;
            waiting.effects.push(Effect::Reply { request, reply });
        })
    }
}

struct Waiting {
    effects: Effects,
    request: u64,
    is_answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_answered {
            let reply = Reply::Close("the request was dropped".to_owned());
            self.effects.push(Effect::Reply { request: self.request, reply });
        }
    }
}

/// Which peers the metadata log's connections lead to at the moment, shared by all nodes.
#[derive(Clone)]
pub(super) struct PeersUp(Arc<Mutex<Vec<Vec<bool>>>>);

impl PeersUp {
    pub(super) fn new(node_count: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![vec![true; node_count]; node_count])))
    }

    pub(super) fn set(&self, from: usize, to: usize, is_up: bool) {
        self.0.lock()[from][to] = is_up;
    }

    pub(super) fn is_up(&self, from: usize, to: usize) -> bool {
        self.0.lock()[from].get(to).copied().unwrap_or(false)
    }
}

/// The position of a node among all nodes.
pub(super) fn position(node: NodeId) -> usize {
    usize::try_from(node.get()).unwrap_or(1).saturating_sub(1)
}

/// The id of the node at a position.
pub(super) fn node_id(position: usize) -> NodeId {
    NodeId(i32::try_from(position).unwrap_or(0).saturating_add(1))
}

/// The metadata log's way out of a node.
pub(super) struct Outbox {
    pub(super) life: Life,
    pub(super) up: PeersUp,
    pub(super) effects: Effects,
}

impl Transport for Outbox {
    fn send(&mut self, to: NodeId, message: PeerMessage) -> Result<(), Dropped> {
        if !self.up.is_up(self.life.node, position(to)) {
            return Err(Dropped);
        }
        self.effects.push(Effect::Raft { life: self.life, to, message });
        Ok(())
    }
}

/// The way to leaders and to the controller.
pub(super) struct Links {
    pub(super) life: Life,
    pub(super) effects: Effects,
}

impl PeerClient for Links {
    fn call(&self, to: NodeId, lane: Lane, _address: (String, u16), frame: Bytes, done: PeerAnswer) {
        self.effects.push(Effect::Fetch { life: self.life, to, lane, frame, done });
    }
}

impl ControllerLink for Links {
    fn ask(&self, to: NodeId, frame: Bytes, done: Answered) {
        self.effects.push(Effect::Ask { life: self.life, to, frame, done });
    }
}

/// The metadata log as a broker sees it: whatever is asked of it makes its duty due.
pub(super) struct Metadata {
    pub(super) handle: RaftHandle,
    pub(super) life: Life,
    pub(super) effects: Effects,
}

impl Metadata {
    fn wake(&self) {
        self.effects.due(self.life, Duty::Raft, 0);
    }
}

impl MetadataLog for Metadata {
    fn propose(&self, batch: CommandBatch, done: ProposalDone) {
        self.handle.propose(batch, done);
        self.wake();
    }

    fn propose_as_leader(&self, term: Term, batch: CommandBatch, done: ProposalDone) {
        self.handle.propose_as_leader(term, batch, done);
        self.wake();
    }

    fn barrier(&self, done: BarrierDone) {
        self.handle.barrier(done);
        self.wake();
    }

    fn set_broker_incarnation(&self, incarnation: u128) {
        self.handle.set_broker_incarnation(incarnation);
        self.wake();
    }

    // Not the trait's own answer, with which a broker that is cut off takes itself for the leader for ever (ADR 13).
    fn contact_until(&self) -> MonotonicMs {
        self.handle.contact_until()
    }

    fn image(&self) -> Arc<MetadataImage> {
        self.handle.image()
    }

    fn subscribe(&self, listener: MetadataListener) {
        self.handle.subscribe(listener);
    }

    fn quorum(&self) -> QuorumState {
        self.handle.quorum()
    }
}
