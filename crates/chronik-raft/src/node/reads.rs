//! Barriers: how a node learns that its image is as new as everything that any node has answered.
//!
//! All barriers that arrive between two turns of the node form a round. A round asks the leader for its commit
//! index, which the leader gives once a majority has confirmed that it leads (Raft thesis, section 6.4, "`ReadIndex`").
//! When this node has applied that far, the round is over. Raft drops such questions without a word while the
//! leader has committed nothing in its term, and messages may be lost: a round asks again until it is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use chronik_types::{LogIndex, MonotonicMs};
use raft::ReadState;

use super::contact::CONTACT_TIMEOUT_MS;
use super::{Leadership, RaftNode};
use crate::frame::Body;
use crate::log::{BarrierDone, ProposeError};
use crate::store::raft_id;

/// The most barriers that wait; more are refused with [`ProposeError::Busy`].
const BARRIERS_WAITING_MAX: usize = 16_384;

/// How long until a round asks again.
const RETRY_MS: u64 = 50;

/// The barriers that wait.
#[derive(Default)]
pub(super) struct Reads {
    gathered: Vec<BarrierDone>,
    rounds: BTreeMap<u64, Round>,
    next_round: u64,
    waiting_count: usize,
}

struct Round {
    waiting: Vec<BarrierDone>,
    begun_at: MonotonicMs,
    deadline: MonotonicMs,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Asking { of: Leadership, retry_at: MonotonicMs },
    Confirmed { index: LogIndex },
}

impl Reads {
    pub(super) fn next_deadline(&self) -> Option<MonotonicMs> {
        let due = self.rounds.values().map(|round| match round.stage {
            Stage::Asking { of, retry_at } if of.leader != 0 => retry_at.min(round.deadline),
            Stage::Asking { .. } | Stage::Confirmed { .. } => round.deadline,
        });
        due.min()
    }

    fn take_all(&mut self) -> Vec<BarrierDone> {
        let mut all = std::mem::take(&mut self.gathered);
        all.extend(std::mem::take(&mut self.rounds).into_values().flat_map(|round| round.waiting));
        self.waiting_count = 0;
        all
    }
}

impl RaftNode {
    /// Calls `done` with an image that is at least as new as everything that any node has answered by now.
    pub fn barrier(&mut self, done: BarrierDone) {
        if BARRIERS_WAITING_MAX <= self.reads.waiting_count {
            return done(Err(ProposeError::Busy));
        }
        self.reads.waiting_count = self.reads.waiting_count.saturating_add(1);
        self.reads.gathered.push(done);
    }

    /// Begins the next round, and asks again for those that have no answer. `true` says that there may be
    /// something to send.
    pub(super) fn pump_reads(&mut self, now: MonotonicMs) -> bool {
        let leadership = self.leadership();
        let mut asking = Vec::new();
        let is_contact_due = self.is_contact_due(now);
        if is_contact_due || !self.reads.gathered.is_empty() {
            let round = self.reads.next_round;
            self.reads.next_round = round.saturating_add(1);
            let waiting = std::mem::take(&mut self.reads.gathered);
            // Where nobody waits, an answer is of no use for longer.
            let wait_ms =
                if waiting.is_empty() { CONTACT_TIMEOUT_MS } else { self.config.proposal_timeout_ms };
            let deadline = now.plus_ms(wait_ms);
            let stage = Stage::Asking { of: Leadership::default(), retry_at: now };
            self.reads.rounds.insert(round, Round { waiting, begun_at: now, deadline, stage });
        }
        for (number, round) in &mut self.reads.rounds {
            if let Stage::Asking { of, retry_at } = &mut round.stage
                && (*of != leadership || *retry_at <= now)
            {
                // Where nobody leads there is nobody to ask, and nothing to hurry for before somebody does.
                (*of, *retry_at) = (leadership, now.plus_ms(RETRY_MS));
                if leadership.leader != 0 {
                    asking.push(*number);
                }
            }
        }
        let incarnation = self.config.incarnation;
        for round in &asking {
            if leadership.leader == raft_id(self.config.node_id) {
                self.ask_quorum(leadership.leader, incarnation, *round);
            } else {
                // One that is lost is asked again.
                self.send_frame(leadership.leader, Body::Barrier { incarnation, round: *round });
            }
        }
        !asking.is_empty()
    }

    /// Has a majority confirm that this node leads, for a round of this or another node.
    pub(super) fn ask_quorum(&mut self, asker: u64, incarnation: u64, round: u64) {
        if self.stalled.is_some() || !self.is_leader() {
            return;
        }
        let mut context = Vec::with_capacity(32);
        context.put_u64(asker);
        context.put_u64(incarnation);
        context.put_u64(round);
        context.put_u64(self.now.0);
        self.raw.read_index(context);
    }

    /// A majority has confirmed that this node led when it was asked.
    pub(super) fn confirmed(&mut self, states: Vec<ReadState>) {
        for state in states {
            let mut context = state.request_ctx.as_slice();
            let (Ok(asker), Ok(incarnation), Ok(round), Ok(asked_at)) =
                (context.try_get_u64(), context.try_get_u64(), context.try_get_u64(), context.try_get_u64())
            else {
                continue;
            };
            // Whoever has asked, the majority has answered this node.
            self.note_contact(MonotonicMs(asked_at));
            if asker == raft_id(self.config.node_id) {
                self.take_barrier_reply(incarnation, round, state.index);
            } else {
                self.send_frame(asker, Body::BarrierReply { incarnation, round, index: state.index });
            }
        }
    }

    /// Everything that had been answered when the round began is committed up to `index`.
    pub(super) fn take_barrier_reply(&mut self, incarnation: u64, round: u64, index: u64) {
        if incarnation == self.config.incarnation
            && let Some(round) = self.reads.rounds.get_mut(&round)
        {
            round.stage = Stage::Confirmed { index: LogIndex(index) };
        }
    }

    /// Ends the rounds that this node's image has reached: as of when the last of them began, the image was the cluster's.
    pub(super) fn finish_reads(&mut self) {
        let applied_index = self.image.applied_index();
        let reached = self.reads.rounds.extract_if(.., |_, round| match round.stage {
            Stage::Asking { .. } => false,
            Stage::Confirmed { index } => index <= applied_index,
        });
        let (begun, waiting): (Vec<MonotonicMs>, Vec<Vec<BarrierDone>>) =
            reached.map(|(_, round)| (round.begun_at, round.waiting)).unzip();
        let reached: Vec<BarrierDone> = waiting.into_iter().flatten().collect();
        self.reads.waiting_count = self.reads.waiting_count.saturating_sub(reached.len());
        if let Some(begun_at) = begun.into_iter().max() {
            self.note_contact(begun_at);
        }
        for done in reached {
            done(Ok(Arc::clone(&self.image)));
        }
    }

    /// Fails the barriers whose time is over.
    pub(super) fn expire_reads(&mut self, now: MonotonicMs) {
        let timeout_ms = self.config.proposal_timeout_ms;
        let over = self.reads.rounds.extract_if(.., |_, round| round.deadline <= now);
        let over: Vec<BarrierDone> = over.flat_map(|(_, round)| round.waiting).collect();
        self.reads.waiting_count = self.reads.waiting_count.saturating_sub(over.len());
        for done in over {
            done(Err(ProposeError::TimedOut { timeout_ms }));
        }
    }

    /// Fails all barriers, as the node stops.
    pub(super) fn fail_reads(&mut self, reason: &str) {
        for done in self.reads.take_all() {
            done(Err(ProposeError::Stopped { reason: reason.to_owned() }));
        }
    }
}
