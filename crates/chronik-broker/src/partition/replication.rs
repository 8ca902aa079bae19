//! A partition as leader and as follower.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use chronik_log::{AppendError, Log, LogError};
use chronik_protocol::records::BatchHeader;
use chronik_raft::ProposeError;
use chronik_raft::metadata::{CommandBatch, MetadataImage, PartitionImage, UpdateIsr};
use chronik_replication::follower::{self, Answer, BACKOFF_MS, EpochEnd, OwnLog, STORAGE_BACKOFF_MS, Step};
use chronik_replication::{
    Effects, FetchPosition, FollowerFetch, IsrCause, IsrProposal, Leader, LeaderSettings, LeaderTerm,
    Membership,
};
use chronik_types::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Now, Offset};

use super::replicas::{Committing, FailedProposal, Replicas, Role, TrimmedDone, Trimming, fail};
use super::{Partition, wake};

/// What is left to do once the lock on the replicas is let go.
#[derive(Default)]
pub(super) struct Deferred {
    /// The high watermark has moved over this many bytes.
    committed_bytes: Option<u64>,
    done: Vec<Committing>,
    /// The low watermark has reached what these wait for.
    trimmed: Vec<(TrimmedDone, Offset)>,
    propose: Option<IsrProposal>,
}

/// What a leader answered to a fetch of this partition.
#[derive(Clone, Debug)]
pub(crate) struct LeaderAnswer {
    /// The epoch in which the follower asked.
    pub(crate) leader_epoch: LeaderEpoch,
    /// Where it asked from.
    pub(crate) fetched_from: Offset,
    pub(crate) error: ErrorCode,
    pub(crate) high_watermark: Offset,
    pub(crate) log_start_offset: Offset,
    pub(crate) diverging: Option<EpochEnd>,
    pub(crate) records: Bytes,
}

/// Where a follower stands after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It goes on from here.
    At(FetchPosition),
    /// It tries again after this time, from here.
    Wait {
        /// From where.
        position: FetchPosition,
        /// Milliseconds.
        delay_ms: u64,
    },
    /// It does not follow in that epoch any more.
    Over,
}

/// What the image says of the brokers and the topic's settings.
pub(crate) struct Standing<'a> {
    pub(crate) image: &'a MetadataImage,
    /// Whether this process is registered, and not an earlier one of this node.
    pub(crate) is_registered: bool,
    pub(crate) settings: LeaderSettings,
}

impl Membership for Standing<'_> {
    fn live_epoch(&self, node: NodeId) -> Option<BrokerEpoch> {
        self.image.broker(node).filter(|broker| broker.is_active()).map(|broker| broker.epoch)
    }
}

/// A log, as the follower's rules look at it.
struct Own<'a>(&'a Log);

impl OwnLog for Own<'_> {
    fn log_end_offset(&self) -> Offset {
        self.0.log_end_offset()
    }

    fn log_start_offset(&self) -> Offset {
        self.0.log_start_offset()
    }

    fn epoch_end(&self, leader_epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.0
            .end_offset_for_epoch(leader_epoch)
            .map(|end| EpochEnd { leader_epoch: end.leader_epoch, end_offset: end.end_offset })
    }

    fn last_record_epoch(&self) -> Option<LeaderEpoch> {
        self.0.last_record_epoch()
    }
}

impl Partition {
    /// Becomes what the metadata image says, and takes up its changes.
    pub(crate) fn take_up(
        self: &Arc<Self>,
        now: Now,
        state: &PartitionImage,
        standing: &Standing<'_>,
    ) -> Result<(), LogError> {
        self.is_shared.store(state.replicas.len() > 1, Ordering::Release);
        let outcome = match state.leader {
            Some(leader) if leader == self.services.node_id && standing.is_registered => {
                self.lead(now, state, standing)
            }
            // An earlier process was elected. Whether this one still has what that one had, the cluster decides when it
            // registers; until then it must add nothing to that epoch, not even its beginning.
            Some(leader) if leader == self.services.node_id => {
                self.follow(now, None, state.leader_epoch, false)
            }
            leader => {
                // While the image still counts on what is here, this process has told nobody yet that it lacks records.
                let node = self.services.node_id;
                let is_counted_on = state.isr.contains(&node) || state.elr.contains(&node);
                self.follow(now, leader, state.leader_epoch, standing.is_registered && !is_counted_on)
            }
        };
        self.is_behind.store(outcome.is_err(), Ordering::Release);
        outcome
    }

    /// Takes the lead, or takes up a change of the ISR while it leads. The epoch is in the log before anything is
    /// appended under it.
    fn lead(
        self: &Arc<Self>,
        now: Now,
        state: &PartitionImage,
        standing: &Standing<'_>,
    ) -> Result<(), LogError> {
        let term = LeaderTerm {
            replicas: state.replicas.to_vec(),
            isr: state.isr.to_vec(),
            elr: state.elr.to_vec(),
            is_recovering: state.is_recovering,
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
        };
        // An append that stands still before a slow disk must not keep the metadata waiting.
        if let Some(deferred) = self.take_up_changes(now, &term, standing) {
            self.run(now, deferred);
            return Ok(());
        }
        let begin = || {
            if state.leader_epoch < self.leader_epoch() {
                return Ok(None);
            }
            // From here on this log is what the others are to have, and what it lacks is gone.
            self.log.forget_hole()?;
            self.log.begin_epoch(state.leader_epoch)?;
            if LeaderEpoch(0) < state.leader_epoch && state.replicas.len() > 1 {
                self.log.note_election(now);
            }
            let end = self.log.log_end_offset();
            let mut leader = Leader::new(
                now.monotonic,
                self.services.node_id,
                &term,
                standing,
                end,
                self.high_watermark(),
                standing.settings,
            );
            // Alone in sync, it has committed what it has.
            let appended = leader.appended(now.monotonic, end);
            let configured = leader.configure(now.monotonic, standing.settings);
            let effects = Effects {
                high_watermark: configured.high_watermark.or(appended.high_watermark),
                propose: configured.propose,
            };
            let mut replicas = self.replicas.lock();
            let waiting = replicas.begin(Role::Leader(Box::new(leader)), end);
            self.leader_epoch.store(state.leader_epoch.get(), Ordering::Release);
            self.is_leader.store(true, Ordering::Release);
            Ok(Some((self.follow_up(&mut replicas, effects), waiting)))
        };
        self.without_appends(now, begin, |begun| {
            if let Some((deferred, waiting)) = begun? {
                fail(now, waiting, Vec::new());
                self.run(now, deferred);
            }
            Ok(())
        })
    }

    /// Takes up what has changed within the epoch in which this broker leads; nothing, where it does not lead in it.
    fn take_up_changes(&self, now: Now, term: &LeaderTerm, standing: &Standing<'_>) -> Option<Deferred> {
        let mut replicas = self.replicas.lock();
        let leader = replicas.leader().filter(|leader| leader.leader_epoch() == term.leader_epoch)?;
        let changed = leader.changed(now.monotonic, term);
        let entered = leader.membership_changed(now.monotonic, standing);
        let configured = leader.configure(now.monotonic, standing.settings);
        let high_watermark = configured.high_watermark.or(entered.high_watermark).or(changed.high_watermark);
        let effects = Effects { high_watermark, propose: changed.propose.or(configured.propose) };
        Some(self.follow_up(&mut replicas, effects))
    }

    /// Follows `leader`, or nobody, from now on. Everyone who waits for this broker as the leader is told so.
    ///
    /// It goes on from its log's end, which must have nothing missing before it: what the leader counts as copied is all
    /// that lies below. So a log with a hole is cut there first, and the leader's records take the place of its own; one that
    /// only begins later than it did, once the leader says that it still has what came before.
    fn follow(
        self: &Arc<Self>,
        now: Now,
        leader: Option<NodeId>,
        leader_epoch: LeaderEpoch,
        may_cut: bool,
    ) -> Result<(), LogError> {
        if self.goes_on_following(leader, leader_epoch, may_cut) {
            return Ok(());
        }
        let begin = || {
            if leader_epoch < self.leader_epoch() {
                return None;
            }
            self.may_cut.store(may_cut, Ordering::Release);
            let hole = self.log.hole_within().filter(|_| may_cut && leader.is_some());
            let outcome = hole.map_or(Ok(()), |hole| self.cut_at_hole(now, hole));
            // Without the cut it must not follow; it is tried again.
            let leader = leader.filter(|_| outcome.is_ok());
            let mut replicas = self.replicas.lock();
            if replicas.follows(leader, leader_epoch) {
                return None;
            }
            self.is_leader.store(false, Ordering::Release);
            self.leader_epoch.store(leader_epoch.get(), Ordering::Release);
            let role = leader.map_or(Role::None, |leader| Role::Follower { leader, leader_epoch });
            Some((replicas.begin(role, self.log.log_end_offset()), replicas.take_all_trimming(), outcome))
        };
        self.without_appends(now, begin, |begun| {
            let Some((waiting, trimming, outcome)) = begun else { return Ok(()) };
            fail(now, waiting, trimming);
            self.wake_everyone(now);
            outcome
        })
    }

    /// Whether it follows in this way already and has nothing to cut. What it writes for its leader meanwhile must not keep
    /// the metadata waiting.
    fn goes_on_following(&self, leader: Option<NodeId>, leader_epoch: LeaderEpoch, may_cut: bool) -> bool {
        let is_to_be_cut = may_cut && self.log.hole_within().is_some();
        let goes_on = !is_to_be_cut && self.replicas.lock().follows(leader, leader_epoch);
        if goes_on {
            self.may_cut.store(may_cut, Ordering::Release);
        }
        goes_on
    }

    fn cut_at_hole(&self, now: Now, hole: Offset) -> Result<(), LogError> {
        tracing::warn!(
            "{}-{} is cut from offset {} to {hole}: records are missing from there, which the leader has",
            self.topic,
            self.index,
            self.log.log_end_offset(),
        );
        self.cut_to(now, hole)
    }

    fn cut_to(&self, now: Now, offset: Offset) -> Result<(), LogError> {
        self.log.truncate_to(now, offset)?;
        self.note_high_watermark(self.high_watermark().min(self.log.log_end_offset()));
        Ok(())
    }

    /// Takes in what a leader's event asks for, as far as it is done under the lock.
    pub(super) fn follow_up(&self, replicas: &mut Replicas, effects: Effects) -> Deferred {
        let mut deferred = Deferred { propose: effects.propose, ..Deferred::default() };
        if let Some(high_watermark) = effects.high_watermark {
            // REPL-1: it never goes back within a leader epoch, here or in the log.
            if self.high_watermark() < high_watermark {
                self.high_watermark.store(high_watermark.get(), Ordering::SeqCst);
                self.log.set_high_watermark(high_watermark);
            }
            // What an earlier role wrote has no size here, and is news all the same.
            deferred.committed_bytes = Some(replicas.take_sizes(high_watermark).max(1));
            deferred.done = replicas.take_committed(high_watermark);
        }
        if replicas.is_trimming()
            && let Some(low_watermark) = self.low_watermark(replicas)
        {
            let trimmed = replicas.take_trimmed(low_watermark);
            deferred.trimmed = trimmed.into_iter().map(|waiting| (waiting.done, low_watermark)).collect();
        }
        deferred
    }

    /// Does the rest, with no lock held.
    pub(super) fn run(self: &Arc<Self>, now: Now, deferred: Deferred) {
        let Deferred { committed_bytes, done, trimmed, propose } = deferred;
        if let Some(bytes) = committed_bytes {
            wake(&self.watchers, now, bytes);
        }
        for Committing { appended, done } in done {
            done(now, Ok(appended));
        }
        for (done, low_watermark) in trimmed {
            done(Ok(low_watermark));
        }
        if let Some(proposal) = propose {
            self.propose(proposal);
        }
    }

    /// The first offset that any live replica still holds, where this broker leads (KIP-107).
    fn low_watermark(&self, replicas: &mut Replicas) -> Option<Offset> {
        let own = self.log.log_start_offset();
        replicas.leader().map(|leader| leader.low_watermark(own))
    }

    /// Deletes everything below an offset here, and calls `done` once no live replica holds any of it.
    pub(crate) fn trim(
        self: &Arc<Self>,
        now: Now,
        before: Offset,
        done: TrimmedDone,
    ) -> Result<(), LogError> {
        self.log.delete_records(before)?;
        let abandoned = {
            let mut replicas = self.replicas.lock();
            let Some(low_watermark) = self.low_watermark(&mut replicas) else {
                drop(replicas);
                done(Err(ErrorCode::NotLeaderOrFollower));
                return Ok(());
            };
            if before <= low_watermark {
                drop(replicas);
                done(Ok(low_watermark));
                return Ok(());
            }
            replicas.wait_for_trim(Trimming { before, done })
        };
        if let Some(abandoned) = abandoned {
            (abandoned.done)(Err(ErrorCode::RequestTimedOut));
        }
        // Followers that wait for records are told where the log starts now.
        wake(&self.append_watchers, now, u64::MAX);
        Ok(())
    }

    /// Has the leader's state take in an event, if this broker leads, and does what follows from it.
    fn with_leader(self: &Arc<Self>, now: Now, event: impl FnOnce(&mut Leader) -> Effects) {
        let deferred = {
            let mut replicas = self.replicas.lock();
            let effects = replicas.leader().map(event).unwrap_or_default();
            self.follow_up(&mut replicas, effects)
        };
        self.run(now, deferred);
    }

    /// A follower has asked for records, and so has told how far it has come.
    /// It was asked in `epoch`; in another one it says nothing about this log.
    pub(crate) fn replica_fetched(self: &Arc<Self>, now: Now, epoch: LeaderEpoch, fetch: FollowerFetch) {
        self.with_leader(now, |leader| {
            if leader.leader_epoch() == epoch {
                leader.fetched(now.monotonic, fetch)
            } else {
                Effects::default()
            }
        });
    }

    /// Brokers have entered or left service.
    pub(crate) fn membership_changed(self: &Arc<Self>, now: Now, standing: &Standing<'_>) {
        self.with_leader(now, |leader| leader.membership_changed(now.monotonic, standing));
    }

    /// Looks for replicas that have fallen behind, and proposes again what has no known outcome.
    pub(crate) fn check_replicas(self: &Arc<Self>, now: Now) {
        let unknown = self.replicas.lock().unknown_proposal.take();
        self.with_leader(now, |leader| {
            let again = unknown.and_then(|epoch| leader.again(epoch));
            let effects = leader.check(now.monotonic);
            Effects { propose: effects.propose.or(again), ..effects }
        });
    }

    /// Whether enough replicas are in sync for `acks=all`, where this broker leads.
    pub(crate) fn has_enough_in_sync(&self) -> Option<bool> {
        self.replicas.lock().leader().map(|leader| leader.has_enough_in_sync())
    }

    /// Whether a broker holds a replica, where this one leads.
    pub(crate) fn has_follower(&self, node: NodeId) -> bool {
        self.replicas.lock().leader().is_some_and(|leader| leader.replica(node).is_some())
    }

    /// Whether the newest committed offset is known here (KIP-207).
    pub(crate) fn is_settled(&self) -> bool {
        self.replicas.lock().leader().is_some_and(|leader| leader.is_settled())
    }

    /// How many records the replica lacks that is furthest behind, where this broker leads.
    pub(crate) fn replica_lag_max(&self) -> Option<u64> {
        self.replicas.lock().leader().map(|leader| leader.replica_lag_max())
    }

    /// Whether any other broker holds a replica.
    pub(crate) fn is_replicated(&self) -> bool {
        self.replicas.lock().leader().is_some_and(|leader| leader.is_replicated())
    }

    /// Asks the metadata log for another ISR.
    fn propose(self: &Arc<Self>, proposal: IsrProposal) {
        let mut command =
            UpdateIsr::new(self.topic_id, self.index, &proposal.isr, Some(proposal.partition_epoch))
                .with_elr(&proposal.elr)
                .with_recovery(proposal.cause == IsrCause::Recovered)
                .with_broker_epochs(proposal.broker_epochs.iter().copied());
        command.leader_epoch = Some(proposal.leader_epoch.get());
        let partition = Arc::downgrade(self);
        self.services.metadata.propose(
            CommandBatch::new(vec![command.into()]),
            Box::new(move |outcome| {
                let Some(partition) = partition.upgrade() else { return };
                if let Err(error) = outcome {
                    partition.isr_change_failed(&proposal, &error);
                }
            }),
        );
    }

    fn isr_change_failed(self: &Arc<Self>, proposal: &IsrProposal, error: &ProposeError) {
        tracing::debug!(
            topic = &*self.topic,
            partition = self.index.get(),
            "an ISR was not changed: {error}"
        );
        let now = self.services.clock.now();
        let outcome = match error {
            ProposeError::Refused { .. } => FailedProposal::Refused,
            ProposeError::NotLeader { .. }
            | ProposeError::Busy
            | ProposeError::DiskFull
            | ProposeError::TooLarge { .. }
            | ProposeError::UnknownFormat { .. } => FailedProposal::NotTaken,
            // Of these it cannot be said that no leader of the metadata log has taken it.
            ProposeError::Unacceptable { .. }
            | ProposeError::LeadershipLost
            | ProposeError::TimedOut { .. }
            | ProposeError::CannotApply(_)
            | ProposeError::Stopped { .. } => FailedProposal::Unknown,
        };
        if self.replicas.lock().may_take_effect(proposal.partition_epoch, outcome) {
            return;
        }
        self.with_leader(now, |leader| {
            if leader.leader_epoch() == proposal.leader_epoch {
                leader.refused(now.monotonic, proposal.partition_epoch)
            } else {
                Effects::default()
            }
        });
    }

    /// Where this broker would go on as a follower.
    pub(crate) fn fetch_position(&self) -> FetchPosition {
        position_in(&self.log, self.leader_epoch())
    }

    /// Takes in what the leader answered.
    pub(crate) fn apply_answer(self: &Arc<Self>, now: Now, answer: LeaderAnswer) -> Applied {
        let asked_from = answer.fetched_from;
        let apply = || {
            let follows = matches!(
                self.replicas.lock().role,
                Role::Follower { leader_epoch, .. } if leader_epoch == answer.leader_epoch
            );
            let goes_on = follows && !self.is_deleted.load(Ordering::Acquire);
            goes_on.then(|| self.apply_in_order(now, answer))
        };
        self.without_appends(now, apply, |applied| self.go_on_after(now, asked_from, applied))
    }

    /// Where to go on after an answer that was asked for from `asked_from`; `applied` is how long to wait, in milliseconds.
    fn go_on_after(
        &self,
        now: Now,
        asked_from: Offset,
        applied: Option<Result<u64, AppendError>>,
    ) -> Applied {
        let Some(applied) = applied else { return Applied::Over };
        match applied {
            Ok(delay_ms) => {
                let position = self.fetch_position();
                wake(&self.watchers, now, 0);
                if delay_ms == 0 { Applied::At(position) } else { Applied::Wait { position, delay_ms } }
            }
            Err(error) => {
                tracing::warn!(
                    topic = &*self.topic,
                    partition = self.index.get(),
                    "cannot follow the leader for now: {error}"
                );
                let mut position = self.fetch_position();
                if self.log.check_usable().is_err() {
                    // What was appended last may never get to the disk. Asking from its end would tell the leader
                    // that it is there.
                    position.fetch_offset = position.fetch_offset.min(asked_from);
                }
                Applied::Wait { position, delay_ms: STORAGE_BACKOFF_MS }
            }
        }
    }

    fn apply_in_order(&self, now: Now, answer: LeaderAnswer) -> Result<u64, AppendError> {
        self.log.check_usable()?;
        let told = Answer {
            error: answer.error,
            log_start_offset: answer.log_start_offset,
            diverging: answer.diverging,
        };
        if self.log.hole().is_some() {
            self.settle_hole(now, &told)?;
            return Ok(if self.log.hole().is_some() { BACKOFF_MS } else { 0 });
        }
        match follower::next_step(&Own(&self.log), answer.fetched_from, &told) {
            Step::Wait { delay_ms } => Ok(delay_ms),
            Step::Append => {
                let mut end = self.log.log_end_offset();
                if !answer.records.is_empty() {
                    self.begin_with_batch(now, answer.log_start_offset, &answer.records)?;
                    let appended = self.log.append_as_follower(now, answer.records, answer.leader_epoch)?;
                    end = appended.log_end_offset;
                    if let Some(up_to) = appended.sync_up_to {
                        // The next fetch tells the leader that this replica has the records: by then they must be
                        // on its disk, or all replicas together could lose what was acknowledged.
                        self.log.sync_up_to(up_to)?;
                    }
                }
                let high_watermark = follower::high_watermark(answer.high_watermark, end);
                if self.high_watermark() < high_watermark {
                    self.note_high_watermark(high_watermark);
                }
                if self.log.log_start_offset() < answer.log_start_offset {
                    self.log.delete_records(answer.log_start_offset.min(self.high_watermark()))?;
                }
                Ok(0)
            }
            Step::TruncateTo(offset) => {
                tracing::info!(
                    "{}-{} is cut from offset {} to {offset}: the leader of epoch {} has another history from there",
                    self.topic,
                    self.index,
                    self.log.log_end_offset(),
                    answer.leader_epoch,
                );
                self.cut_to(now, offset)?;
                Ok(0)
            }
            Step::StartAt(offset) => {
                tracing::info!(
                    "{}-{} begins anew at offset {offset}: the leader's log holds nothing that this one could go on \
                     from",
                    self.topic,
                    self.index,
                );
                self.log.truncate_fully_and_start_at(now, offset)?;
                self.note_high_watermark(offset);
                Ok(0)
            }
        }
    }

    /// Takes in what the leader says of a log that begins later than it did. Where the leader's begins no earlier, nothing is
    /// missing at the beginning; what is missing further on is missing still.
    fn settle_hole(&self, now: Now, answer: &Answer) -> Result<(), LogError> {
        let is_told = answer.error.is_none() || answer.error == ErrorCode::OffsetOutOfRange;
        if !is_told || answer.log_start_offset < Offset::ZERO {
            return Ok(());
        }
        if self.log.log_start_offset() <= answer.log_start_offset {
            self.log.forget_late_beginning()?;
        }
        match self.log.hole() {
            Some(hole) if self.may_cut.load(Ordering::Acquire) => self.cut_at_hole(now, hole),
            Some(_) | None => Ok(()),
        }
    }

    /// A log that was begun anew where the leader's begins may have been begun within a batch: deleted records go one by
    /// one, and batches come whole. Then it begins with that batch (KAFKA-6975), and its start moves on once it is there. So
    /// does one of which everything lies below the leader's start: that may be another history, which nobody can tell.
    fn begin_with_batch(&self, now: Now, leader_start: Offset, records: &[u8]) -> Result<(), AppendError> {
        let end = self.log.log_end_offset();
        let Ok(first) = BatchHeader::parse(records) else { return Ok(()) };
        let lies_within = first.base_offset < end && first.last_offset().is_some_and(|last| end <= last);
        if lies_within && (self.log.log_start_offset() == end || end <= leader_start) {
            self.log.truncate_fully_and_start_at(now, first.base_offset)?;
        }
        Ok(())
    }

    /// A follower's high watermark: what it was told, within its own log.
    fn note_high_watermark(&self, high_watermark: Offset) {
        self.high_watermark.store(high_watermark.get(), Ordering::SeqCst);
        self.log.set_high_watermark(high_watermark);
    }
}

/// Where a follower of `log` goes on in `leader_epoch`.
pub(crate) fn position_in(log: &Log, leader_epoch: LeaderEpoch) -> FetchPosition {
    // Not an epoch that this broker began as a leader and in which it has no records: a log that a power loss has cut is
    // no part of the epoch that its leader was in, and would be taken for one up to its end. Nor what lies behind a hole:
    // the leader takes all below this offset for copied.
    let fetch_offset = log.hole().unwrap_or_else(|| log.log_end_offset());
    let last_fetched_epoch = log.epoch_before(fetch_offset).unwrap_or(LeaderEpoch::NONE);
    FetchPosition {
        fetch_offset,
        log_start_offset: log.log_start_offset(),
        current_leader_epoch: leader_epoch,
        last_fetched_epoch,
    }
}
