//! A node of the quorum with its inbox: what one thread drives, and what all others reach it by.
//!
//! The server's Raft thread runs `loop { handle.wait(…); driver.poll(now) }`; a simulation calls
//! [`RaftDriver::poll`] and nothing else. All that arrives between two polls shares one write and one sync.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use chronik_disk::Disk;
use chronik_types::{MonotonicMs, NodeId, Term};
use parking_lot::{Condvar, Mutex};

use crate::log::{BarrierDone, MetadataListener, MetadataLog, ProposalDone, ProposeError, QuorumState};
use crate::metadata::{CommandBatch, Delta, MetadataImage};
use crate::metrics::RaftMetrics;
use crate::node::{LivenessListener, Observer, RaftConfig, RaftError, RaftNode, StepError};
use crate::transport::Transport;

/// How long a tick is: with ten of them without a leader an election starts.
pub const TICK_MS: u64 = 50;

/// Proposals that wait for the Raft thread; more are refused with [`ProposeError::Busy`].
const PROPOSALS_WAITING_MAX: usize = 4096;

/// Barriers that wait for the Raft thread; more are refused with [`ProposeError::Busy`].
const BARRIERS_WAITING_MAX: usize = 4096;

/// Messages that wait for the Raft thread; more are dropped, which Raft allows for.
const MESSAGES_WAITING_MAX: usize = 4096;

/// The same in bytes; one message is always taken.
const MESSAGES_WAITING_BYTES_MAX: usize = 64 << 20;

/// News of peers and of this node that wait for the Raft thread; there are a few for each peer at any time.
const NEWS_WAITING_MAX: usize = 1024;

/// Ticks that one poll makes up for. A thread that was held up for longer must not take its own sleep for its
/// leader's.
const TICKS_PER_POLL_MAX: u64 = 2;

/// What reaches a node.
enum Event {
    Propose { batch: CommandBatch, only_term: Option<Term>, done: ProposalDone },
    Barrier { done: BarrierDone },
    Message { from: NodeId, bytes: Bytes },
    PeerUnreachable { peer: NodeId },
    SnapshotFinished { peer: NodeId, arrived: bool },
    Campaign,
    TransferLeadership { to: NodeId },
    PeerGone { peer: NodeId },
    BrokerIncarnation { incarnation: u128 },
}

impl Event {
    /// Answers what will never be handled.
    fn refuse(self, reason: &str) {
        let error = ProposeError::Stopped { reason: reason.to_owned() };
        match self {
            Self::Propose { done, .. } => done(Err(error)),
            Self::Barrier { done } => done(Err(error)),
            Self::Message { .. }
            | Self::PeerUnreachable { .. }
            | Self::SnapshotFinished { .. }
            | Self::Campaign
            | Self::TransferLeadership { .. }
            | Self::PeerGone { .. }
            | Self::BrokerIncarnation { .. } => {}
        }
    }
}

/// What the driver and its handles share.
struct Shared {
    node_id: NodeId,
    image: ArcSwap<MetadataImage>,
    quorum: ArcSwap<QuorumState>,
    /// Held while an image is published, so that a new listener misses nothing.
    listener: Mutex<Option<MetadataListener>>,
    liveness_listener: Mutex<Option<LivenessListener>>,
    metrics: Mutex<RaftMetrics>,
    cluster_id: Mutex<Option<Arc<str>>>,
    /// Whether this node is the only one that there is, so that its image is always the newest.
    alone: AtomicBool,
    /// See [`RaftNode::contact_until`].
    contact_until: AtomicU64,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
}

#[derive(Default)]
struct Inbox {
    events: VecDeque<Event>,
    proposal_count: usize,
    barrier_count: usize,
    message_count: usize,
    message_bytes: usize,
    news_count: usize,
    /// A wait that has not begun yet is to end at once.
    woken: bool,
    /// Why the node takes no more.
    stopped: Option<String>,
}

/// Publishes images to readers and to the listener.
struct Publisher(Arc<Shared>);

impl Observer for Publisher {
    fn image_changed(&mut self, image: &Arc<MetadataImage>, delta: &Delta) {
        let listener = self.0.listener.lock();
        self.0.image.store(Arc::clone(image));
        if let Some(listener) = listener.as_ref() {
            listener(image, delta);
        }
    }
}

/// A node of the quorum, driven by one thread.
pub struct RaftDriver {
    node: RaftNode,
    shared: Arc<Shared>,
    last_tick: Option<MonotonicMs>,
    stopped: Option<Arc<RaftError>>,
}

impl RaftDriver {
    /// Opens a node's directory. The image of a node that is the only voter is complete, and the node leads, after
    /// the first [`RaftDriver::poll`].
    pub fn open(
        config: RaftConfig,
        disk: Arc<dyn Disk>,
        dir: &Path,
        transport: Box<dyn Transport>,
    ) -> Result<Self, RaftError> {
        let shared = Arc::new(Shared {
            node_id: config.node_id,
            image: ArcSwap::from_pointee(MetadataImage::default()),
            quorum: ArcSwap::from_pointee(QuorumState::default()),
            listener: Mutex::new(None),
            liveness_listener: Mutex::new(None),
            metrics: Mutex::new(RaftMetrics::default()),
            cluster_id: Mutex::new(None),
            alone: AtomicBool::new(false),
            contact_until: AtomicU64::new(0),
            inbox: Mutex::new(Inbox::default()),
            arrived: Condvar::new(),
        });
        let publisher = Box::new(Publisher(Arc::clone(&shared)));
        let node = RaftNode::open(config, disk, dir, transport, publisher)?;
        shared.image.store(Arc::clone(node.image()));
        shared.quorum.store(Arc::new(node.quorum()));
        *shared.cluster_id.lock() = node.cluster_id().cloned();
        Ok(Self { node, shared, last_tick: None, stopped: None })
    }

    /// A handle for other threads.
    pub fn handle(&self) -> RaftHandle {
        RaftHandle { shared: Arc::clone(&self.shared) }
    }

    /// Does all that there is to do, and says when to come back if nothing arrives before; `None` for "whenever
    /// something does".
    ///
    /// An error is final: the node has stopped taking part, every proposal has been answered, and its data must
    /// be looked at by a human. Further calls do nothing and tell the same.
    pub fn poll(&mut self, now: MonotonicMs) -> Result<Option<MonotonicMs>, Arc<RaftError>> {
        if let Some(error) = &self.stopped {
            return Err(Arc::clone(error));
        }
        match self.run(now) {
            Ok(()) => Ok(self.next_wakeup(now)),
            Err(error) => Err(self.stop(error)),
        }
    }

    /// The node itself, for tests and metrics.
    pub fn node(&self) -> &RaftNode {
        &self.node
    }

    fn run(&mut self, now: MonotonicMs) -> Result<(), RaftError> {
        self.pass_time(now);
        let events = {
            let mut inbox = self.shared.inbox.lock();
            inbox.proposal_count = 0;
            inbox.barrier_count = 0;
            inbox.message_count = 0;
            inbox.message_bytes = 0;
            inbox.news_count = 0;
            std::mem::take(&mut inbox.events)
        };
        for event in events {
            match event {
                Event::Propose { batch, only_term, done } => self.node.propose(now, batch, only_term, done),
                Event::Barrier { done } => self.node.barrier(done),
                Event::Message { from, bytes } => match self.node.step(now, from, bytes) {
                    Ok(()) => {}
                    Err(StepError::Fatal(error)) => return Err(error),
                    Err(error @ (StepError::Wire { .. } | StepError::Misdirected { .. })) => {
                        let reason = chain(&error);
                        tracing::warn!(%from, %reason, "a message of another node was dropped");
                    }
                },
                Event::PeerUnreachable { peer } => self.node.peer_unreachable(peer),
                Event::SnapshotFinished { peer, arrived } => self.node.snapshot_finished(peer, arrived),
                Event::Campaign => self.node.campaign(),
                Event::TransferLeadership { to } => self.node.transfer_leadership(to),
                Event::PeerGone { peer } => self.node.peer_gone(peer),
                Event::BrokerIncarnation { incarnation } => self.node.set_broker_incarnation(incarnation),
            }
        }
        self.node.advance(now)?;
        self.tell_liveness(now);
        let quorum = self.node.quorum();
        if **self.shared.quorum.load() != quorum {
            self.shared.quorum.store(Arc::new(quorum));
        }
        self.shared.alone.store(self.is_alone(), Ordering::Release);
        self.shared.contact_until.store(self.node.contact_until().0, Ordering::Release);
        *self.shared.metrics.lock() = self.node.metrics();
        *self.shared.cluster_id.lock() = self.node.cluster_id().cloned();
        Ok(())
    }

    /// Whether no other node can have answered anything that this one has not applied.
    fn is_alone(&self) -> bool {
        self.node.is_only_voter() && self.node.is_leader() && !self.node.is_stalled()
    }

    fn tell_liveness(&mut self, now: MonotonicMs) {
        let listener = self.shared.liveness_listener.lock();
        let Some(listener) = listener.as_ref() else { return };
        let changes = self.node.liveness_changes(now);
        if !changes.is_empty() {
            listener(Term(self.node.quorum().term.get()), &changes);
        }
    }

    fn pass_time(&mut self, now: MonotonicMs) {
        let last = *self.last_tick.get_or_insert(now);
        let due_count = now.since_ms(last).checked_div(TICK_MS).unwrap_or_default();
        for _ in 0..due_count.min(TICKS_PER_POLL_MAX) {
            self.node.tick();
        }
        // What is beyond the limit is forgotten, not made up for later.
        self.last_tick = Some(last.plus_ms(due_count.saturating_mul(TICK_MS)));
    }

    fn next_wakeup(&self, now: MonotonicMs) -> Option<MonotonicMs> {
        // A listener may have proposed.
        if !self.shared.inbox.lock().events.is_empty() {
            return Some(now);
        }
        let tick = self.last_tick.unwrap_or(now).plus_ms(TICK_MS);
        if self.node.is_only_voter() && !self.node.is_stalled() {
            return self.node.next_deadline();
        }
        Some(self.node.next_deadline().map_or(tick, |deadline| deadline.min(tick)))
    }

    fn stop(&mut self, error: RaftError) -> Arc<RaftError> {
        let reason = chain(&error);
        tracing::error!(node_id = %self.shared.node_id, %reason, "the metadata log has stopped");
        let error = Arc::new(error);
        self.stopped = Some(Arc::clone(&error));
        let events = {
            let mut inbox = self.shared.inbox.lock();
            inbox.stopped = Some(reason.clone());
            std::mem::take(&mut inbox.events)
        };
        let quorum =
            QuorumState { is_leader: false, leader: None, ..QuorumState::clone(&self.shared.quorum.load()) };
        self.shared.quorum.store(Arc::new(quorum));
        self.shared.alone.store(false, Ordering::Release);
        self.node.fail_pending(&reason);
        for event in events {
            event.refuse(&reason);
        }
        error
    }
}

impl Drop for RaftDriver {
    /// Answers what is still asked: every `done` is called, whatever happens.
    fn drop(&mut self) {
        if self.stopped.is_none() {
            let reason = "this node is shutting down".to_owned();
            let events = {
                let mut inbox = self.shared.inbox.lock();
                inbox.stopped = Some(reason.clone());
                std::mem::take(&mut inbox.events)
            };
            self.shared.alone.store(false, Ordering::Release);
            self.node.fail_pending(&reason);
            for event in events {
                event.refuse(&reason);
            }
        }
    }
}

/// Reaches a [`RaftDriver`] from any thread.
#[derive(Clone)]
pub struct RaftHandle {
    shared: Arc<Shared>,
}

impl RaftHandle {
    /// Waits until something has arrived for the driver, or this much time has passed. For the Raft thread; it is
    /// the only call of this crate that waits.
    pub fn wait(&self, at_most: Option<Duration>) {
        let mut inbox = self.shared.inbox.lock();
        if inbox.events.is_empty() && !inbox.woken {
            match at_most {
                Some(at_most) => {
                    self.shared.arrived.wait_for(&mut inbox, at_most);
                }
                None => self.shared.arrived.wait(&mut inbox),
            }
        }
        inbox.woken = false;
    }

    /// Ends a wait, or the next one where there is none, as when the server stops.
    pub fn wake(&self) {
        self.shared.inbox.lock().woken = true;
        self.shared.arrived.notify_one();
    }

    /// Takes a message of a peer, as it came. Where too many wait, it is dropped.
    pub fn receive(&self, from: NodeId, bytes: Bytes) {
        {
            let mut inbox = self.shared.inbox.lock();
            if inbox.stopped.is_some() {
                return;
            }
            let total_bytes = inbox.message_bytes.saturating_add(bytes.len());
            if inbox.message_count == MESSAGES_WAITING_MAX
                || inbox.message_bytes != 0 && MESSAGES_WAITING_BYTES_MAX < total_bytes
            {
                tracing::debug!(%from, "a message of another node was dropped: too many wait");
                return;
            }
            inbox.message_count += 1;
            inbox.message_bytes = total_bytes;
            inbox.events.push_back(Event::Message { from, bytes });
        }
        self.shared.arrived.notify_one();
    }

    /// A peer cannot be reached, or its connection was lost.
    pub fn peer_unreachable(&self, peer: NodeId) {
        self.put(Event::PeerUnreachable { peer });
    }

    /// A snapshot has arrived at a peer, or has been given up.
    pub fn snapshot_finished(&self, peer: NodeId, arrived: bool) {
        self.put(Event::SnapshotFinished { peer, arrived });
    }

    /// The leader is gone: its connection was closed and a probe of it refused.
    pub fn leader_gone(&self) {
        self.put(Event::Campaign);
    }

    /// Hands the leadership to another node.
    pub fn transfer_leadership(&self, to: NodeId) {
        self.put(Event::TransferLeadership { to });
    }

    /// The process on a node has ended: its connection was closed and a probe of it refused. Every node may be told
    /// of every other; the leader's word for it reaches the liveness listener.
    pub fn peer_gone(&self, peer: NodeId) {
        self.put(Event::PeerGone { peer });
    }

    /// Sets who is told, where this node leads, of what it hears of brokers and the image does not say.
    pub fn set_liveness_listener(&self, listener: LivenessListener) {
        *self.shared.liveness_listener.lock() = Some(listener);
        self.wake();
    }

    /// The cluster that this node belongs to: what its directory remembers, even before the log has been applied
    /// again, and `None` only until the first entry that names the cluster is applied. Peers compare it.
    pub fn cluster_id(&self) -> Option<Arc<str>> {
        self.shared.cluster_id.lock().clone()
    }

    /// What the node has counted.
    pub fn metrics(&self) -> RaftMetrics {
        *self.shared.metrics.lock()
    }

    fn put(&self, event: Event) {
        {
            let mut inbox = self.shared.inbox.lock();
            if inbox.stopped.is_some() {
                return;
            }
            if inbox.news_count == NEWS_WAITING_MAX {
                tracing::warn!("the metadata log's thread does not keep up, and misses news of its peers");
                return;
            }
            inbox.news_count += 1;
            inbox.events.push_back(event);
        }
        self.shared.arrived.notify_one();
    }

    fn put_proposal(&self, batch: CommandBatch, only_term: Option<Term>, done: ProposalDone) {
        let refused = {
            let mut inbox = self.shared.inbox.lock();
            if let Some(reason) = &inbox.stopped {
                Some((done, ProposeError::Stopped { reason: reason.clone() }))
            } else if inbox.proposal_count == PROPOSALS_WAITING_MAX {
                Some((done, ProposeError::Busy))
            } else {
                inbox.proposal_count += 1;
                inbox.events.push_back(Event::Propose { batch, only_term, done });
                None
            }
        };
        match refused {
            Some((done, error)) => done(Err(error)),
            None => {
                self.shared.arrived.notify_one();
            }
        }
    }
}

impl MetadataLog for RaftHandle {
    fn propose(&self, batch: CommandBatch, done: ProposalDone) {
        self.put_proposal(batch, None, done);
    }

    fn propose_as_leader(&self, term: Term, batch: CommandBatch, done: ProposalDone) {
        self.put_proposal(batch, Some(term), done);
    }

    fn set_broker_incarnation(&self, incarnation: u128) {
        self.put(Event::BrokerIncarnation { incarnation });
    }

    fn barrier(&self, done: BarrierDone) {
        // What a lone node has answered, its image holds.
        if self.shared.alone.load(Ordering::Acquire) {
            return done(Ok(self.image()));
        }
        let refused = {
            let mut inbox = self.shared.inbox.lock();
            if let Some(reason) = &inbox.stopped {
                Some((done, ProposeError::Stopped { reason: reason.clone() }))
            } else if inbox.barrier_count == BARRIERS_WAITING_MAX {
                Some((done, ProposeError::Busy))
            } else {
                inbox.barrier_count += 1;
                inbox.events.push_back(Event::Barrier { done });
                None
            }
        };
        match refused {
            Some((done, error)) => done(Err(error)),
            None => {
                self.shared.arrived.notify_one();
            }
        }
    }

    fn image(&self) -> Arc<MetadataImage> {
        self.shared.image.load_full()
    }

    fn contact_until(&self) -> MonotonicMs {
        MonotonicMs(self.shared.contact_until.load(Ordering::Acquire))
    }

    fn subscribe(&self, listener: MetadataListener) {
        let mut slot = self.shared.listener.lock();
        let image = self.shared.image.load_full();
        listener(&image, &Delta::between(&MetadataImage::default(), &image));
        *slot = Some(listener);
    }

    fn quorum(&self) -> QuorumState {
        QuorumState::clone(&self.shared.quorum.load())
    }
}

/// An error with all that led to it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
