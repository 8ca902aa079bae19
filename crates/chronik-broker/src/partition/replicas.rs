//! What a partition knows of its replicas, and who waits for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chronik_log::{AppendError, Appended};
use chronik_replication::Leader;
use chronik_types::{ErrorCode, LeaderEpoch, NodeId, Now, Offset, PartitionEpoch};

use super::AppendDone;

/// Appends whose sizes are remembered until they are committed. Beyond it the newest share one entry, and a fetch that
/// waits for many bytes may be woken a little late or early.
const UNCOMMITTED_SIZES_MAX: usize = 1024;

/// Appends that wait for a partition's replicas. Clients that do not wait as long as the replicas take leave theirs behind.
const COMMITTING_MAX: usize = 100_000;

/// Requests that wait until a partition's replicas have deleted records.
const TRIMMING_MAX: usize = 1_000;

/// What this broker is for a partition.
#[derive(Debug, Default)]
pub(super) enum Role {
    /// Neither: the metadata image has no leader, or has not been looked at yet.
    #[default]
    None,
    /// It leads.
    Leader(Box<Leader>),
    /// It follows.
    Follower {
        /// Whom.
        leader: NodeId,
        /// In which epoch.
        leader_epoch: LeaderEpoch,
    },
}

/// An append that is in the log, and is acknowledged once it is committed.
pub(super) struct Committing {
    pub(super) appended: Appended,
    pub(super) done: AppendDone,
}

/// Called once with the low watermark when it has reached what was asked for, or with why it will not here.
pub(crate) type TrimmedDone = Box<dyn FnOnce(Result<Offset, ErrorCode>) + Send>;

/// Somebody who waits until no live replica holds anything below an offset.
pub(super) struct Trimming {
    pub(super) before: Offset,
    pub(super) done: TrimmedDone,
}

/// What is known of an ISR proposal that has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FailedProposal {
    /// The metadata log has looked at it behind all that was proposed before, of which nothing takes effect afterwards.
    Refused,
    /// No leader of the metadata log has taken it, which says nothing of one before it.
    NotTaken,
    /// Nothing.
    Unknown,
}

/// The part of a partition's state that followers change, under one lock.
#[derive(Default)]
pub(super) struct Replicas {
    pub(super) role: Role,
    /// By the offset that the high watermark has to reach, and the order of arrival. Bounded by what connections may
    /// have under way.
    committing: BTreeMap<(Offset, u64), Committing>,
    next_serial: u64,
    /// Where appends end that are not committed yet, with their sizes in bytes.
    uncommitted: VecDeque<(Offset, u64)>,
    /// First offsets of appends whose sync is under way: the leader counts nothing beyond the first of them.
    syncing: BTreeSet<Offset>,
    /// Everything below is written.
    written_end: Offset,
    /// Those who wait for the low watermark. Clients that do not wait as long as the replicas take leave theirs behind.
    trimming: VecDeque<Trimming>,
    /// A proposal whose outcome is not known, until it is proposed again.
    pub(super) unknown_proposal: Option<PartitionEpoch>,
    /// The last partition epoch against which there was one.
    unknown_epoch: Option<PartitionEpoch>,
}

impl Replicas {
    /// The leader's state, if this broker leads.
    pub(super) fn leader(&mut self) -> Option<&mut Leader> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            Role::None | Role::Follower { .. } => None,
        }
    }

    /// Whether this broker leads, in this epoch.
    pub(super) fn leads_in(&self, epoch: LeaderEpoch) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.leader_epoch() == epoch)
    }

    /// Whether this broker follows `leader` in this epoch.
    pub(super) fn follows(&self, leader: Option<NodeId>, epoch: LeaderEpoch) -> bool {
        matches!(
            (&self.role, leader),
            (Role::Follower { leader: known, leader_epoch }, Some(leader))
                if *known == leader && *leader_epoch == epoch
        )
    }

    /// Begins a role: what was known under the last one is forgotten, and those who waited for it are given back.
    pub(super) fn begin(&mut self, role: Role, log_end_offset: Offset) -> Vec<Committing> {
        self.role = role;
        self.uncommitted.clear();
        self.syncing.clear();
        self.written_end = log_end_offset;
        self.unknown_proposal = None;
        self.unknown_epoch = None;
        self.take_all()
    }

    /// Notes that a proposal against `partition_epoch` has failed, and says whether it, or one like it before it, may yet take
    /// effect (KIP-497): then both ISRs count, and it is to be proposed again.
    pub(super) fn may_take_effect(
        &mut self,
        partition_epoch: PartitionEpoch,
        outcome: FailedProposal,
    ) -> bool {
        if outcome == FailedProposal::Unknown {
            self.unknown_epoch = self.unknown_epoch.max(Some(partition_epoch));
        }
        let may = outcome != FailedProposal::Refused && self.unknown_epoch == Some(partition_epoch);
        if may {
            self.unknown_proposal = Some(partition_epoch);
        }
        may
    }

    /// Waits for the low watermark. With too many the oldest is given back: its client has long stopped waiting.
    #[must_use]
    pub(super) fn wait_for_trim(&mut self, trimming: Trimming) -> Option<Trimming> {
        self.trimming.push_back(trimming);
        if TRIMMING_MAX < self.trimming.len() { self.trimming.pop_front() } else { None }
    }

    /// Those who waited for no more than this low watermark.
    pub(super) fn take_trimmed(&mut self, low_watermark: Offset) -> Vec<Trimming> {
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.trimming)
            .into_iter()
            .partition(|waiting| waiting.before <= low_watermark);
        self.trimming = rest.into();
        done
    }

    /// Whether anybody waits for the low watermark.
    pub(super) fn is_trimming(&self) -> bool {
        !self.trimming.is_empty()
    }

    /// Everyone who waits for the low watermark.
    pub(super) fn take_all_trimming(&mut self) -> Vec<Trimming> {
        std::mem::take(&mut self.trimming).into()
    }

    /// Everyone who waits.
    pub(super) fn take_all(&mut self) -> Vec<Committing> {
        std::mem::take(&mut self.committing).into_values().collect()
    }

    /// Batches up to `end` are in the log. Where they wait for a sync, `syncing_from` is the first of them.
    pub(super) fn wrote(&mut self, end: Offset, bytes: u64, syncing_from: Option<Offset>) {
        self.written_end = self.written_end.max(end);
        self.syncing.extend(syncing_from);
        let is_full = self.uncommitted.len() == UNCOMMITTED_SIZES_MAX;
        match self.uncommitted.back_mut() {
            Some((last_end, last_bytes)) if is_full => {
                *last_end = end;
                *last_bytes = last_bytes.saturating_add(bytes);
            }
            Some(_) | None => self.uncommitted.push_back((end, bytes)),
        }
    }

    /// The sync that began with this append has ended.
    pub(super) fn synced(&mut self, from: Offset) {
        self.syncing.remove(&from);
    }

    /// As far as the leader's own log counts.
    pub(super) fn counted_end(&self) -> Offset {
        self.syncing.first().copied().unwrap_or(self.written_end).min(self.written_end)
    }

    /// Keeps an append until everything up to its end is committed. With too many the oldest offset is given back, to be
    /// told that nobody knows: its client has long stopped waiting.
    #[must_use]
    pub(super) fn wait(&mut self, committing: Committing) -> Option<Committing> {
        let key = (committing.appended.last_offset.next(), self.next_serial);
        self.next_serial = self.next_serial.wrapping_add(1);
        self.committing.insert(key, committing);
        let is_full = COMMITTING_MAX < self.committing.len();
        is_full.then(|| self.committing.pop_first()).flatten().map(|(_, oldest)| oldest)
    }

    /// Those who waited for no more than this.
    pub(super) fn take_committed(&mut self, high_watermark: Offset) -> Vec<Committing> {
        let rest = self.committing.split_off(&(high_watermark.next(), 0));
        std::mem::replace(&mut self.committing, rest).into_values().collect()
    }

    /// The bytes of the appends that end at or below this, which are committed now.
    pub(super) fn take_sizes(&mut self, high_watermark: Offset) -> u64 {
        let mut total = 0_u64;
        while self.uncommitted.front().is_some_and(|(end, _)| *end <= high_watermark) {
            if let Some((_, bytes)) = self.uncommitted.pop_front() {
                total = total.saturating_add(bytes);
            }
        }
        total
    }
}

/// The error for those whose leader was deposed before they were in its log.
pub(super) fn deposed(epoch: LeaderEpoch, latest_epoch: LeaderEpoch) -> AppendError {
    AppendError::LeaderEpochRegressed { epoch, latest_epoch }
}

/// The error for those who wait no longer for what is in the log to be committed (replication point 9).
pub(super) fn undecided(appended: &Appended) -> AppendError {
    AppendError::Undecided { last_offset: appended.last_offset }
}

/// Tells those who waited for this broker as the leader to look elsewhere.
pub(super) fn fail(now: Now, waiting: Vec<Committing>, trimming: Vec<Trimming>) {
    for Committing { appended, done } in waiting {
        done(now, Err(undecided(&appended)));
    }
    for Trimming { done, .. } in trimming {
        done(Err(ErrorCode::NotLeaderOrFollower));
    }
}

#[cfg(test)]
mod tests {
    use chronik_types::TimestampMs;

    use super::*;

    fn committing(last_offset: i64) -> Committing {
        let appended = Appended {
            first_offset: Offset(last_offset),
            last_offset: Offset(last_offset),
            log_append_time: TimestampMs::NONE,
            log_start_offset: Offset(0),
            is_duplicate: false,
            sync_up_to: None,
        };
        Committing { appended, done: Box::new(|_, _| ()) }
    }

    #[test]
    fn appends_are_given_back_in_order_once_committed() {
        let mut replicas = Replicas::default();
        for last_offset in [4, 1, 4, 9] {
            assert!(replicas.wait(committing(last_offset)).is_none());
        }
        assert_eq!(replicas.take_committed(Offset(1)).len(), 0);
        assert_eq!(replicas.take_committed(Offset(5)).len(), 3);
        assert_eq!(replicas.begin(Role::None, Offset(10)).len(), 1);
    }

    #[test]
    fn nothing_counts_beyond_a_sync_that_is_under_way() {
        let mut replicas = Replicas::default();
        replicas.wrote(Offset(3), 30, None);
        replicas.wrote(Offset(5), 20, Some(Offset(3)));
        replicas.wrote(Offset(9), 40, None);
        assert_eq!(replicas.counted_end(), Offset(3));
        replicas.synced(Offset(3));
        assert_eq!(replicas.counted_end(), Offset(9));
        assert_eq!(replicas.take_sizes(Offset(5)), 50);
        assert_eq!(replicas.take_sizes(Offset(9)), 40);
    }

    #[test]
    fn sizes_are_kept_in_bounded_memory() {
        let mut replicas = Replicas::default();
        let count = i64::try_from(UNCOMMITTED_SIZES_MAX).unwrap() + 100;
        for end in 1..=count {
            replicas.wrote(Offset(end), 1, None);
        }
        assert_eq!(replicas.uncommitted.len(), UNCOMMITTED_SIZES_MAX);
        assert_eq!(replicas.take_sizes(Offset(count)), u64::try_from(count).unwrap());
    }
}
