//! `OffsetForLeaderEpoch` (key 23, versions 2–4): where a leader epoch ends in this log (KIP-101, KIP-320).
//!
//! A client that has read further under that epoch has read what no leader has any more.

use std::sync::Arc;

use chronik_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use chronik_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use chronik_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use chronik_types::{ErrorCode, LeaderEpoch};

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: OffsetForLeaderEpochRequest) {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let response = EpochEndOffset { partition: partition.partition, ..Default::default() };
                match find(broker, &topic.topic, partition) {
                    // An epoch that the log does not know ends nowhere.
                    Ok(None) => response,
                    Ok(Some(end)) => EpochEndOffset {
                        leader_epoch: end.leader_epoch.get(),
                        end_offset: end.end_offset.get(),
                        ..response
                    },
                    Err(error) => EpochEndOffset { error_code: error.code(), ..response },
                }
            });
            OffsetForLeaderTopicResult { partitions: partitions.collect(), topic: topic.topic }
        })
        .collect();
    context.reply(&OffsetForLeaderEpochResponse { topics, ..Default::default() });
}

fn find(
    broker: &Broker,
    topic: &str,
    wanted: &OffsetForLeaderPartition,
) -> Result<Option<chronik_log::EpochEndOffset>, ErrorCode> {
    let partition = broker.partition_by_name(topic, wanted.partition)?;
    partition.check_leader_epoch(wanted.current_leader_epoch)?;
    partition.check_leader()?;
    Ok(partition.log().end_offset_for_epoch(LeaderEpoch(wanted.leader_epoch)))
}
