//! `DescribeProducers` (key 61, version 0): who has written to a partition with a producer id (KIP-664).

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_log::ProducerSummary;
use chronik_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use chronik_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};
use chronik_types::{ErrorCode, Offset, validate_topic_name};

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DescribeProducersRequest) {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let topic_error = topic_error(broker, &topic.name);
            // A partition is described once, however often it is named: each description may be long.
            let mut described = BTreeSet::new();
            let partitions = topic
                .partition_indexes
                .iter()
                .filter(|index| described.insert(**index))
                .map(|index| match &topic_error {
                    Some((code, message)) => PartitionResponse {
                        partition_index: *index,
                        error_code: code.code(),
                        error_message: Some(message.clone()),
                        ..Default::default()
                    },
                    None => partition(broker, &topic.name, *index),
                })
                .collect();
            TopicResponse { name: topic.name, partitions }
        })
        .collect();
    context.reply(&DescribeProducersResponse { topics, ..Default::default() });
}

fn topic_error(broker: &Broker, name: &str) -> Option<(ErrorCode, String)> {
    if let Err(error) = validate_topic_name(name) {
        return Some((ErrorCode::InvalidTopicException, format!("Topic name is invalid: {error}")));
    }
    match broker.metadata.image().topic(name) {
        Some(_) => None,
        None => Some((
            ErrorCode::UnknownTopicOrPartition,
            "This server does not host this topic-partition.".to_owned(),
        )),
    }
}

fn partition(broker: &Broker, topic: &str, index: i32) -> PartitionResponse {
    let response = PartitionResponse { partition_index: index, ..Default::default() };
    let found = broker.partition_by_name(topic, index);
    match found.and_then(|found| found.check_leader().map(|()| found)) {
        Ok(partition) => PartitionResponse {
            active_producers: partition.log().active_producers().iter().map(producer).collect(),
            ..response
        },
        Err(error) => PartitionResponse { error_code: error.code(), ..response },
    }
}

fn producer(summary: &ProducerSummary) -> ProducerState {
    ProducerState {
        producer_id: summary.producer_id.get(),
        producer_epoch: i32::from(summary.producer_epoch.get()),
        last_sequence: summary.last_sequence,
        last_timestamp: summary.last_timestamp.get(),
        coordinator_epoch: summary.coordinator_epoch,
        current_txn_start_offset: summary.current_txn_start_offset.map_or(-1, Offset::get),
    }
}
