//! `ListOffsets` (key 2, versions 1–11): offsets by time.
//!
//! A timestamp from 0 on asks for the first record at or after it. Negative ones stand for places in the log, each
//! known from some version on. A consumer never hears of an offset that it cannot fetch yet: the high watermark
//! bounds what it is told, with `read_committed` the last stable offset (KIP-98).

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_log::{OffsetQuery, TimestampAndOffset};
use chronik_protocol::messages::list_offsets_request::ListOffsetsPartition;
use chronik_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use chronik_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use chronik_types::{ErrorCode, LeaderEpoch, Offset, TimestampMs};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::partition::Partition;

/// The replica id of a consumer.
const CONSUMER: i32 = -1;
/// The replica id of a tool that may ask any replica, not the leader alone.
const DEBUGGING: i32 = -2;
/// The first version that tells the leader epoch of what was found.
const LEADER_EPOCH_FROM: i16 = 4;
/// The first version whose clients know `OFFSET_NOT_AVAILABLE`.
const OFFSET_NOT_AVAILABLE_FROM: i16 = 5;
/// The isolation level in which only what is decided is told.
const READ_COMMITTED: i8 = 1;

/// Whom the request comes from, which says what it may hear of.
#[derive(Clone, Copy, Debug)]
struct Asker {
    replica_id: i32,
    read_committed: bool,
}

/// Where a client wants to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// −1: after the last record that the client may fetch.
    Latest,
    /// −2: the first record.
    Earliest,
    /// −3: the record with the largest timestamp (version 7 on, KIP-734).
    MaxTimestamp,
    /// −4: the first record that is not in tiered storage alone (version 8 on, KIP-405).
    EarliestLocal,
    /// −5: the last record in tiered storage (version 9 on, KIP-1005).
    LatestTiered,
    /// −6: the first record that waits for its upload to tiered storage (version 11 on, KIP-1023).
    EarliestPendingUpload,
    /// The first record at or after this time.
    At(TimestampMs),
}

impl Place {
    /// The place that a timestamp stands for in this version.
    fn of(timestamp: i64, version: i16) -> Option<Self> {
        let (place, from) = match timestamp {
            -1 => (Self::Latest, 0),
            -2 => (Self::Earliest, 0),
            -3 => (Self::MaxTimestamp, 7),
            -4 => (Self::EarliestLocal, 8),
            -5 => (Self::LatestTiered, 9),
            -6 => (Self::EarliestPendingUpload, 11),
            0.. => (Self::At(TimestampMs(timestamp)), 0),
            _ => return None,
        };
        (from <= version).then_some(place)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a request belongs to its handler, as with every API")]
pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: ListOffsetsRequest) {
    let version = context.version();
    let asker =
        Asker { replica_id: request.replica_id, read_committed: request.isolation_level == READ_COMMITTED };
    let mut counts = BTreeMap::<(&str, i32), usize>::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            *counts.entry((&topic.name, partition.partition_index)).or_default() += 1;
        }
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            // A partition that is named more than once gets one answer, which says so.
            let found = match counts.remove(&(topic.name.as_str(), partition.partition_index)) {
                None => continue,
                Some(1) => find(broker, asker, &topic.name, partition, version),
                Some(_) => Err(ErrorCode::InvalidRequest),
            };
            partitions.push(response(partition.partition_index, found, version));
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name.clone(), partitions });
    }
    context.reply(&ListOffsetsResponse { topics, ..Default::default() });
}

fn response(
    index: i32,
    found: Result<Option<TimestampAndOffset>, ErrorCode>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse { partition_index: index, ..Default::default() };
    match found {
        Ok(None) => response,
        Ok(Some(found)) => ListOffsetsPartitionResponse {
            timestamp: found.timestamp.get(),
            offset: found.offset.get(),
            leader_epoch: if LEADER_EPOCH_FROM <= version { found.leader_epoch } else { LeaderEpoch::NONE }
                .get(),
            ..response
        },
        Err(error) => ListOffsetsPartitionResponse { error_code: error.code(), ..response },
    }
}

fn find(
    broker: &Broker,
    asker: Asker,
    topic: &str,
    wanted: &ListOffsetsPartition,
    version: i16,
) -> Result<Option<TimestampAndOffset>, ErrorCode> {
    let place = Place::of(wanted.timestamp, version).ok_or(ErrorCode::UnsupportedVersion)?;
    let partition = broker.partition_by_name(topic, wanted.partition_index)?;
    partition.check_leader_epoch(wanted.current_leader_epoch)?;
    if asker.replica_id != DEBUGGING {
        partition.check_leader()?;
        // The newest committed offset is not known to a leader that has just been elected (KIP-207).
        let is_bounded = !matches!(place, Place::Earliest | Place::EarliestLocal | Place::LatestTiered);
        if asker.replica_id == CONSUMER && is_bounded && !partition.is_settled() {
            return Err(if OFFSET_NOT_AVAILABLE_FROM <= version {
                ErrorCode::OffsetNotAvailable
            } else {
                ErrorCode::LeaderNotAvailable
            });
        }
    }
    look(&partition, asker, place)
}

fn look(partition: &Partition, asker: Asker, place: Place) -> Result<Option<TimestampAndOffset>, ErrorCode> {
    let log = partition.log();
    let fetchable_end = match (asker.replica_id, asker.read_committed) {
        (CONSUMER, true) => partition.last_stable_offset(),
        (CONSUMER, false) => partition.high_watermark(),
        _ => log.log_end_offset(),
    };
    let (query, is_bounded) = match place {
        Place::Latest => {
            return Ok(Some(TimestampAndOffset {
                timestamp: TimestampMs::NONE,
                offset: fetchable_end,
                leader_epoch: partition.leader_epoch(),
            }));
        }
        // Nothing is tiered, and nothing waits to be.
        Place::LatestTiered | Place::EarliestPendingUpload => return Ok(None),
        Place::Earliest | Place::EarliestLocal => (OffsetQuery::Earliest, false),
        Place::MaxTimestamp => (OffsetQuery::MaxTimestamp, true),
        Place::At(timestamp) => (OffsetQuery::Timestamp(timestamp), true),
    };
    let found = log.offset_for(query).map_err(|error| {
        tracing::warn!(
            topic = &*partition.topic,
            partition = partition.index.get(),
            ?query,
            "cannot look up an offset: {error}"
        );
        error.error_code()
    })?;
    Ok(found.filter(|found| !is_bounded || is_fetchable(found, fetchable_end)))
}

/// Whether what was found lies before the end of what the asker may fetch.
fn is_fetchable(found: &TimestampAndOffset, fetchable_end: Offset) -> bool {
    found.offset < fetchable_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_known_from_its_version_on() {
        for (timestamp, first) in
            [(-1, 1), (-2, 1), (0, 1), (i64::MAX, 1), (-3, 7), (-4, 8), (-5, 9), (-6, 11)]
        {
            for version in 1..=11 {
                assert_eq!(
                    Place::of(timestamp, version).is_some(),
                    first <= version,
                    "{timestamp} in {version}"
                );
            }
        }
        for unknown in [-7, i64::MIN] {
            assert_eq!(Place::of(unknown, 11), None);
        }
    }
}
