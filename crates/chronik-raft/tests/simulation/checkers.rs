//! What must hold at every step, whatever happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chronik_disk::SimDisk;
use chronik_raft::RaftNode;
use chronik_raft::inspect::{LogSummary, MessageKind, MessageSummary, summarize_log};
use chronik_raft::metadata::{Delta, MetadataImage, PartitionImage};
use chronik_types::{LogIndex, NodeId, PartitionEpoch, Term, TopicId};

/// The invariants of the architecture page, and that the cluster gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// RAFT-1.
    OneLeaderPerTerm,
    /// RAFT-2.
    LogsMatch,
    /// RAFT-3.
    CommittedSurvives,
    /// RAFT-4.
    PromisesAreDurable,
    /// META-1.
    EqualImages,
    /// META-2.
    PartitionEpochs,
    /// META-3.
    IsrWithinReplicas,
    /// META-4.
    AssignedOnce,
    /// A request that was answered has taken effect once, and one that was refused never.
    ExactlyOnce,
    /// A barrier gives an image that is as new as anything that was answered before.
    Barrier,
    /// A cluster without faults elects, commits and catches up.
    Liveness,
}

#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    #[expect(dead_code, reason = "it is printed")]
    pub(crate) text: String,
}

/// An entry as a checker remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    term: u64,
    data_crc: u32,
}

#[derive(Default)]
pub(crate) struct Checkers {
    pub(crate) violations: Vec<Violation>,
    /// Look for breaches of this rule alone, for a run that breaks others first.
    only: Option<Rule>,
    leaders: BTreeMap<Term, NodeId>,
    /// What each place of the log holds in each term, and the term before it.
    logs: BTreeMap<(u64, u64), (u32, Option<u64>)>,
    /// Each committed entry, and the lowest term in which a node knew it to be.
    committed: BTreeMap<u64, (Seen, Term)>,
    images: BTreeMap<LogIndex, u32>,
    /// What each partition was at each of its epochs.
    partitions: BTreeMap<(TopicId, PartitionEpoch), Arc<PartitionImage>>,
    replicas: BTreeMap<TopicId, Arc<[NodeId]>>,
    /// What each node's log looked like when it was last gone through.
    gone_through: BTreeMap<NodeId, (bool, Term, LogIndex, LogIndex)>,
    /// What was durable on each node's disk, after how many operations on it.
    durable: BTreeMap<NodeId, (u64, LogSummary)>,
}

impl Checkers {
    pub(crate) fn new(only: Option<Rule>) -> Self {
        Self { only, ..Self::default() }
    }

    pub(crate) fn report(&mut self, rule: Rule, text: String) {
        // One is enough to fail, and a broken run has thousands.
        if self.violations.len() < 20 && self.only.is_none_or(|only| only == rule) {
            self.violations.push(Violation { rule, text });
        }
    }

    pub(crate) fn term_max(&self) -> u64 {
        self.leaders.keys().next_back().map_or(0, |term| term.get())
    }

    /// META-1, for each image that a node publishes.
    pub(crate) fn image(&mut self, node: NodeId, image: &MetadataImage) {
        let index = image.applied_index();
        let crc = crc32c::crc32c(&image.encode_snapshot());
        let known = *self.images.entry(index).or_insert(crc);
        if known != crc {
            self.report(Rule::EqualImages, format!("node {node} has another image of entry {index}"));
        }
    }

    /// META-2 to META-4, for each change that a node publishes. Every topic has one partition here.
    pub(crate) fn partitions(&mut self, node: NodeId, delta: &Delta) {
        for change in &delta.partitions_changed {
            self.partition(node, change.topic_id, change.old.as_ref(), &change.new);
        }
    }

    pub(crate) fn partition(
        &mut self,
        node: NodeId,
        topic_id: TopicId,
        old: Option<&Arc<PartitionImage>>,
        new: &Arc<PartitionImage>,
    ) {
        let known =
            Arc::clone(self.partitions.entry((topic_id, new.partition_epoch)).or_insert(Arc::clone(new)));
        if known != *new || old.is_some_and(|old| new.partition_epoch <= old.partition_epoch) {
            let text = format!("node {node}: {old:?} became {new:?}, and {known:?} has that epoch");
            self.report(Rule::PartitionEpochs, text);
        }
        if new.isr.iter().any(|member| !new.replicas.contains(member))
            || new.leader.is_some_and(|leader| !new.isr.contains(&leader))
        {
            self.report(Rule::IsrWithinReplicas, format!("node {node}: {topic_id} is {new:?}"));
        }
        let replicas = self.replicas.entry(topic_id).or_insert(Arc::clone(&new.replicas));
        if *replicas != new.replicas {
            let text = format!("node {node}: {topic_id} was assigned to {replicas:?} and is {new:?}");
            self.report(Rule::AssignedOnce, text);
        }
    }

    /// RAFT-1 to RAFT-3, after each step of a node.
    pub(crate) fn node(&mut self, id: NodeId, node: &RaftNode) {
        let quorum = node.quorum();
        let now = (quorum.is_leader, quorum.term, quorum.commit_index, node.last_index());
        if self.gone_through.insert(id, now) == Some(now) {
            return;
        }
        let last_index = node.last_index().get();
        self.logs(id, node, (quorum.commit_index, quorum.term), last_index);
        if quorum.is_leader {
            let known = *self.leaders.entry(quorum.term).or_insert(id);
            if known != id {
                self.report(
                    Rule::OneLeaderPerTerm,
                    format!("nodes {known} and {id} both lead term {}", quorum.term),
                );
            }
            self.leader_has_all(id, node, quorum.term, last_index);
        }
    }

    fn logs(
        &mut self,
        id: NodeId,
        node: &RaftNode,
        (commit_index, node_term): (LogIndex, Term),
        last_index: u64,
    ) {
        let mut before = None;
        for index in last_index.saturating_sub(12)..=last_index {
            let Some((term, data)) = node.log_entry(LogIndex(index)) else { continue };
            let before = before.replace(term.get());
            let data_crc = crc32c::crc32c(&data);
            let known = self.logs.entry((index, term.get())).or_insert((data_crc, before));
            let same_before = known.1.is_none() || before.is_none() || known.1 == before;
            if known.0 != data_crc || !same_before {
                self.report(
                    Rule::LogsMatch,
                    format!("node {id} has another entry {index} of term {term}, or another before it"),
                );
            }
            if index <= commit_index.get() {
                let seen = Seen { term: term.get(), data_crc };
                let (known, known_in) = self.committed.entry(index).or_insert((seen, node_term));
                *known_in = node_term.min(*known_in);
                let known = *known;
                if known != seen {
                    self.report(
                        Rule::CommittedSurvives,
                        format!("entry {index} was committed as {known:?}, and node {id} has {seen:?}"),
                    );
                }
            }
        }
    }

    /// The leader of a term has all that was committed by then. One that does not know yet that it leads no more
    /// may lack what is newer.
    fn leader_has_all(&mut self, id: NodeId, node: &RaftNode, term: Term, last_index: u64) {
        let due = self.committed.iter().rev().filter(|(_, (_, known_in))| *known_in <= term);
        let recent: Vec<(u64, Seen)> = due.take(12).map(|(index, (seen, _))| (*index, *seen)).collect();
        for (index, seen) in recent {
            let found = node.log_entry(LogIndex(index));
            let found = found.map(|(term, data)| Seen { term: term.get(), data_crc: crc32c::crc32c(&data) });
            if last_index < index || found.is_some_and(|found| found != seen) {
                self.report(
                    Rule::CommittedSurvives,
                    format!(
                        "entry {index} was committed as {seen:?}; leader {id} has {found:?} and ends at {last_index}"
                    ),
                );
            }
        }
    }

    /// RAFT-4, as each message leaves: what it promises is on the disk at that moment.
    pub(crate) fn message(&mut self, id: NodeId, message: &MessageSummary, disk: &SimDisk, dir: &Path) {
        let promises = match message.kind {
            MessageKind::AppendResponse | MessageKind::VoteResponse => !message.reject,
            MessageKind::Vote => true,
            MessageKind::Append
            | MessageKind::PreVote
            | MessageKind::PreVoteResponse
            | MessageKind::Snapshot
            | MessageKind::Heartbeat
            | MessageKind::HeartbeatResponse
            | MessageKind::TransferLeader
            | MessageKind::TimeoutNow
            | MessageKind::Forward
            | MessageKind::ForwardReply
            | MessageKind::Barrier
            | MessageKind::BarrierReply
            | MessageKind::BrokerHeartbeat => false,
        };
        if !promises || self.only.is_some_and(|only| only != Rule::PromisesAreDurable) {
            return;
        }
        let operation_count = disk.operation_count();
        let known = self.durable.get(&id).filter(|(count, _)| *count == operation_count);
        let durable = if let Some((_, durable)) = known {
            durable.clone()
        } else {
            match summarize_log(Arc::new(disk.durable_copy()), dir, id) {
                Ok(durable) => durable,
                Err(error) => {
                    self.report(
                        Rule::PromisesAreDurable,
                        format!("node {id} would not start again: {error}"),
                    );
                    return;
                }
            }
        };
        self.durable.insert(id, (operation_count, durable.clone()));
        let kept = match message.kind {
            MessageKind::AppendResponse => {
                message.term <= durable.term && message.index <= durable.last_index
            }
            MessageKind::VoteResponse => {
                message.term < durable.term
                    || (message.term == durable.term && durable.voted_for == message.to)
            }
            // A candidate promises to vote for no one else.
            MessageKind::Vote
            | MessageKind::Append
            | MessageKind::PreVote
            | MessageKind::PreVoteResponse
            | MessageKind::Snapshot
            | MessageKind::Heartbeat
            | MessageKind::HeartbeatResponse
            | MessageKind::TransferLeader
            | MessageKind::TimeoutNow
            | MessageKind::Forward
            | MessageKind::ForwardReply
            | MessageKind::Barrier
            | MessageKind::BarrierReply
            | MessageKind::BrokerHeartbeat => {
                message.term < durable.term || (message.term == durable.term && durable.voted_for == Some(id))
            }
        };
        if !kept {
            self.report(
                Rule::PromisesAreDurable,
                format!("node {id} sends {message:?} and has only {durable:?} on its disk"),
            );
        }
    }
}
