//! What must hold at every step, whatever happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chronik_disk::SimDisk;
use chronik_raft::inspect::{LogSummary, MessageKind, MessageSummary, summarize_log};
use chronik_raft::metadata::MetadataImage;
use chronik_raft::{QuorumState, RaftNode};
use chronik_types::{LogIndex, NodeId, Term};

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
    /// A request takes effect once, and what was acknowledged is there.
    ExactlyOnce,
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
    committed: BTreeMap<u64, Seen>,
    images: BTreeMap<LogIndex, u32>,
    /// What each node's log looked like when it was last gone through.
    gone_through: BTreeMap<NodeId, (QuorumState, LogIndex)>,
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

    /// RAFT-1 to RAFT-3, after each step of a node.
    pub(crate) fn node(&mut self, id: NodeId, node: &RaftNode) {
        let quorum = node.quorum();
        let now = (quorum.clone(), node.last_index());
        if self.gone_through.insert(id, now.clone()) == Some(now) {
            return;
        }
        let last_index = node.last_index().get();
        self.logs(id, node, quorum.commit_index, last_index);
        if quorum.is_leader {
            let known = *self.leaders.entry(quorum.term).or_insert(id);
            if known != id {
                self.report(
                    Rule::OneLeaderPerTerm,
                    format!("nodes {known} and {id} both lead term {}", quorum.term),
                );
            }
            self.leader_has_all(id, node, last_index);
        }
    }

    fn logs(&mut self, id: NodeId, node: &RaftNode, commit_index: LogIndex, last_index: u64) {
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
                let known = *self.committed.entry(index).or_insert(seen);
                if known != seen {
                    self.report(
                        Rule::CommittedSurvives,
                        format!("entry {index} was committed as {known:?}, and node {id} has {seen:?}"),
                    );
                }
            }
        }
    }

    fn leader_has_all(&mut self, id: NodeId, node: &RaftNode, last_index: u64) {
        let Some((&newest, _)) = self.committed.last_key_value() else { return };
        if last_index < newest {
            self.report(
                Rule::CommittedSurvives,
                format!("entry {newest} is committed, and the log of leader {id} ends at {last_index}"),
            );
        }
        let recent: Vec<(u64, Seen)> =
            self.committed.range(newest.saturating_sub(12)..).map(|(index, seen)| (*index, *seen)).collect();
        for (index, seen) in recent {
            if let Some((term, data)) = node.log_entry(LogIndex(index)) {
                let found = Seen { term: term.get(), data_crc: crc32c::crc32c(&data) };
                if found != seen {
                    self.report(
                        Rule::CommittedSurvives,
                        format!("entry {index} was committed as {seen:?}, and leader {id} has {found:?}"),
                    );
                }
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
            | MessageKind::TimeoutNow => false,
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
            | MessageKind::TimeoutNow => {
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
