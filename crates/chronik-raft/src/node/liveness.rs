//! Which brokers are there: every node tells the leader that its broker lives, and the leader compares what it has
//! heard with what the image says.
//!
//! The leader decides nothing. It tells a listener what differs, again and again until it differs no more; the
//! listener proposes to fence or unfence. So a proposal that is lost is made again, and a new leader needs to know
//! nothing of the old one's intentions.
//!
//! A new leader, and one that was itself held up, gives every broker the full session timeout from then on: it must
//! not take its own absence for theirs. Only the heartbeat of the registered incarnation counts. An earlier
//! process's late message keeps nobody alive, and a later process that has not registered is another broker.

use std::collections::{BTreeMap, BTreeSet};

use chronik_types::{BrokerEpoch, MonotonicMs, NodeId, Term};

use super::RaftNode;
use super::contact::CONTACT_TIMEOUT_MS;
use crate::frame::Body;
use crate::metadata::BrokerImage;
use crate::store::{node_id, raft_id};

/// How often a broker in service is heard of; a sixth of the session timeout, so that five may be lost.
pub const HEARTBEAT_MS: u64 = 300;

/// How often a broker is heard of that is not in service yet and wants to be.
pub const FENCED_HEARTBEAT_MS: u64 = 100;

/// How long a broker may be silent before it is told to be. With what comes after it, a client that waits a second for each
/// answer finds the next leader with its third request.
pub const SESSION_TIMEOUT_MS: u64 = 1_800;

/// How long until a difference that persists is told again.
pub const LIVENESS_CHECK_MS: u64 = 500;

/// How long the leader before has, from when the next one is in force, until it is told to be silent as a broker; but
/// never less than [`CONTACT_TIMEOUT_MS`] from when it was heard of last. It was silent for an election's time already,
/// and whoever lives makes itself heard by a new leader at once.
pub const FORMER_LEADER_MS: u64 = 1_000;

/// A leader whose thread was away for longer than this has not listened.
const HELD_UP_MS: u64 = 500;

/// What the leader has heard of a broker and the image does not say yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LivenessChange {
    /// The broker is in service, and was not heard of for [`SESSION_TIMEOUT_MS`].
    Silent {
        /// The broker.
        node: NodeId,
    },
    /// The broker is in service, and its process has ended: its connection is closed and a probe was refused.
    Gone {
        /// The broker.
        node: NodeId,
    },
    /// The broker is fenced, is heard of, and knows all that was committed when it was first heard of.
    Returned {
        /// The broker.
        node: NodeId,
    },
}

impl LivenessChange {
    /// The broker that it is about.
    pub const fn node(self) -> NodeId {
        match self {
            Self::Silent { node } | Self::Gone { node } | Self::Returned { node } => node,
        }
    }
}

/// Told of what differs, on the metadata log's own thread and only where this node leads. It may propose, and must
/// not wait.
pub type LivenessListener = Box<dyn Fn(Term, &[LivenessChange]) + Send + Sync>;

/// What a node knows of the brokers.
#[derive(Default)]
pub(super) struct Liveness {
    /// The incarnation under which the broker on this node registers, once it has one.
    own_incarnation: Option<u128>,
    last_heartbeat: Option<MonotonicMs>,
    /// Whom the last heartbeat went to.
    heartbeat_to: u64,
    heard: BTreeMap<NodeId, Heard>,
    /// The registrations whose processes have ended. A process that comes after is another registration, so that what was
    /// heard long ago, while others led, says nothing of it.
    gone: BTreeMap<NodeId, BrokerEpoch>,
    /// The leader that this node followed last, and when it was heard of.
    former_leader: Option<(NodeId, MonotonicMs)>,
    /// Since when this node has listened as the leader of this term.
    listening: Option<(Term, MonotonicMs)>,
    last_run: Option<MonotonicMs>,
    /// When each difference was told last.
    told: BTreeMap<LivenessChange, MonotonicMs>,
    /// Something was heard, or has changed, since the last comparison.
    stale: bool,
    next_check: Option<MonotonicMs>,
}

/// The last heartbeat of a broker.
#[derive(Clone, Copy)]
struct Heard {
    at: MonotonicMs,
    incarnation: u128,
    broker_epoch: i64,
    /// Whether the broker was fenced at the time: what it said before says nothing of whether it is back.
    fenced: bool,
    /// What was committed when it was heard of first, as it is now, until it has applied that.
    catching_up_to: Option<u64>,
}

impl RaftNode {
    /// From now on the broker of this incarnation lives on this node, and the leader is told so once it has
    /// registered.
    pub fn set_broker_incarnation(&mut self, incarnation: u128) {
        self.liveness.own_incarnation = Some(incarnation);
        self.liveness.last_heartbeat = None;
    }

    /// The process on a node has ended: its connection was closed and a probe refused.
    pub fn peer_gone(&mut self, node: NodeId) {
        if let Some(broker) = self.image.broker(node) {
            self.liveness.gone.insert(node, broker.epoch);
            self.liveness.stale = true;
        }
    }

    /// The registration of this node's broker, if it is that of the process that runs.
    fn own_registration(&self) -> Option<&BrokerImage> {
        let broker = self.image.broker(self.config.node_id)?;
        (Some(broker.incarnation) == self.liveness.own_incarnation).then_some(broker)
    }

    /// Tells the leader that this node's broker lives, when it is time to.
    pub(super) fn pump_heartbeat(&mut self, now: MonotonicMs) -> bool {
        let leader = self.leadership().leader;
        let Some(broker) = self.own_registration() else { return false };
        let (broker_epoch, incarnation) = (broker.epoch.get(), broker.incarnation);
        let (to, due) = (self.liveness.heartbeat_to, self.heartbeat_due());
        // A new leader has heard of nobody yet.
        let is_due = to != leader || due.is_none_or(|due| due <= now);
        if leader == 0 || leader == raft_id(self.config.node_id) || !is_due {
            return false;
        }
        self.liveness.last_heartbeat = Some(now);
        self.liveness.heartbeat_to = leader;
        let applied_index = self.image.applied_index().get();
        self.send_frame(leader, Body::Heartbeat { broker_epoch, incarnation, applied_index })
    }

    /// When the next heartbeat is due, after one that was sent.
    fn heartbeat_due(&self) -> Option<MonotonicMs> {
        let fenced = self.own_registration()?.fenced;
        let interval_ms = if fenced { FENCED_HEARTBEAT_MS } else { HEARTBEAT_MS };
        self.liveness.last_heartbeat.map(|last| last.plus_ms(interval_ms))
    }

    /// A broker lives.
    pub(super) fn take_heartbeat(&mut self, from: u64, heartbeat: (i64, u128, u64)) {
        let (broker_epoch, incarnation, applied_index) = heartbeat;
        let Some(node) = node_id(from).filter(|_| self.is_leader()) else { return };
        let Some(registered) = self
            .image
            .broker(node)
            .filter(|broker| broker.incarnation == incarnation && broker.epoch.get() == broker_epoch)
        else {
            return;
        };
        let first = Heard {
            at: self.now,
            incarnation,
            broker_epoch,
            fenced: registered.fenced,
            catching_up_to: Some(self.raw.raft.raft_log.committed),
        };
        let heard = self.liveness.heard.entry(node).or_insert(first);
        let same_broker = heard.incarnation == incarnation && heard.broker_epoch == broker_epoch;
        if !same_broker || heard.fenced != first.fenced {
            *heard = first;
        }
        heard.at = self.now;
        if heard.catching_up_to.is_some_and(|target| target <= applied_index) {
            heard.catching_up_to = None;
        }
        self.liveness.gone.remove(&node);
        self.liveness.stale = true;
    }

    /// A node has sent something; where it leads, that is noted for when it leads no more.
    pub(super) fn note_leader_heard(&mut self, from: NodeId) {
        if self.leader() == Some(from) {
            self.liveness.former_leader = Some((from, self.now));
        }
    }

    /// When the leader before this one is silent for too long, if that is this broker.
    fn former_leader_silent_at(&self, node: NodeId, since: MonotonicMs) -> Option<MonotonicMs> {
        let (_, heard_at) = self.liveness.former_leader.filter(|(former, _)| *former == node)?;
        Some(since.plus_ms(FORMER_LEADER_MS).max(heard_at.plus_ms(CONTACT_TIMEOUT_MS)))
    }

    /// The image has changed: brokers may have come or gone.
    pub(super) fn note_brokers_changed(&mut self) {
        self.liveness.stale = true;
    }

    /// What differs between what this leader has heard and what the image says, as far as it is time to tell.
    pub fn liveness_changes(&mut self, now: MonotonicMs) -> Vec<LivenessChange> {
        let held_up = !self.is_only_voter()
            && self.liveness.last_run.is_some_and(|last| HELD_UP_MS < now.since_ms(last));
        self.liveness.last_run = Some(now);
        let term = self.term();
        // Before its term's first entry is applied, a leader does not know what is committed.
        if !self.is_leader() || self.stalled.is_some() || self.image.applied_term() != term {
            self.liveness.listening = None;
            self.liveness.next_check = None;
            return Vec::new();
        }
        let since = match self.liveness.listening {
            Some((listening, since)) if listening == term && !held_up => since,
            Some(_) | None => {
                self.liveness.listening = Some((term, now));
                self.liveness.heard.clear();
                self.liveness.told.clear();
                self.liveness.stale = true;
                now
            }
        };
        if !self.liveness.stale && self.liveness.next_check.is_none_or(|next| now < next) {
            return Vec::new();
        }
        self.liveness.stale = false;
        let (differences, next_silence) = self.differences(now, since);
        self.liveness.told.retain(|change, _| differences.contains(change));
        let mut due = Vec::new();
        let mut next_check = next_silence;
        for change in differences {
            let told_at = self.liveness.told.get(&change).copied();
            let at = told_at.map_or(now, |at| at.plus_ms(LIVENESS_CHECK_MS));
            let again_at = if at <= now {
                self.liveness.told.insert(change, now);
                due.push(change);
                now.plus_ms(LIVENESS_CHECK_MS)
            } else {
                at
            };
            next_check = Some(next_check.map_or(again_at, |next| next.min(again_at)));
        }
        self.liveness.next_check = next_check;
        due
    }

    /// All that differs, and when the next broker will have been silent for too long.
    fn differences(
        &mut self,
        now: MonotonicMs,
        since: MonotonicMs,
    ) -> (BTreeSet<LivenessChange>, Option<MonotonicMs>) {
        let mut differences = BTreeSet::new();
        let mut next_silence: Option<MonotonicMs> = None;
        let image = &self.image;
        self.liveness.heard.retain(|node, _| image.broker(*node).is_some());
        self.liveness
            .gone
            .retain(|node, epoch| image.broker(*node).is_some_and(|broker| broker.epoch == *epoch));
        for broker in self.image.brokers() {
            let node = broker.id;
            let is_own = node == self.config.node_id;
            let own_lives = is_own && Some(broker.incarnation) == self.liveness.own_incarnation;
            let heard = self.liveness.heard.get(&node).filter(|heard| {
                heard.incarnation == broker.incarnation && heard.broker_epoch == broker.epoch.get()
            });
            if broker.fenced {
                // One that has fallen silent since, or whose process has ended, is not back.
                let is_back = heard.is_some_and(|heard| {
                    heard.fenced
                        && heard.catching_up_to.is_none()
                        && now.since_ms(heard.at) < SESSION_TIMEOUT_MS
                        && !self.liveness.gone.contains_key(&node)
                });
                if own_lives || is_back {
                    differences.insert(LivenessChange::Returned { node });
                }
                continue;
            }
            if own_lives {
                continue;
            }
            if self.liveness.gone.contains_key(&node) {
                differences.insert(LivenessChange::Gone { node });
                continue;
            }
            let silent_at = match heard {
                Some(heard) => heard.at.plus_ms(SESSION_TIMEOUT_MS),
                None => self
                    .former_leader_silent_at(node, since)
                    .unwrap_or_else(|| since.plus_ms(SESSION_TIMEOUT_MS)),
            };
            if silent_at <= now {
                differences.insert(LivenessChange::Silent { node });
            } else {
                next_silence = Some(next_silence.map_or(silent_at, |next| next.min(silent_at)));
            }
        }
        (differences, next_silence)
    }

    /// When this node is to be woken for a heartbeat or a comparison.
    pub(super) fn next_liveness(&self) -> Option<MonotonicMs> {
        let heartbeat = self.heartbeat_due().filter(|_| !self.is_leader() && self.leader().is_some());
        let check = self.liveness.next_check.filter(|_| self.is_leader());
        [heartbeat, check].into_iter().flatten().min()
    }
}
