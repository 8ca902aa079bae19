//! This node's own proposals, on their way to whoever leads.
//!
//! | stage      | means                                    | left when                                           |
//! |------------|------------------------------------------|-----------------------------------------------------|
//! | `NoLeader` | nobody to send it to                     | a leader is known                                   |
//! | `Waiting`  | nobody took it at the last attempt       | it is time for another, or the leader changes       |
//! | `Sent`     | it is on its way to another node         | the leader answers, does not for long, or changes   |
//! | `Taken`    | it is in the log of that term's leader   | the leader changes                                  |
//!
//! In every stage it ends when this node applies an entry with its id, whoever has written that, or when its time
//! is over. It may be written more than once; the state machine lets it take effect once. What a batch gives is
//! never sent from node to node: each finds it out by applying.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_types::{LogIndex, MonotonicMs, Term};
use prost::Message as _;

use super::{Leadership, PROPOSAL_BYTES_MAX, RaftNode};
use crate::frame::{Body, Verdict};
use crate::log::{Applied, ProposalDone, ProposeError};
use crate::metadata::{
    BatchOutcome, COMMANDS_PER_BATCH_MAX, CommandBatch, FORMAT_VERSION_MAX, Known, REQUESTS_OUTSTANDING_MAX,
    RequestId,
};
use crate::store::{node_id, raft_id};

/// How long until another attempt where the leader did not take a proposal.
const RETRY_MS: u64 = 20;

/// How long until a proposal is sent again where no answer came; each further time waits twice as long,
const RESEND_MS: u64 = 200;
/// up to eight times.
const RESEND_DOUBLINGS_MAX: u32 = 3;

/// The proposals that have no answer yet.
pub(super) struct Proposals {
    incarnation: u64,
    next_sequence: u64,
    outstanding: BTreeMap<u64, Outstanding>,
    /// When one of them needs another attempt.
    due: Option<MonotonicMs>,
    /// The leadership under which all of them have been looked at.
    seen: Leadership,
}

struct Outstanding {
    batch: CommandBatch,
    begun_at: MonotonicMs,
    deadline: MonotonicMs,
    done: ProposalDone,
    /// Only the leader of this term, this very node, may take it.
    only_term: Option<Term>,
    stage: Stage,
    sent_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    NoLeader,
    Waiting { retry_at: MonotonicMs },
    Sent { to: Leadership, resend_at: MonotonicMs },
    Taken { by: Leadership },
}

impl Proposals {
    pub(super) fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            next_sequence: 1,
            outstanding: BTreeMap::new(),
            due: None,
            seen: Leadership::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// The leadership under which all of them have been looked at.
    pub(super) fn seen(&self) -> Leadership {
        self.seen
    }

    /// When something is to be done for one of them.
    pub(super) fn next_deadline(&self) -> Option<MonotonicMs> {
        let oldest = self.outstanding.values().next().map(|proposal| proposal.deadline);
        [oldest, self.due].into_iter().flatten().min()
    }

    /// Below this, every proposal has been answered.
    fn answered_below(&self) -> u64 {
        self.outstanding.keys().next().copied().unwrap_or(self.next_sequence)
    }

    fn wake_at(&mut self, at: MonotonicMs) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Takes out those that `which` names.
    fn take_all(&mut self, which: impl Fn(&Outstanding) -> bool) -> Vec<ProposalDone> {
        let taken = self.outstanding.extract_if(.., |_, proposal| which(proposal));
        taken.map(|(_, proposal)| proposal.done).collect()
    }
}

impl RaftNode {
    /// Proposes a batch, here or at whichever node leads, under a request id of its own. `done` is called from
    /// here where it is refused, and from [`RaftNode::advance`] or [`RaftNode::expire`] otherwise.
    ///
    /// With a term, the batch is proposed only if this node leads that term, and never by another.
    pub fn propose(
        &mut self,
        now: MonotonicMs,
        mut batch: CommandBatch,
        only_term: Option<Term>,
        done: ProposalDone,
    ) {
        if only_term.is_some_and(|term| !self.is_leader() || term != self.term()) {
            return done(Err(ProposeError::NotLeader { leader: self.leader() }));
        }
        if self.stalled.is_some() {
            return done(Err(ProposeError::DiskFull));
        }
        let sequence = self.proposals.next_sequence;
        if REQUESTS_OUTSTANDING_MAX <= sequence.saturating_sub(self.proposals.answered_below()) {
            return done(Err(ProposeError::Busy));
        }
        let incarnation = self.proposals.incarnation;
        batch.request_id = Some(RequestId { node_id: self.config.node_id.get(), incarnation, sequence });
        if let Err(error) = check_batch(&batch) {
            return done(Err(error));
        }
        self.proposals.next_sequence = sequence.saturating_add(1);
        let deadline = now.plus_ms(self.config.proposal_timeout_ms);
        let stage = Stage::NoLeader;
        self.proposals.outstanding.insert(
            sequence,
            Outstanding { batch, begun_at: now, deadline, done, only_term, stage, sent_count: 0 },
        );
        self.attempt(now, sequence);
    }

    /// Takes a proposal to whoever leads now.
    fn attempt(&mut self, now: MonotonicMs, sequence: u64) {
        let leadership = self.leadership();
        let answered_below = self.proposals.answered_below();
        let Some(proposal) = self.proposals.outstanding.get_mut(&sequence) else { return };
        if leadership.leader == 0 {
            proposal.stage = Stage::NoLeader;
            return;
        }
        proposal.batch.answered_below = answered_below;
        let encoded = proposal.batch.encode_to_vec();
        let retry_at = now.plus_ms(RETRY_MS);
        if leadership.leader == raft_id(self.config.node_id) {
            match self.raw.propose(Vec::new(), encoded) {
                Ok(()) => {
                    proposal.sent_count = proposal.sent_count.saturating_add(1);
                    proposal.stage = Stage::Taken { by: leadership };
                }
                // Too much is under way, or the leadership is being handed over.
                Err(raft::Error::ProposalDropped) if proposal.only_term.is_none() => {
                    proposal.stage = Stage::Waiting { retry_at };
                    self.proposals.wake_at(retry_at);
                }
                Err(error) => {
                    let answer = if error == raft::Error::ProposalDropped {
                        ProposeError::Busy
                    } else {
                        ProposeError::Stopped { reason: error.to_string() }
                    };
                    if let Some(proposal) = self.proposals.outstanding.remove(&sequence) {
                        (proposal.done)(Err(answer));
                    }
                }
            }
            return;
        }
        let doublings = proposal.sent_count.min(RESEND_DOUBLINGS_MAX);
        proposal.sent_count = proposal.sent_count.saturating_add(1);
        let sent = self.send_frame(leadership.leader, Body::Forward { batch: Bytes::from(encoded) });
        let at = if sent { now.plus_ms(RESEND_MS << doublings) } else { retry_at };
        if let Some(proposal) = self.proposals.outstanding.get_mut(&sequence) {
            proposal.stage = if sent {
                Stage::Sent { to: leadership, resend_at: at }
            } else {
                Stage::Waiting { retry_at: at }
            };
        }
        self.proposals.wake_at(at);
    }

    /// Takes every proposal whose time has come, or whose leader is not the leader any more, to the next. `true`
    /// says that there may be something to write or send.
    pub(super) fn pump_proposals(&mut self, now: MonotonicMs) -> bool {
        let leadership = self.leadership();
        let changed = leadership != self.proposals.seen;
        if self.stalled.is_some() || !changed && self.proposals.due.is_none_or(|due| now < due) {
            return false;
        }
        self.proposals.seen = leadership;
        self.proposals.due = None;
        // Those that only this node may propose have had their one chance.
        let lost = self.proposals.take_all(|proposal| {
            proposal.only_term.is_some() && proposal.stage != Stage::Taken { by: leadership }
        });
        for done in lost {
            done(Err(ProposeError::LeadershipLost));
        }
        let mut ready = Vec::new();
        for (sequence, proposal) in &self.proposals.outstanding {
            let at = match proposal.stage {
                Stage::NoLeader if leadership.leader == 0 => continue,
                Stage::Taken { by } if by == leadership || leadership.term < by.term => continue,
                Stage::NoLeader | Stage::Taken { .. } => now,
                Stage::Waiting { .. } if changed => now,
                Stage::Waiting { retry_at } => retry_at,
                Stage::Sent { to, .. } if to != leadership => now,
                Stage::Sent { resend_at, .. } => resend_at,
            };
            if at <= now {
                ready.push(*sequence);
            } else {
                self.proposals.due = Some(self.proposals.due.map_or(at, |due| due.min(at)));
            }
        }
        for sequence in &ready {
            self.attempt(now, *sequence);
        }
        !ready.is_empty()
    }

    /// A proposal of another node, which takes this one for the leader.
    pub(super) fn take_forwarded(&mut self, from: u64, batch: &Bytes) {
        let decoded = match CommandBatch::decode(batch.clone()) {
            Ok(decoded) => decoded,
            Err(error) => {
                let from = node_id(from);
                tracing::warn!(?from, %error, "a forwarded proposal cannot be decoded and was dropped");
                return;
            }
        };
        let own = decoded.request_id.filter(|id| node_id(from).is_some_and(|node| node.get() == id.node_id));
        let Some(id) = own.filter(|id| {
            id.sequence.saturating_sub(decoded.answered_below) < REQUESTS_OUTSTANDING_MAX
                && decoded.answered_below <= id.sequence
        }) else {
            let from = node_id(from);
            tracing::warn!(?from, "a forwarded proposal without an id of its sender was dropped");
            return;
        };
        let taken = Verdict::Taken { term: self.raw.raft.term };
        let verdict = if !self.is_leader() || self.stalled.is_some() {
            Verdict::NotNow
        } else {
            match self.image.known_request(id) {
                Known::Applied { .. } => taken,
                // Nobody waits for an answer.
                Known::Expired => return,
                Known::New => match check_batch(&decoded) {
                    Err(error) => Verdict::Unacceptable { reason: error.to_string() },
                    Ok(()) => match self.raw.propose(Vec::new(), batch.to_vec()) {
                        Ok(()) => taken,
                        Err(_) => Verdict::NotNow,
                    },
                },
            }
        };
        let RequestId { incarnation, sequence, .. } = id;
        self.send_frame(from, Body::ForwardReply { incarnation, sequence, verdict });
    }

    /// What the leader says to a proposal of this node.
    pub(super) fn take_verdict(
        &mut self,
        now: MonotonicMs,
        from: u64,
        (incarnation, sequence): (u64, u64),
        verdict: Verdict,
    ) {
        if incarnation != self.proposals.incarnation {
            return;
        }
        let Some(proposal) = self.proposals.outstanding.get_mut(&sequence) else { return };
        let Stage::Sent { to, .. } = proposal.stage else { return };
        if to.leader != from {
            return;
        }
        match verdict {
            Verdict::Taken { term } if to.term <= term => {
                proposal.stage = Stage::Taken { by: Leadership { leader: from, term } };
            }
            // By the leader of an earlier term: it may be lost.
            Verdict::Taken { .. } => {}
            Verdict::NotNow => {
                let retry_at = now.plus_ms(RETRY_MS);
                proposal.stage = Stage::Waiting { retry_at };
                self.proposals.wake_at(retry_at);
            }
            Verdict::Unacceptable { reason } => {
                if let Some(proposal) = self.proposals.outstanding.remove(&sequence) {
                    (proposal.done)(Err(ProposeError::Unacceptable { reason }));
                }
            }
        }
    }

    /// Answers the proposal behind an entry that has been applied, if it is one of this process.
    pub(super) fn answer(&mut self, id: Option<RequestId>, first_index: LogIndex, outcome: BatchOutcome) {
        let own = id.filter(|id| {
            id.node_id == self.config.node_id.get() && id.incarnation == self.proposals.incarnation
        });
        let Some(proposal) = own.and_then(|id| self.proposals.outstanding.remove(&id.sequence)) else {
            return;
        };
        self.metrics.proposal_latency_ms.record(self.now.since_ms(proposal.begun_at));
        (proposal.done)(match outcome {
            BatchOutcome::Applied(outputs) => Ok(Applied { index: first_index, outputs }),
            BatchOutcome::Refused { command_position, error } => {
                Err(ProposeError::Refused { command_position, error })
            }
        });
    }

    /// Answers the proposals that have been applied with a snapshot: no entry told of them.
    pub(super) fn answer_from_image(&mut self) {
        let (node_id, incarnation) = (self.config.node_id.get(), self.proposals.incarnation);
        let sequences: Vec<u64> = self.proposals.outstanding.keys().copied().collect();
        for sequence in sequences {
            let id = RequestId { node_id, incarnation, sequence };
            if let Known::Applied { index, outcome } = self.image.known_request(id) {
                self.answer(Some(id), index, outcome);
            }
        }
    }

    /// Fails the proposals whose time is over.
    pub(super) fn expire_proposals(&mut self, now: MonotonicMs) {
        let timeout_ms = self.config.proposal_timeout_ms;
        let leader = self.leader();
        while let Some(oldest) = self.proposals.outstanding.first_entry()
            && oldest.get().deadline <= now
        {
            let proposal = oldest.remove();
            (proposal.done)(Err(if proposal.sent_count == 0 {
                ProposeError::NotLeader { leader }
            } else {
                ProposeError::TimedOut { timeout_ms }
            }));
        }
    }

    /// Fails all proposals, as the node stops.
    pub(super) fn fail_proposals(&mut self, reason: &str) {
        for done in self.proposals.take_all(|_| true) {
            done(Err(ProposeError::Stopped { reason: reason.to_owned() }));
        }
    }
}

/// Refuses a batch that no entry can hold, or that this build could not apply: it would stop every node that
/// is like this one.
fn check_batch(batch: &CommandBatch) -> Result<(), ProposeError> {
    let len_bytes = batch.encoded_len();
    if PROPOSAL_BYTES_MAX < len_bytes || COMMANDS_PER_BATCH_MAX < batch.commands.len() {
        return Err(ProposeError::TooLarge {
            len_bytes,
            command_count: batch.commands.len(),
            max_bytes: PROPOSAL_BYTES_MAX,
            max_count: COMMANDS_PER_BATCH_MAX,
        });
    }
    let unknown_command = batch.commands.iter().position(|command| command.kind.is_none());
    if FORMAT_VERSION_MAX < batch.format_version || unknown_command.is_some() {
        return Err(ProposeError::UnknownFormat {
            found: batch.format_version,
            known: FORMAT_VERSION_MAX,
            unknown_command,
        });
    }
    Ok(())
}
