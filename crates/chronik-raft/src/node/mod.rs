//! One node of the metadata quorum: the `raft` crate, its store, and the state machine, as one synchronous value.
//!
//! Time comes in as ticks, messages as bytes; messages go out through a [`Transport`], and changes of the image
//! through [`Observer`]. The order within [`RaftNode::advance`] is what safety rests on (RAFT-4): a leader's
//! messages may go before its own write, everyone else's promise something and wait for the sync.

mod contact;
mod liveness;
mod progress;
mod proposals;
mod reads;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::Disk;
use chronik_types::{LogIndex, MonotonicMs, NodeId, Term};
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType};
use raft::{GetEntriesContext, RawNode, Ready, SnapshotStatus, StateRole};
use thiserror::Error;

use crate::frame::{Body, Frame};
use crate::log::QuorumState;
use crate::membership::{self, MembershipError};
use crate::metadata::{Application, ApplyError, CommandBatch, Delta, MetadataImage, SnapshotError};
use crate::metrics::RaftMetrics;
use crate::slog_bridge;
use crate::store::{LogStore, StoreError, node_id, raft_id};
use crate::transport::{PeerMessage, Transport};
use crate::wire::{self, WireError};
use contact::Contact;
pub use contact::{CONTACT_INTERVAL_MS, CONTACT_TIMEOUT_MS};
use liveness::Liveness;
pub use liveness::{
    FENCED_HEARTBEAT_MS, FORMER_LEADER_MS, HEARTBEAT_MS, LIVENESS_CHECK_MS, LivenessChange, LivenessListener,
    SESSION_TIMEOUT_MS,
};
use progress::Progress;
use proposals::Proposals;
use reads::Reads;

/// The largest batch, encoded: a topic of 100,000 partitions fits.
pub const PROPOSAL_BYTES_MAX: usize = 32 << 20;

/// Proposals that are written and not yet committed, in bytes; more are refused with [`ProposeError::Busy`].
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;

/// Entries in one message to a follower, in bytes.
const APPEND_BYTES_MAX: u64 = 1 << 20;

/// Appends under way to one follower.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// Ticks between heartbeats and until an election, as many as raft recommends.
const HEARTBEAT_TICKS: usize = 2;
const ELECTION_TICKS: usize = 10;

/// How much later each further voter, by rank, starts an election. Distinct timeouts make elections deterministic
/// and collisions rare; two ticks are longer than a vote takes.
const ELECTION_STAGGER_TICKS: usize = 2;

/// What a node needs to know to start.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This node.
    pub node_id: NodeId,
    /// The nodes that vote when the cluster starts for the first time. Later the log says who votes.
    pub voters: Vec<NodeId>,
    /// Drawn at random when this process started, and never used again: it tells this process's requests from those
    /// of the one before.
    pub incarnation: u64,
    /// How long a proposal or a barrier may wait.
    pub proposal_timeout_ms: u64,
    /// A snapshot replaces the log when the log has more entries than this,
    pub snapshot_entries_max: u64,
    /// or more bytes than this and than four snapshots.
    pub snapshot_log_bytes_max: u64,
    /// How many entries before a snapshot stay, for followers that are a little behind: they need not be sent the
    /// whole image.
    pub retained_entries_max: usize,
}

impl RaftConfig {
    /// The usual limits. `incarnation` is a number that no process of this node has had before.
    pub fn new(node_id: NodeId, voters: Vec<NodeId>, incarnation: u64) -> Self {
        Self {
            node_id,
            voters,
            incarnation,
            proposal_timeout_ms: 5_000,
            snapshot_entries_max: 10_000,
            snapshot_log_bytes_max: 4 << 20,
            retained_entries_max: 1024,
        }
    }
}

/// Sees each new image before anyone is told of it.
pub trait Observer: Send {
    /// `image` is the newest; `delta` is how it differs from the one before.
    fn image_changed(&mut self, image: &Arc<MetadataImage>, delta: &Delta);
}

/// Why a node has stopped taking part. None of these mends itself.
#[derive(Debug, Error)]
pub enum RaftError {
    /// The directory cannot be used, or a write to it failed.
    #[error("the metadata log failed")]
    Store(#[from] StoreError),
    /// An entry cannot be applied.
    #[error("the metadata log cannot be applied")]
    Apply(#[from] ApplyError),
    /// A snapshot from the leader cannot be used.
    #[error("the leader's metadata snapshot cannot be used")]
    Snapshot(#[from] SnapshotError),
    /// A change of membership cannot be applied.
    #[error("a change of the metadata quorum cannot be applied")]
    Membership(#[from] MembershipError),
    /// The leader knows this node to have entries that it has not.
    #[error(
        "node {node} has lost metadata that it had confirmed: its log ends at entry {last_index}, and the leader counts on entry {counted_index}; remove it from the cluster and let it join again"
    )]
    LostEntries {
        /// This node.
        node: NodeId,
        /// Where its log ends.
        last_index: LogIndex,
        /// What it had confirmed.
        counted_index: LogIndex,
    },
    /// The metadata is that of another cluster.
    #[error(
        "the data directory of node {node} belongs to cluster '{own}', and the leader's metadata is of cluster '{found}'; check the list of peers, or give the node another data directory"
    )]
    OtherCluster {
        /// This node.
        node: NodeId,
        /// The cluster that its directory names.
        own: String,
        /// The cluster that the metadata names.
        found: String,
    },
    /// Raft refused.
    #[error("raft failed")]
    Raft(#[from] raft::Error),
}

/// Why a message of a peer was not taken. The node goes on.
#[derive(Debug, Error)]
pub enum StepError {
    /// It cannot be decoded.
    #[error("a message of node {from} cannot be decoded")]
    Wire {
        /// The peer.
        from: NodeId,
        /// What is wrong with it.
        #[source]
        source: WireError,
    },
    /// It says that it is from, or to, another node.
    #[error("node {from} sent a message from raft id {claimed_from} to raft id {claimed_to}")]
    Misdirected {
        /// The peer.
        from: NodeId,
        /// The sender that the message names.
        claimed_from: u64,
        /// The receiver that the message names.
        claimed_to: u64,
    },
    /// The node must stop.
    #[error(transparent)]
    Fatal(#[from] RaftError),
}

/// Who leads, and in which term; a leader of 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Leadership {
    leader: u64,
    term: u64,
}

/// One node of the metadata quorum.
pub struct RaftNode {
    config: RaftConfig,
    raw: RawNode<LogStore>,
    image: Arc<MetadataImage>,
    conf_state: ConfState,
    /// The time of the turn that is being taken.
    now: MonotonicMs,
    proposals: Proposals,
    reads: Reads,
    contact: Contact,
    liveness: Liveness,
    progress: Progress,
    metrics: RaftMetrics,
    transport: Box<dyn Transport>,
    observer: Box<dyn Observer>,
    /// A step that could not be written for want of room, and will be tried again.
    stalled: Option<Ready>,
    /// What became of snapshots meanwhile, the last word for each peer.
    snapshot_news: BTreeMap<u64, bool>,
    was_leader: bool,
    seen_term: u64,
    /// See [`QuorumState::leader_applied_index`].
    leader_applied_index: u64,
}

impl RaftNode {
    /// Opens a node's directory. A node that is the only voter leads from here on; its image is complete after
    /// the first [`RaftNode::advance`].
    pub fn open(
        config: RaftConfig,
        disk: Arc<dyn Disk>,
        dir: &Path,
        transport: Box<dyn Transport>,
        observer: Box<dyn Observer>,
    ) -> Result<Self, RaftError> {
        let (store, image) = LogStore::open(disk, dir, config.node_id, &config.voters)?;
        let state = raft::Storage::initial_state(&store)?;
        let id = raft_id(config.node_id);
        let rank = state.conf_state.voters.iter().filter(|voter| **voter < id).count();
        let election_ticks = ELECTION_TICKS.saturating_add(rank.saturating_mul(ELECTION_STAGGER_TICKS));
        let raft_config = raft::Config {
            id,
            applied: image.applied_index().get(),
            heartbeat_tick: HEARTBEAT_TICKS,
            election_tick: ELECTION_TICKS,
            min_election_tick: election_ticks,
            max_election_tick: election_ticks.saturating_add(1),
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let seen_term = state.hard_state.term;
        let proposals = Proposals::new(config.incarnation);
        let raw = RawNode::new(&raft_config, store, &slog_bridge::logger())?;
        let mut node = Self {
            config,
            raw,
            image: Arc::new(image),
            conf_state: state.conf_state,
            now: MonotonicMs(0),
            proposals,
            reads: Reads::default(),
            contact: Contact::default(),
            liveness: Liveness::default(),
            progress: Progress::default(),
            metrics: RaftMetrics::default(),
            transport,
            observer,
            stalled: None,
            snapshot_news: BTreeMap::new(),
            was_leader: false,
            seen_term,
            leader_applied_index: 0,
        };
        if node.is_only_voter() {
            node.metrics.elections_started_count = 1;
            node.raw.campaign()?;
        }
        Ok(node)
    }

    /// The newest image.
    pub fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether this node decides alone, so that neither ticks nor messages matter.
    pub fn is_only_voter(&self) -> bool {
        self.conf_state.voters == [raft_id(self.config.node_id)]
            && self.conf_state.voters_outgoing.is_empty()
            && self.conf_state.learners.is_empty()
    }

    /// Whether the disk is full and the node waits for room.
    pub fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// What this node has counted.
    pub fn metrics(&self) -> RaftMetrics {
        RaftMetrics {
            proposals_in_flight_count: self.proposals.len(),
            log_bytes: self.raw.store().wal_bytes(),
            ..self.metrics
        }
    }

    fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// The leader, where one is known.
    fn leader(&self) -> Option<NodeId> {
        node_id(self.raw.raft.leader_id)
    }

    fn leadership(&self) -> Leadership {
        Leadership { leader: self.raw.raft.leader_id, term: self.raw.raft.term }
    }

    /// How the quorum stands.
    pub fn quorum(&self) -> QuorumState {
        let nodes = |ids: &[u64]| ids.iter().filter_map(|id| node_id(*id)).collect();
        QuorumState {
            is_leader: self.is_leader(),
            leader: self.leader(),
            term: self.term(),
            commit_index: LogIndex(self.raw.raft.raft_log.committed),
            applied_index: self.image.applied_index(),
            leader_applied_index: LogIndex(self.leader_applied_index),
            voters: nodes(&self.conf_state.voters),
            learners: nodes(&self.conf_state.learners),
            replicas: self.replicas(),
        }
    }

    /// Lets one tick pass.
    pub fn tick(&mut self) {
        if self.stalled.is_none() {
            self.raw.tick();
        }
    }

    /// The leader's connection is closed, and its port refuses another: the first of the other voters starts an
    /// election at once, each further one a little later, so that they do not split the vote. Meanwhile this node
    /// no longer holds a vote back for the sake of that leader. Pre-vote makes it harmless when the leader lives: it
    /// is then heard of again, and the others have heard nothing else.
    pub fn campaign(&mut self) {
        let (own, leader) = (raft_id(self.config.node_id), self.raw.raft.leader_id);
        if self.stalled.is_some() || leader == own || leader == 0 {
            return;
        }
        let others = || self.conf_state.voters.iter().filter(|voter| **voter != leader);
        if !others().any(|voter| *voter == own) {
            return;
        }
        let rank = others().filter(|voter| **voter < own).count();
        if rank == 0 {
            if let Err(error) = self.raw.campaign() {
                tracing::debug!(%error, "no election was started");
            }
            return;
        }
        let raft = &mut self.raw.raft;
        raft.leader_id = 0;
        raft.election_elapsed = raft
            .randomized_election_timeout()
            .saturating_sub(rank.saturating_mul(ELECTION_STAGGER_TICKS))
            .max(raft.election_elapsed);
    }

    /// Hands the leadership over, as before a planned stop.
    pub fn transfer_leadership(&mut self, to: NodeId) {
        if self.stalled.is_none() && self.is_leader() {
            self.raw.transfer_leader(raft_id(to));
        }
    }

    /// A peer cannot be reached: what was sent to it last is lost.
    pub fn peer_unreachable(&mut self, peer: NodeId) {
        if self.stalled.is_none() {
            self.raw.report_unreachable(raft_id(peer));
        }
        // A snapshot on its way is lost as well; without this word that follower would be sent nothing more.
        self.snapshot_finished(peer, false);
    }

    /// A snapshot has arrived at a peer, or has been given up.
    pub fn snapshot_finished(&mut self, peer: NodeId, arrived: bool) {
        if self.stalled.is_some() {
            // Raft cannot be told in the middle of a step, and would wait for the word for ever.
            self.snapshot_news.insert(raft_id(peer), arrived);
            return;
        }
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(raft_id(peer), status);
    }

    /// Takes a message of a peer.
    pub fn step(&mut self, now: MonotonicMs, from: NodeId, bytes: Bytes) -> Result<(), StepError> {
        self.now = now;
        let frame = Frame::decode(bytes).map_err(|source| StepError::Wire { from, source })?;
        let own_id = raft_id(self.config.node_id);
        if frame.from != raft_id(from) || frame.to != own_id {
            let (claimed_from, claimed_to) = (frame.from, frame.to);
            return Err(StepError::Misdirected { from, claimed_from, claimed_to });
        }
        self.note_heard(from);
        self.note_leader_heard(from);
        match frame.body {
            Body::Raft(message) => return self.step_raft(*message),
            Body::Forward { batch } => self.take_forwarded(frame.from, &batch),
            Body::ForwardReply { incarnation, sequence, verdict } => {
                self.take_verdict(now, frame.from, (incarnation, sequence), verdict);
            }
            Body::Barrier { incarnation, round } => self.ask_quorum(frame.from, incarnation, round),
            Body::BarrierReply { incarnation, round, index } => {
                self.take_barrier_reply(incarnation, round, index);
            }
            Body::Heartbeat { broker_epoch, incarnation, applied_index } => {
                self.take_heartbeat(frame.from, (broker_epoch, incarnation, applied_index));
            }
        }
        Ok(())
    }

    fn step_raft(&mut self, message: Message) -> Result<(), StepError> {
        if self.stalled.is_some() {
            // As if it had been lost on the way.
            return Ok(());
        }
        let last_index = self.raw.raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && self.raw.raft.term <= message.term
            && last_index < message.commit
        {
            return Err(StepError::Fatal(RaftError::LostEntries {
                node: self.config.node_id,
                last_index: LogIndex(last_index),
                counted_index: LogIndex(message.commit),
            }));
        }
        self.note_leader_applied(&message);
        match self.raw.step(message) {
            Ok(()) => Ok(()),
            // A message that came too late, or of a node that has left.
            Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped | raft::Error::StepLocalMsg) => {
                Ok(())
            }
            Err(error) => Err(StepError::Fatal(error.into())),
        }
    }

    /// Learns from a message of the leader what it has applied since it leads. A heartbeat of the clock is made before
    /// anything else in a turn, so that all that it calls committed was applied in an earlier one. One that asks for
    /// something (it has a context) is made in the middle, and what brings entries is sent before they are applied. A
    /// leader that hands over goes on until it has applied what it has committed.
    fn note_leader_applied(&mut self, message: &Message) {
        if message.term < self.raw.raft.term || self.image.applied_term().get() != message.term {
            return;
        }
        if message.get_msg_type() == MessageType::MsgHeartbeat && message.context.is_empty() {
            self.leader_applied_index = self.leader_applied_index.max(message.commit);
        } else if message.get_msg_type() == MessageType::MsgTimeoutNow {
            self.leader_applied_index = self.leader_applied_index.max(self.image.applied_index().get());
        }
    }

    /// Fails the proposals and barriers whose time is over.
    pub fn expire(&mut self, now: MonotonicMs) {
        self.expire_proposals(now);
        self.expire_reads(now);
    }

    /// When there is something to do though nothing has arrived.
    pub fn next_deadline(&self) -> Option<MonotonicMs> {
        if self.stalled.is_some() {
            // What is overdue stays so until there is room, and that is looked for with every tick.
            return None;
        }
        let deadlines = [self.proposals.next_deadline(), self.reads.next_deadline(), self.next_liveness()];
        deadlines.into_iter().flatten().min()
    }

    /// Fails all that waits, as the node stops.
    pub fn fail_pending(&mut self, reason: &str) {
        self.fail_proposals(reason);
        self.fail_reads(reason);
    }

    /// Does all that there is to do. After an error the node must not be used any more.
    pub fn advance(&mut self, now: MonotonicMs) -> Result<(), RaftError> {
        self.now = now;
        // A turn may make this node, or another, the leader that something waits for; twice is enough, as what the
        // second turn leads to needs messages or time.
        for _ in 0..2 {
            let proposed = self.pump_proposals(now);
            let asked = self.pump_reads(now);
            self.write_and_apply()?;
            self.finish_reads();
            if !proposed && !asked && self.leadership() == self.proposals.seen() {
                break;
            }
        }
        self.pump_heartbeat(now);
        self.expire(now);
        self.note_progress();
        Ok(())
    }

    /// Writes, sends and applies all that there is to.
    fn write_and_apply(&mut self) -> Result<(), RaftError> {
        if let Some(ready) = self.stalled.take()
            && !self.persist(ready)?
        {
            return Ok(());
        }
        for (peer, arrived) in std::mem::take(&mut self.snapshot_news) {
            if let Some(peer) = node_id(peer) {
                self.snapshot_finished(peer, arrived);
            }
        }
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.note_role();
            self.confirmed(ready.take_read_states());
            // A leader's messages promise nothing of its own disk: its followers write at the same time as it.
            self.send(ready.take_messages());
            self.apply(ready.take_committed_entries())?;
            if !self.persist(ready)? {
                return Ok(());
            }
        }
        self.note_role();
        self.leave_joint();
        self.remember_cluster()?;
        self.compact()
    }

    /// Ends a joint configuration that raft itself would leave as it is: it does so when its leader applies the
    /// entry that began it, and a leader that comes after that never does.
    fn leave_joint(&mut self) {
        let joint = !self.conf_state.voters_outgoing.is_empty() && self.conf_state.auto_leave;
        let change_pending = self.image.applied_index().get() < self.raw.raft.pending_conf_index;
        if joint
            && self.is_leader()
            && !change_pending
            && let Err(error) = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default())
        {
            tracing::debug!(%error, "the joint configuration stays until the next turn");
        }
    }

    /// Writes what a step asks for, then sends and applies what may follow it. `false` says that the disk is full
    /// and the step is kept for another attempt.
    fn persist(&mut self, mut ready: Ready) -> Result<bool, RaftError> {
        let written = if ready.snapshot().is_empty() {
            if ready.must_sync() {
                let hard_state = ready.hs().cloned();
                self.raw.mut_store().append(hard_state.as_ref(), ready.entries())
            } else {
                Ok(())
            }
        } else {
            // Decoded before it is written: a node must not replace what it has by what it cannot use.
            let image = MetadataImage::decode_snapshot(&ready.snapshot().data)?;
            self.check_cluster(&image)?;
            let (snapshot, hard_state) = (ready.snapshot().clone(), ready.hs().cloned());
            let installed = self.raw.mut_store().install(&snapshot, hard_state.as_ref(), ready.entries());
            if installed.is_ok() {
                self.conf_state = snapshot.get_metadata().get_conf_state().clone();
                tracing::info!(index = %image.applied_index(), "metadata snapshot installed");
                self.metrics.snapshots_installed_count =
                    self.metrics.snapshots_installed_count.saturating_add(1);
                self.publish(image, None);
                self.answer_from_image();
            }
            installed
        };
        match written {
            Ok(()) => {}
            Err(StoreError::NoSpace { path, source }) => {
                tracing::error!(path = %path.display(), error = %source, "the metadata log waits for room on its disk");
                self.stalled = Some(ready);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(hard_state) = ready.hs() {
            let commit = hard_state.commit;
            self.raw.mut_store().set_commit(commit);
        }
        self.send(ready.take_persisted_messages());
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().set_commit(commit);
        }
        self.send(light.take_messages());
        self.apply(light.take_committed_entries())?;
        self.raw.advance_apply();
        Ok(true)
    }

    fn send(&mut self, messages: Vec<Message>) {
        // A candidate asks all others at once.
        if messages.iter().any(|message| message.get_msg_type() == MessageType::MsgRequestPreVote) {
            self.metrics.elections_started_count = self.metrics.elections_started_count.saturating_add(1);
        }
        for message in messages {
            let Some(to) = node_id(message.to).filter(|_| wire::travels(&message)) else { continue };
            let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            let message = PeerMessage { bytes: wire::encode_message(&message), is_snapshot };
            if self.transport.send(to, message).is_err() {
                let id = raft_id(to);
                self.raw.report_unreachable(id);
                if is_snapshot {
                    self.raw.report_snapshot(id, SnapshotStatus::Failure);
                }
            }
        }
    }

    /// Sends a frame of our own; `false` says that it was dropped.
    fn send_frame(&mut self, to: u64, body: Body) -> bool {
        let from = raft_id(self.config.node_id);
        let Some(node) = node_id(to) else { return false };
        let message = PeerMessage { bytes: Frame { to, from, body }.encode(), is_snapshot: false };
        self.transport.send(node, message).is_ok()
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), RaftError> {
        for entry in entries {
            let (index, term) = (LogIndex(entry.index), Term(entry.term));
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {
                    // A new leader's first entry.
                    self.publish(self.image.skip(index, term), Some(Delta::default()));
                }
                EntryType::EntryNormal => {
                    let batch = CommandBatch::decode_entry(index, &entry.data)?;
                    let Application { image, delta, outcome, first_index } =
                        self.image.apply(index, term, &batch)?;
                    self.publish(image, Some(delta));
                    self.answer(batch.request_id, first_index, outcome);
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    // An empty one is no empty entry: it ends a joint configuration.
                    let change = membership::decode(entry.get_entry_type(), &entry.data)?;
                    self.conf_state = self.raw.apply_conf_change(&change)?;
                    self.publish(self.image.skip(index, term), Some(Delta::default()));
                }
            }
        }
        Ok(())
    }

    /// Refuses metadata of a cluster that this node's directory does not belong to.
    fn check_cluster(&self, image: &MetadataImage) -> Result<(), RaftError> {
        match (self.raw.store().cluster_id(), image.cluster_id()) {
            (Some(own), Some(found)) if **own != *found => Err(RaftError::OtherCluster {
                node: self.config.node_id,
                own: own.to_string(),
                found: found.to_owned(),
            }),
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }

    /// The cluster that this node belongs to. Known from the disk before anything is applied.
    pub fn cluster_id(&self) -> Option<&Arc<str>> {
        self.raw.store().cluster_id()
    }

    /// Has the directory remember the cluster once the image names it.
    fn remember_cluster(&mut self) -> Result<(), RaftError> {
        self.check_cluster(&self.image)?;
        if self.raw.store().cluster_id().is_none()
            && self.stalled.is_none()
            && let Some(cluster_id) = self.image.cluster_id()
        {
            let cluster_id = Arc::from(cluster_id);
            self.raw.mut_store().set_cluster_id(&cluster_id)?;
        }
        Ok(())
    }

    /// Makes an image the newest. Without a delta, it is worked out.
    fn publish(&mut self, image: MetadataImage, delta: Option<Delta>) {
        let delta = delta.unwrap_or_else(|| Delta::between(&self.image, &image));
        self.image = Arc::new(image);
        self.observer.image_changed(&self.image, &delta);
        self.note_brokers_changed();
    }

    /// Says what has become of this node.
    fn note_role(&mut self) {
        let (is_leader, term) = (self.is_leader(), self.raw.raft.term);
        if is_leader && (!self.was_leader || term != self.seen_term) {
            self.metrics.elections_won_count = self.metrics.elections_won_count.saturating_add(1);
            tracing::info!(node_id = %self.config.node_id, "became leader at term {term}");
        }
        if self.was_leader && !is_leader {
            tracing::info!(node_id = %self.config.node_id, "no longer leader at term {term}");
        }
        self.was_leader = is_leader;
        self.seen_term = term;
    }

    /// Replaces the log by a snapshot once it is long enough to pay.
    fn compact(&mut self) -> Result<(), RaftError> {
        let store = self.raw.store();
        let applied_index = self.image.applied_index().get();
        let entry_count = applied_index.saturating_sub(store.snapshot_index());
        let log_bytes_max = self.config.snapshot_log_bytes_max.max(store.snapshot_bytes().saturating_mul(4));
        if entry_count < self.config.snapshot_entries_max && store.wal_bytes() < log_bytes_max
            || entry_count == 0
        {
            return Ok(());
        }
        let data = self.image.encode_snapshot().into();
        let (conf_state, retained_max) = (self.conf_state.clone(), self.config.retained_entries_max);
        match self.raw.mut_store().compact(applied_index, conf_state, &data, retained_max) {
            Ok(()) => {
                tracing::debug!(index = applied_index, "metadata snapshot written");
                self.metrics.snapshots_written_count = self.metrics.snapshots_written_count.saturating_add(1);
                Ok(())
            }
            // The log goes on growing, and the next attempt comes with the next entries.
            Err(error @ StoreError::NoSpace { .. }) => {
                tracing::warn!(%error, "no metadata snapshot was written");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The last entry of this node's log, committed or not.
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    /// The term and bytes of an entry that is still in the log, for checks that compare nodes.
    pub fn log_entry(&self, index: LogIndex) -> Option<(Term, Bytes)> {
        let log = &self.raw.raft.raft_log;
        let next = index.get().checked_add(1)?;
        if index.get() < log.first_index() || log.last_index() < index.get() {
            return None;
        }
        let found = log.slice(index.get(), next, None, GetEntriesContext::empty(false)).ok()?;
        found.into_iter().next().map(|entry| (Term(entry.term), entry.data))
    }
}

#[cfg(test)]
mod tests;
