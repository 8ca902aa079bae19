//! Reading what a fetch asks for.

use std::sync::Arc;

use chronik_log::{EpochEndOffset, LogError, ReadData, ReadRequest};
use chronik_replication::FollowerFetch;
use chronik_types::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Now, Offset};

use crate::fetch_session::{PartitionFetch, SessionKey, Told, Turn};
use crate::partition::Partition;

/// What holds for a whole fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchLimits {
    pub(crate) max_wait_ms: i32,
    pub(crate) min_bytes: i32,
    pub(crate) max_bytes: i32,
    /// Only what is decided is read (isolation level `read_committed`).
    pub(crate) read_committed: bool,
    /// The follower that asks. It reads what is not committed yet: that is how it comes to be.
    pub(crate) replica: Option<Replica>,
}

impl FetchLimits {
    /// Where what this fetch may read of a partition ends at the moment.
    pub(crate) fn end_of(&self, partition: &Partition) -> Offset {
        if self.replica.is_some() { partition.log().log_end_offset() } else { partition.high_watermark() }
    }
}

/// A follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) node: NodeId,
    /// Its registration, where it says it (KIP-903).
    pub(crate) broker_epoch: Option<BrokerEpoch>,
}

/// One partition of a fetch.
pub(crate) struct Target {
    pub(crate) key: SessionKey,
    pub(crate) fetch: PartitionFetch,
    /// The partition, or why there is none.
    pub(crate) partition: Result<Arc<Partition>, ErrorCode>,
}

impl Target {
    /// Where what can be read of it ends, −1 where nothing can.
    pub(crate) fn readable_end(&self, limits: &FetchLimits) -> i64 {
        self.partition.as_ref().map_or(-1, |partition| limits.end_of(partition).get())
    }
}

/// Takes in how far a follower has come: it has everything below the offset that it asks for. A follower whose log
/// parts ways with this one has not.
pub(crate) fn note_replica(now: Now, replica: Replica, target: &Target) {
    let Ok(partition) = &target.partition else { return };
    let fetch = &target.fetch;
    let is_current = partition.check_role().is_ok()
        && fetch.current_leader_epoch == partition.leader_epoch().get()
        && fetch.fetch_offset <= partition.log().log_end_offset().get()
        && matches!(divergence(partition, fetch), Ok(None));
    if is_current {
        partition.replica_fetched(
            now,
            LeaderEpoch(fetch.current_leader_epoch),
            FollowerFetch {
                node: replica.node,
                broker_epoch: replica.broker_epoch,
                fetch_offset: Offset(fetch.fetch_offset),
                log_start_offset: Offset(fetch.log_start_offset),
            },
        );
    }
}

/// What is answered for one partition.
pub(crate) struct Outcome {
    pub(crate) error: ErrorCode,
    pub(crate) high_watermark: i64,
    pub(crate) last_stable_offset: i64,
    pub(crate) log_start_offset: i64,
    pub(crate) diverging_epoch: Option<EpochEndOffset>,
    pub(crate) data: ReadData,
    pub(crate) len_bytes: u64,
    /// Whether data follows that was not read.
    has_more: bool,
    /// Whether there is nothing to read.
    is_at_end: bool,
}

impl Outcome {
    fn error(error: ErrorCode) -> Self {
        Self {
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            data: ReadData::Empty,
            len_bytes: 0,
            has_more: false,
            is_at_end: false,
        }
    }

    /// What a fetch session needs to know of it.
    pub(crate) fn told(&self) -> Told {
        Told {
            high_watermark: self.high_watermark,
            log_start_offset: self.log_start_offset,
            turn: match self.len_bytes {
                0 if self.is_at_end => Turn::Nothing,
                0 => Turn::None,
                _ => Turn::Records,
            },
            has_divergence: self.diverging_epoch.is_some(),
            is_error: self.error != ErrorCode::None,
        }
    }
}

/// What a pass over all partitions gave.
pub(crate) struct Reading {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) bytes: u64,
    /// Whether the client must hear of it now, however few bytes there are: an error or a divergence of a
    /// partition that exists, or data of which there is more already, as at the end of a segment.
    pub(crate) is_urgent: bool,
}

impl Reading {
    /// Whether this answers a fetch that wants `min_bytes`.
    pub(crate) fn is_enough(&self, limits: &FetchLimits) -> bool {
        self.is_urgent || self.bytes >= u64::try_from(limits.min_bytes).unwrap_or(0)
    }
}

/// Reads all targets in order, within the limits. The first batch of all is given even when it is larger than
/// they allow, so that a consumer never starves behind a large batch (KIP-74).
pub(crate) fn read_all(limits: &FetchLimits, targets: &[Target]) -> Reading {
    let mut reading = Reading { outcomes: Vec::with_capacity(targets.len()), bytes: 0, is_urgent: false };
    let max_bytes = u64::try_from(limits.max_bytes).unwrap_or(0);
    for target in targets {
        let outcome = match &target.partition {
            Err(error) => {
                // What does not exist is told with the rest, as on Kafka; other errors end the wait.
                reading.is_urgent |=
                    !matches!(error, ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId);
                Outcome::error(*error)
            }
            Ok(partition) => {
                let remaining = max_bytes.saturating_sub(reading.bytes);
                let wanted = remaining.min(u64::try_from(target.fetch.max_bytes).unwrap_or(0));
                let outcome = read_one(limits, partition, &target.fetch, wanted, reading.bytes == 0);
                reading.is_urgent |=
                    outcome.error != ErrorCode::None || outcome.diverging_epoch.is_some() || outcome.has_more;
                outcome
            }
        };
        reading.bytes += outcome.len_bytes;
        reading.outcomes.push(outcome);
    }
    reading
}

fn read_one(
    limits: &FetchLimits,
    partition: &Partition,
    fetch: &PartitionFetch,
    max_bytes: u64,
    at_least_one_batch: bool,
) -> Outcome {
    let read = try_read(limits, partition, fetch, max_bytes, at_least_one_batch);
    let has_records = read.as_ref().is_ok_and(|outcome| outcome.len_bytes > 0);
    if limits.replica.is_none() && !has_records && partition.may_be_replaced() {
        // What is committed stays so. That there is nothing more, only the leader knows.
        return Outcome::error(ErrorCode::NotLeaderOrFollower);
    }
    match read {
        Ok(outcome) => outcome,
        Err(error) => {
            let mut outcome = Outcome::error(error);
            if error == ErrorCode::OffsetOutOfRange && limits.replica.is_some() {
                // A follower that is below the log's start begins anew there.
                outcome.log_start_offset = partition.log().log_start_offset().get();
            }
            outcome
        }
    }
}

fn try_read(
    limits: &FetchLimits,
    partition: &Partition,
    fetch: &PartitionFetch,
    max_bytes: u64,
    at_least_one_batch: bool,
) -> Result<Outcome, ErrorCode> {
    // The epoch first, as on Kafka: a follower that has heard of this leader before the leader itself comes again at once.
    partition.check_leader_epoch(fetch.current_leader_epoch)?;
    partition.check_role()?;
    check_follower(limits, partition, fetch)?;
    let log = partition.log();
    let diverging_epoch = divergence(partition, fetch)?;
    // The high watermark is read before the data, so that a response never shows records above it.
    let high_watermark = partition.high_watermark();
    let last_stable_offset = partition.last_stable_offset().min(high_watermark);
    let mut outcome = Outcome {
        error: ErrorCode::None,
        high_watermark: high_watermark.get(),
        last_stable_offset: last_stable_offset.get(),
        log_start_offset: log.log_start_offset().get(),
        diverging_epoch,
        data: ReadData::Empty,
        len_bytes: 0,
        has_more: false,
        is_at_end: false,
    };
    if outcome.diverging_epoch.is_some() {
        partition.check_role()?;
        partition.check_leader_epoch(fetch.current_leader_epoch)?;
        return Ok(outcome);
    }
    let request = ReadRequest {
        start_offset: Offset(fetch.fetch_offset),
        max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
        at_least_one_batch,
        upper_bound_offset: match limits.replica {
            Some(_) => log.log_end_offset(),
            None if limits.read_committed => last_stable_offset,
            None => high_watermark,
        },
    };
    let read = log.read(request);
    // A leader that was deposed meanwhile may have cut its log: what was read of it says nothing then.
    partition.check_role()?;
    partition.check_leader_epoch(fetch.current_leader_epoch)?;
    match read {
        Ok(read) => {
            outcome.log_start_offset = read.log_start_offset.get();
            outcome.len_bytes = read.len_bytes;
            outcome.is_at_end = request.upper_bound_offset <= request.start_offset;
            outcome.has_more = read.len_bytes > 0 && read.next_offset < request.upper_bound_offset;
            outcome.data = read.data;
            partition.note_read(true);
            Ok(outcome)
        }
        Err(error) => {
            // A client asks again and again; the log says it once.
            if !matches!(error, LogError::OffsetOutOfRange { .. }) && partition.note_read(false) {
                tracing::warn!(
                    topic = &*partition.topic,
                    partition = partition.index.get(),
                    fetch_offset = fetch.fetch_offset,
                    "cannot serve a fetch: {error}"
                );
            }
            Err(error.error_code())
        }
    }
}

/// Only replicas read what is not committed. One that this broker does not know of yet, in an epoch that both know, comes again;
/// one that names no epoch looks for the leader anew. Both as on Kafka.
fn check_follower(
    limits: &FetchLimits,
    partition: &Partition,
    fetch: &PartitionFetch,
) -> Result<(), ErrorCode> {
    match limits.replica {
        Some(replica) if !partition.has_follower(replica.node) => {
            // A leader that has lost its office meanwhile knows no followers.
            partition.check_role()?;
            let names_epoch = LeaderEpoch::NONE.get() < fetch.current_leader_epoch;
            Err(if names_epoch { ErrorCode::UnknownLeaderEpoch } else { ErrorCode::NotLeaderOrFollower })
        }
        _ => Ok(()),
    }
}

/// Whether the client's log and this one part ways before the offset that it asks for (KIP-320, KIP-595).
fn divergence(partition: &Partition, fetch: &PartitionFetch) -> Result<Option<EpochEndOffset>, ErrorCode> {
    if fetch.last_fetched_epoch < 0 {
        return Ok(None);
    }
    let log = partition.log();
    let end =
        log.end_offset_for_epoch(LeaderEpoch(fetch.last_fetched_epoch)).ok_or(ErrorCode::OffsetOutOfRange)?;
    if fetch.fetch_offset < log.log_start_offset().get() {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let parts_ways =
        end.leader_epoch.get() < fetch.last_fetched_epoch || end.end_offset.get() < fetch.fetch_offset;
    Ok(parts_ways.then_some(end))
}
