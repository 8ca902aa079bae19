//! `DescribeTopicPartitions` (key 75, version 0): topics with their partitions, page by page (KIP-966).
//!
//! Topics are told in the order of their names, from the cursor on, until as many partitions as the client or this
//! broker allows; the next cursor says where to go on. An empty list asks for all topics.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_protocol::messages::describe_topic_partitions_request::Cursor;
use chronik_protocol::messages::describe_topic_partitions_response::{
    Cursor as NextCursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use chronik_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use chronik_raft::metadata::{MetadataImage, PartitionImage, TopicImage};
use chronik_types::{ErrorCode, NodeId, PartitionIndex, validate_topic_name};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::is_internal_topic;

use super::authorized_operations::TOPIC_OPERATIONS;

#[expect(clippy::needless_pass_by_value, reason = "a request belongs to its handler, as with every API")]
pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DescribeTopicPartitionsRequest) {
    let image = broker.metadata.image();
    let limit = request.response_partition_limit.min(broker.config.max_request_partition_size_limit).max(1);
    let limit = usize::try_from(limit).unwrap_or(1);
    let cursor = request.cursor.as_ref();
    let start_name = cursor.map_or("", |cursor| cursor.topic_name.as_str());
    let wants_all = request.topics.is_empty();
    let is_legal = cursor.is_none_or(|cursor| {
        let names_its_topic = wants_all || request.topics.iter().any(|topic| topic.name == cursor.topic_name);
        0 <= cursor.partition_index && names_its_topic
    });
    if !is_legal {
        let topics = request.topics.iter().map(|topic| refused(&topic.name)).collect();
        context.reply(&DescribeTopicPartitionsResponse { topics, ..Default::default() });
        return;
    }
    let mut page = Page {
        broker,
        image: &image,
        cursor,
        remaining_count: limit,
        response: DescribeTopicPartitionsResponse::default(),
    };
    if wants_all {
        for topic in image.topics().filter(|topic| start_name <= &*topic.name) {
            if !page.add(&topic.name) {
                break;
            }
        }
    } else {
        let names: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
        for name in names.range(start_name..) {
            if !page.add(name) {
                break;
            }
        }
    }
    context.reply(&page.response);
}

/// One answer in the making.
struct Page<'a> {
    broker: &'a Broker,
    image: &'a MetadataImage,
    cursor: Option<&'a Cursor>,
    /// How many partitions still have room.
    remaining_count: usize,
    response: DescribeTopicPartitionsResponse,
}

impl Page<'_> {
    /// Tells the next topic; false once the page is full and the cursor set.
    fn add(&mut self, name: &str) -> bool {
        if self.remaining_count == 0 {
            self.response.next_cursor = Some(NextCursor { topic_name: name.to_owned(), partition_index: 0 });
            return false;
        }
        let Some(topic) = self.image.topic(name) else {
            self.response.topics.push(unknown(name));
            return true;
        };
        let first =
            self.cursor.filter(|cursor| cursor.topic_name == name).map_or(0, |cursor| cursor.partition_index);
        let count = topic.next_partition().get();
        let end = first.saturating_add(i32::try_from(self.remaining_count).unwrap_or(i32::MAX)).min(count);
        let partitions: Vec<_> = (first..end)
            .map(PartitionIndex)
            .filter_map(|index| topic.partition(index).map(|found| self.describe(index, found)))
            .collect();
        self.remaining_count = self.remaining_count.saturating_sub(partitions.len());
        self.response.topics.push(described(topic, partitions));
        if end < count {
            self.response.next_cursor =
                Some(NextCursor { topic_name: name.to_owned(), partition_index: end });
            return false;
        }
        true
    }

    fn describe(
        &self,
        index: PartitionIndex,
        partition: &PartitionImage,
    ) -> DescribeTopicPartitionsResponsePartition {
        let is_live = |node: NodeId| self.image.broker(node).is_some_and(|found| !found.fenced);
        // A broker that may have been replaced does not name itself (ADR 13), here as in Metadata.
        let leader = self.broker.known_leader(partition).filter(|leader| is_live(*leader));
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.get()).collect();
        DescribeTopicPartitionsResponsePartition {
            error_code: ErrorCode::None.code(),
            partition_index: index.get(),
            leader_id: leader.map_or(-1, NodeId::get),
            leader_epoch: partition.leader_epoch.get(),
            replica_nodes: ids(&partition.replicas),
            isr_nodes: ids(&partition.isr),
            eligible_leader_replicas: Some(ids(&partition.elr)),
            last_known_elr: Some(Vec::new()),
            offline_replicas: partition
                .replicas
                .iter()
                .filter(|node| !is_live(**node))
                .map(|node| node.get())
                .collect(),
        }
    }
}

fn described(
    topic: &TopicImage,
    partitions: Vec<DescribeTopicPartitionsResponsePartition>,
) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::None.code(),
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: is_internal_topic(&topic.name),
        partitions,
        topic_authorized_operations: TOPIC_OPERATIONS,
    }
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match validate_topic_name(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        name: Some(name.to_owned()),
        is_internal: is_internal_topic(name),
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..Default::default()
    }
}

/// What each topic is told when the cursor makes no sense.
fn refused(name: &str) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::InvalidRequest.code(),
        name: Some(name.to_owned()),
        ..Default::default()
    }
}
