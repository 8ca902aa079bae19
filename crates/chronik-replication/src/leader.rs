//! What the leader of a partition knows of its followers, and what follows from it.
//!
//! An offset that a follower fetches from acknowledges everything below it. The high watermark is the smallest log
//! end of the *maximal* ISR: those in the ISR, those whose entry has been proposed, and those that are caught up and
//! about to enter (KIP-497, KIP-966). It stands still while fewer replicas are in sync than `min.insync.replicas`
//! asks for, whatever the producers' acks, so that what was ever readable survives the loss of all but one of that
//! many.

use std::collections::BTreeMap;

use chronik_types::{BrokerEpoch, LeaderEpoch, MonotonicMs, NodeId, Offset, PartitionEpoch};

/// The state of a partition in the metadata image, as its leader takes it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderTerm {
    /// The nodes that hold the partition, this one among them.
    pub replicas: Vec<NodeId>,
    /// Those in sync, this one among them.
    pub isr: Vec<NodeId>,
    /// The eligible leader replicas (KIP-966).
    pub elr: Vec<NodeId>,
    /// Whether this node, or a leader before it, was elected although it may lack records, and none has told yet that it
    /// has made do with what it has (KIP-704).
    pub is_recovering: bool,
    /// The epoch in which this node leads.
    pub leader_epoch: LeaderEpoch,
    /// Counts the changes of the partition; proposals compare it.
    pub partition_epoch: PartitionEpoch,
}

/// The settings of a partition that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderSettings {
    /// The topic's `min.insync.replicas`.
    pub min_insync: usize,
    /// The broker's `replica.lag.time.max.ms`.
    pub lag_ms_max: u64,
}

/// Who may be in the ISR at the moment, as the metadata image has it.
pub trait Membership {
    /// The epoch of a broker that is registered, in service and not about to stop; `None` for every other (KIP-841).
    fn live_epoch(&self, node: NodeId) -> Option<BrokerEpoch>;
}

impl<F: Fn(NodeId) -> Option<BrokerEpoch>> Membership for F {
    fn live_epoch(&self, node: NodeId) -> Option<BrokerEpoch> {
        self(node)
    }
}

/// A fetch of a follower, as far as it tells how far the follower has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFetch {
    /// The follower.
    pub node: NodeId,
    /// Its registration, where the request says it (from Fetch version 15 on, KIP-903).
    pub broker_epoch: Option<BrokerEpoch>,
    /// Where it goes on; it holds everything below.
    pub fetch_offset: Offset,
    /// Where its log starts.
    pub log_start_offset: Offset,
}

/// Why the ISR is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsrCause {
    /// A replica has caught up.
    CaughtUp(NodeId),
    /// Enough are in sync again, or fewer are asked for, so that nobody else need be eligible to lead.
    EnoughInSync,
    /// These replicas have not been at the log's end for longer than `replica.lag.time.max.ms`.
    Lagging(Vec<NodeId>),
    /// The leader goes on with what it has, after an election that may have lost records.
    Recovered,
}

/// A change of the ISR, to be proposed to the metadata log. One is under way at a time (KIP-497).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    /// The ISR to be, in the order of the replicas; the leader is in it.
    pub isr: Vec<NodeId>,
    /// The eligible leader replicas to be: while the ISR is below the minimum, those who have left it.
    pub elr: Vec<NodeId>,
    /// For each of them the registration under which it has fetched, where it has: the controller takes nobody who
    /// has been born again since (KIP-903).
    pub broker_epochs: Vec<Option<BrokerEpoch>>,
    /// The leader epoch in which it was decided.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that it must meet.
    pub partition_epoch: PartitionEpoch,
    /// Why. [`IsrCause::Recovered`] ends the partition's recovery.
    pub cause: IsrCause,
}

/// What came out of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The high watermark has moved to here.
    pub high_watermark: Option<Offset>,
    /// This is to be proposed now.
    pub propose: Option<IsrProposal>,
}

/// What the leader knows of one replica, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// Its log's end, where it has told it in this leader epoch.
    pub log_end_offset: Option<Offset>,
    /// Its log's start, where it has told it.
    pub log_start_offset: Option<Offset>,
    /// When it was last at the leader's log end, as far as the leader can tell.
    pub caught_up_at: Option<MonotonicMs>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    log_end_offset: Option<Offset>,
    log_start_offset: Option<Offset>,
    /// What its last fetch said.
    broker_epoch: Option<BrokerEpoch>,
    /// Its registration while it is in service.
    live_epoch: Option<BrokerEpoch>,
    caught_up_at: Option<MonotonicMs>,
    /// The last fetch, and the leader's log end at that time: a follower that then fetches from there was caught up
    /// at that time, however much has arrived since.
    fetched_at: MonotonicMs,
    leader_end_then: Offset,
}

impl Progress {
    /// Whether the registration under which it fetches is the one that is in service. A replica that was fenced, is
    /// about to stop, or fetches for an earlier life of its broker must not enter the ISR (KIP-841, KIP-903).
    fn is_eligible(&self) -> bool {
        self.live_epoch.is_some_and(|live| self.broker_epoch.is_none_or(|told| told == live))
    }

    /// Whether a fetch comes from an earlier life of the broker than the last one that is known here. Later lives have
    /// larger epochs.
    fn is_before(&self, broker_epoch: Option<BrokerEpoch>) -> bool {
        broker_epoch.is_some_and(|told| told < self.broker_epoch.max(self.live_epoch).unwrap_or(told))
    }
}

/// One partition that this node leads, in one leader epoch.
#[derive(Clone, Debug)]
pub struct Leader {
    epoch: LeaderEpoch,
    partition_epoch: PartitionEpoch,
    /// The log's end when this epoch began. Replicas below it have not seen what earlier leaders committed.
    epoch_start_offset: Offset,
    /// All replicas, in the order of the assignment; ISRs are kept in it.
    replicas: Vec<NodeId>,
    isr: Vec<NodeId>,
    elr: Vec<NodeId>,
    is_recovering: bool,
    pending: Option<IsrProposal>,
    followers: BTreeMap<NodeId, Progress>,
    log_end_offset: Offset,
    high_watermark: Offset,
    settings: LeaderSettings,
}

impl Leader {
    /// Takes the lead over a log that ends at `log_end_offset`. Members of the ISR get all of the time that they may
    /// lag to show up.
    pub fn new(
        now: MonotonicMs,
        node: NodeId,
        term: &LeaderTerm,
        membership: &dyn Membership,
        log_end_offset: Offset,
        high_watermark: Offset,
        settings: LeaderSettings,
    ) -> Self {
        let followers = term
            .replicas
            .iter()
            .filter(|replica| **replica != node)
            .map(|replica| {
                let progress = Progress {
                    log_end_offset: None,
                    log_start_offset: None,
                    broker_epoch: None,
                    live_epoch: membership.live_epoch(*replica),
                    caught_up_at: term.isr.contains(replica).then_some(now),
                    fetched_at: now,
                    leader_end_then: Offset(i64::MAX),
                };
                (*replica, progress)
            })
            .collect();
        Self {
            epoch: term.leader_epoch,
            partition_epoch: term.partition_epoch,
            epoch_start_offset: log_end_offset,
            isr: in_order(&term.replicas, &term.isr),
            elr: in_order(&term.replicas, &term.elr),
            is_recovering: term.is_recovering,
            replicas: term.replicas.clone(),
            pending: None,
            followers,
            log_end_offset,
            high_watermark: high_watermark.min(log_end_offset),
            settings,
        }
    }

    /// The epoch in which this node leads.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Everything below is committed.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The ISR as the metadata log has it, in the order of the replicas.
    pub fn isr(&self) -> &[NodeId] {
        &self.isr
    }

    /// Whether the high watermark has reached this leader's first offset. Before that the newest committed offset
    /// is not known here, and asking for it is answered with `OFFSET_NOT_AVAILABLE` (KIP-207).
    pub fn is_settled(&self) -> bool {
        self.high_watermark >= self.epoch_start_offset
    }

    /// How many replicas must be in sync for anything to be committed. A partition with fewer replicas than the
    /// topic asks for needs all of them.
    pub fn min_insync(&self) -> usize {
        self.settings.min_insync.min(self.followers.len().saturating_add(1)).max(1)
    }

    /// Whether enough replicas are in sync for `acks=all`.
    pub fn has_enough_in_sync(&self) -> bool {
        self.isr.len() >= self.min_insync()
    }

    /// Whether any other node holds a replica.
    pub fn is_replicated(&self) -> bool {
        !self.followers.is_empty()
    }

    /// Whether a proposal is under way.
    pub fn is_changing(&self) -> bool {
        self.pending.is_some()
    }

    /// What is known of a follower.
    pub fn replica(&self, node: NodeId) -> Option<ReplicaState> {
        self.followers.get(&node).map(|progress| ReplicaState {
            log_end_offset: progress.log_end_offset,
            log_start_offset: progress.log_start_offset,
            caught_up_at: progress.caught_up_at,
        })
    }

    /// How many records the replica lacks that is furthest behind. One that has said nothing in this epoch has what is
    /// committed if it is in sync, and nothing otherwise, as far as is known.
    pub fn replica_lag_max(&self) -> u64 {
        let end_of = |node: &NodeId, progress: &Progress| {
            let least = if self.isr.contains(node) { self.high_watermark } else { Offset::ZERO };
            progress.log_end_offset.unwrap_or(least)
        };
        let furthest = self
            .followers
            .iter()
            .map(|(node, progress)| end_of(node, progress))
            .min()
            .unwrap_or(self.log_end_offset);
        u64::try_from(self.log_end_offset.get().saturating_sub(furthest.get())).unwrap_or(0)
    }

    /// The smallest log start of all live replicas: what DeleteRecords has reached (KIP-107). Replicas that have
    /// said nothing yet hold it back to 0.
    pub fn low_watermark(&self, own_log_start_offset: Offset) -> Offset {
        self.followers
            .values()
            .filter(|progress| progress.live_epoch.is_some())
            .map(|progress| progress.log_start_offset.unwrap_or(Offset::ZERO))
            .fold(own_log_start_offset, Offset::min)
    }

    /// The settings have changed.
    pub fn configure(&mut self, now: MonotonicMs, settings: LeaderSettings) -> Effects {
        self.settings = settings;
        let propose = self.settle();
        Effects { propose, ..self.advanced(now) }
    }

    /// Brokers have entered or left service.
    pub fn membership_changed(&mut self, now: MonotonicMs, membership: &dyn Membership) -> Effects {
        for (node, progress) in &mut self.followers {
            let live_epoch = membership.live_epoch(*node);
            if live_epoch.is_some() && live_epoch != progress.live_epoch && !self.isr.contains(node) {
                // What has been committed while it was away it may lack, however short that was: nobody waits for it until
                // it has caught up again.
                progress.caught_up_at = None;
                progress.leader_end_then = Offset(i64::MAX);
            }
            progress.live_epoch = live_epoch;
        }
        self.advanced(now)
    }

    /// The leader's own log now ends here: batches were appended (and synced, where the topic asks for that).
    pub fn appended(&mut self, now: MonotonicMs, log_end_offset: Offset) -> Effects {
        self.log_end_offset = self.log_end_offset.max(log_end_offset);
        self.advanced(now)
    }

    /// A follower has asked for records. A node that is no replica changes nothing, and neither does a fetch that was on
    /// its way for longer than the process that sent it lived: what that one held may be gone (KIP-903).
    pub fn fetched(&mut self, now: MonotonicMs, fetch: FollowerFetch) -> Effects {
        let leader_end = self.log_end_offset;
        let Some(progress) = self.followers.get_mut(&fetch.node) else { return Effects::default() };
        if progress.is_before(fetch.broker_epoch) {
            return Effects::default();
        }
        if fetch.fetch_offset >= leader_end {
            progress.caught_up_at = progress.caught_up_at.max(Some(now));
        } else if fetch.fetch_offset >= progress.leader_end_then {
            progress.caught_up_at = progress.caught_up_at.max(Some(progress.fetched_at));
        }
        progress.log_end_offset = Some(fetch.fetch_offset);
        progress.log_start_offset = Some(fetch.log_start_offset);
        progress.broker_epoch = fetch.broker_epoch;
        progress.fetched_at = now;
        progress.leader_end_then = leader_end;
        let propose = self.expand(fetch.node);
        Effects { propose, ..self.advanced(now) }
    }

    /// Looks for members of the ISR that have fallen behind. To be called at least every half of
    /// `replica.lag.time.max.ms`. It also repeats a proposal whose outcome is unknown.
    pub fn check(&mut self, now: MonotonicMs) -> Effects {
        let mut effects = self.advanced(now);
        if self.pending.is_none() {
            effects.propose = self.shrink(now).or_else(|| self.settle());
        }
        effects
    }

    /// The metadata image has this partition, in the leader epoch in which this node leads, in another state. One that is
    /// not newer changes nothing.
    pub fn changed(&mut self, now: MonotonicMs, term: &LeaderTerm) -> Effects {
        if term.partition_epoch <= self.partition_epoch {
            return Effects::default();
        }
        self.partition_epoch = term.partition_epoch;
        self.isr = in_order(&self.replicas, &term.isr);
        self.elr = in_order(&self.replicas, &term.elr);
        self.is_recovering = term.is_recovering;
        // Whatever was proposed compared an epoch that has passed: it was this change, or can never take effect.
        self.pending = None;
        // The controller may know of a larger minimum.
        let propose = self.settle();
        Effects { propose, ..self.advanced(now) }
    }

    /// What was proposed was refused, and will never take effect.
    pub fn refused(&mut self, now: MonotonicMs, partition_epoch: PartitionEpoch) -> Effects {
        if self.pending.as_ref().is_some_and(|pending| pending.partition_epoch == partition_epoch) {
            self.pending = None;
            return self.advanced(now);
        }
        Effects::default()
    }

    /// What became of the proposal is not known: it may yet take effect, so that both ISRs count. It is to be
    /// proposed again; the comparison of epochs makes that harmless.
    pub fn again(&self, partition_epoch: PartitionEpoch) -> Option<IsrProposal> {
        self.pending.clone().filter(|pending| pending.partition_epoch == partition_epoch)
    }

    fn expand(&mut self, node: NodeId) -> Option<IsrProposal> {
        if self.pending.is_some() || self.is_recovering || self.isr.contains(&node) || !self.may_enter(node) {
            return None;
        }
        let mut isr = self.isr.clone();
        isr.push(node);
        Some(self.propose(in_order(&self.replicas, &isr), IsrCause::CaughtUp(node)))
    }

    /// A replica may enter once it holds all that is committed, under this leader and those before.
    fn may_enter(&self, node: NodeId) -> bool {
        self.followers.get(&node).is_some_and(|progress| {
            progress.is_eligible()
                && progress
                    .log_end_offset
                    .is_some_and(|end| end >= self.high_watermark && end >= self.epoch_start_offset)
        })
    }

    fn shrink(&mut self, now: MonotonicMs) -> Option<IsrProposal> {
        let lagging: Vec<NodeId> =
            self.isr.iter().copied().filter(|node| self.is_lagging(now, *node)).collect();
        if lagging.is_empty() {
            return None;
        }
        let isr = self.isr.iter().copied().filter(|node| !lagging.contains(node)).collect();
        Some(self.propose(isr, IsrCause::Lagging(lagging)))
    }

    fn is_lagging(&self, now: MonotonicMs, node: NodeId) -> bool {
        let Some(progress) = self.followers.get(&node) else { return false };
        progress.log_end_offset != Some(self.log_end_offset)
            && progress.caught_up_at.is_none_or(|at| now.since_ms(at) > self.settings.lag_ms_max)
    }

    /// Ends a recovery; until that is so in the metadata log nobody enters the ISR. Clears the ELR once enough are in sync;
    /// before that is so in the metadata log nothing more is committed.
    fn settle(&mut self) -> Option<IsrProposal> {
        if self.is_recovering && self.pending.is_none() {
            return Some(self.propose(self.isr.clone(), IsrCause::Recovered));
        }
        let is_due = self.pending.is_none() && !self.elr.is_empty() && self.has_enough_in_sync();
        is_due.then(|| self.propose(self.isr.clone(), IsrCause::EnoughInSync))
    }

    /// Who is eligible to lead beside this ISR (KIP-966).
    fn elr_after(&self, isr: &[NodeId]) -> Vec<NodeId> {
        if self.min_insync() <= isr.len() {
            return Vec::new();
        }
        let holds = |node: &NodeId| self.isr.contains(node) || self.elr.contains(node);
        self.replicas.iter().copied().filter(|node| holds(node) && !isr.contains(node)).collect()
    }

    fn propose(&mut self, isr: Vec<NodeId>, cause: IsrCause) -> IsrProposal {
        let broker_epochs = isr
            .iter()
            .map(|node| self.followers.get(node).and_then(|progress| progress.broker_epoch))
            .collect();
        let proposal = IsrProposal {
            elr: self.elr_after(&isr),
            isr,
            broker_epochs,
            leader_epoch: self.epoch,
            partition_epoch: self.partition_epoch,
            cause,
        };
        self.pending = Some(proposal.clone());
        proposal
    }

    /// Moves the high watermark as far as it may go.
    fn advanced(&mut self, now: MonotonicMs) -> Effects {
        // KIP-966: those who are eligible to lead without being in sync have what was committed when they left, and no
        // more.
        if !self.has_enough_in_sync() || !self.elr.is_empty() {
            return Effects::default();
        }
        let lag_ms_max = self.settings.lag_ms_max;
        let committed = self
            .followers
            .iter()
            .filter(|(node, progress)| {
                let is_member = self.isr.contains(node)
                    || self.pending.as_ref().is_some_and(|pending| pending.isr.contains(node));
                // One that is about to enter is waited for, or it could never catch up with a busy leader.
                let is_close = progress.is_eligible()
                    && (progress.log_end_offset == Some(self.log_end_offset)
                        || progress.caught_up_at.is_some_and(|at| now.since_ms(at) <= lag_ms_max));
                is_member || is_close
            })
            .map(|(_, progress)| progress.log_end_offset.unwrap_or(Offset::ZERO))
            .fold(self.log_end_offset, Offset::min);
        // REPL-1: it never goes back within a leader epoch.
        if committed <= self.high_watermark {
            return Effects::default();
        }
        self.high_watermark = committed;
        Effects { high_watermark: Some(committed), propose: None }
    }
}

/// The replicas that are among `nodes`, in the order of the assignment.
fn in_order(replicas: &[NodeId], nodes: &[NodeId]) -> Vec<NodeId> {
    replicas.iter().copied().filter(|replica| nodes.contains(replica)).collect()
}

#[cfg(test)]
mod tests;
