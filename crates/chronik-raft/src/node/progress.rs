//! How far each replica of the metadata log is, as its leader sees it: what `DescribeQuorum` tells (KIP-595, KIP-836).

use std::collections::BTreeMap;

use chronik_types::{LogIndex, MonotonicMs, NodeId};

use super::RaftNode;
use crate::log::ReplicaState;
use crate::store::{node_id, raft_id};

/// When each replica was heard of, and when it had everything.
#[derive(Default)]
pub(super) struct Progress {
    /// The term that this node leads; what was seen in another does not count.
    term: u64,
    replicas: BTreeMap<NodeId, Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    heard_at: Option<MonotonicMs>,
    /// The end of the leader's log when the replica was heard of last.
    leader_end: u64,
    /// The same of the time before that.
    before: Option<(MonotonicMs, u64)>,
    caught_up_at: Option<MonotonicMs>,
}

impl RaftNode {
    /// A replica has sent something.
    pub(super) fn note_heard(&mut self, from: NodeId) {
        if !self.is_leader() {
            return;
        }
        let leader_end = self.raw.raft.raft_log.last_index();
        let seen = self.progress.replicas.entry(from).or_default();
        if seen.heard_at != Some(self.now) {
            seen.before = seen.heard_at.map(|at| (at, seen.leader_end));
            seen.heard_at = Some(self.now);
            seen.leader_end = leader_end;
        }
    }

    /// Works out, after each turn, who had everything when it was heard of.
    pub(super) fn note_progress(&mut self) {
        let (term, now) = (self.raw.raft.term, self.now);
        if self.progress.term != term {
            self.progress.term = term;
            self.progress.replicas.clear();
        }
        if !self.is_leader() {
            return;
        }
        let tracker = self.raw.raft.prs();
        for (node, seen) in &mut self.progress.replicas {
            let matched = tracker.get(raft_id(*node)).map_or(0, |progress| progress.matched);
            if seen.heard_at != Some(now) {
                continue;
            }
            // Under load a replica is always a little behind. It has caught up as of the time before if it has by
            // now all that there was then.
            if seen.leader_end <= matched {
                seen.caught_up_at = Some(now);
            } else if let Some((at, leader_end)) = seen.before
                && leader_end <= matched
            {
                seen.caught_up_at = Some(at);
            }
        }
    }

    /// The voters and learners, ascending; empty where this node does not lead.
    pub(super) fn replicas(&self) -> Vec<ReplicaState> {
        if !self.is_leader() {
            return Vec::new();
        }
        let state = &self.conf_state;
        let mut found: Vec<ReplicaState> = state
            .voters
            .iter()
            .chain(&state.learners)
            .filter_map(|id| {
                let node = node_id(*id)?;
                if node == self.config.node_id {
                    return Some(ReplicaState {
                        node,
                        log_end_index: self.last_index(),
                        last_fetch: Some(self.now),
                        last_caught_up: Some(self.now),
                    });
                }
                let matched = self.raw.raft.prs().get(*id).map_or(0, |progress| progress.matched);
                let seen = self.progress.replicas.get(&node).copied().unwrap_or_default();
                Some(ReplicaState {
                    node,
                    log_end_index: LogIndex(matched),
                    last_fetch: seen.heard_at,
                    last_caught_up: seen.caught_up_at,
                })
            })
            .collect();
        found.sort_unstable_by_key(|replica| replica.node);
        found
    }
}
