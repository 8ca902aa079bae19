//! Every API that this broker offers, one file each.
#![allow(
    clippy::needless_pass_by_value,
    reason = "a handler owns its request, whether or not it takes it apart"
)]

mod alter_configs;
mod api_versions;
mod authorized_operations;
mod config_changes;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod elect_leaders;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leader_hints;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod outcomes;
mod produce;
mod sync_group;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_protocol::api::ApiKey;
use chronik_protocol::frame::{FrameError, RequestHeader};
use chronik_protocol::wire::Reader;
use chronik_types::Now;

use crate::broker::Broker;
use crate::connection::Connection;
use crate::context::RequestContext;
use crate::reply::{Reply, Responder};

/// One API that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The API.
    pub api_key: ApiKey,
    /// The first version that clients are told of.
    pub min_version: i16,
    /// The last version.
    pub max_version: i16,
}

const fn offer(api_key: ApiKey, min_version: i16, max_version: i16) -> Offer {
    Offer { api_key, min_version, max_version }
}

/// What clients are told that this broker can do, in the order of the keys. An API stands here when its handler
/// works in every version named.
///
/// Produce is offered from version 0 although 0 to 2 are refused: librdkafka takes a broker that does not offer
/// version 0 for one that cannot compress (KAFKA-18659).
pub const OFFERS: &[Offer] = &[
    offer(ApiKey::Produce, 0, 13),
    offer(ApiKey::Fetch, 4, 18),
    offer(ApiKey::ListOffsets, 1, 11),
    offer(ApiKey::Metadata, 0, 13),
    offer(ApiKey::OffsetCommit, 2, 10),
    offer(ApiKey::OffsetFetch, 1, 10),
    offer(ApiKey::FindCoordinator, 0, 6),
    offer(ApiKey::JoinGroup, 0, 9),
    offer(ApiKey::Heartbeat, 0, 4),
    offer(ApiKey::LeaveGroup, 0, 5),
    offer(ApiKey::SyncGroup, 0, 5),
    offer(ApiKey::DescribeGroups, 0, 6),
    offer(ApiKey::ListGroups, 0, 5),
    offer(ApiKey::ApiVersions, 0, 4),
    offer(ApiKey::CreateTopics, 2, 7),
    offer(ApiKey::DeleteTopics, 1, 6),
    offer(ApiKey::DeleteRecords, 0, 2),
    offer(ApiKey::InitProducerId, 0, 5),
    offer(ApiKey::OffsetForLeaderEpoch, 2, 4),
    offer(ApiKey::DescribeConfigs, 1, 4),
    offer(ApiKey::AlterConfigs, 0, 2),
    offer(ApiKey::DescribeLogDirs, 1, 5),
    offer(ApiKey::CreatePartitions, 0, 3),
    offer(ApiKey::DeleteGroups, 0, 2),
    offer(ApiKey::ElectLeaders, 0, 2),
    offer(ApiKey::IncrementalAlterConfigs, 0, 1),
    offer(ApiKey::ListPartitionReassignments, 0, 0),
    offer(ApiKey::OffsetDelete, 0, 0),
    offer(ApiKey::DescribeQuorum, 0, 2),
    offer(ApiKey::DescribeCluster, 0, 2),
    offer(ApiKey::DescribeProducers, 0, 0),
    offer(ApiKey::ListConfigResources, 0, 1),
    offer(ApiKey::DescribeTopicPartitions, 0, 0),
];

fn is_offered(api_key: ApiKey, version: i16) -> bool {
    OFFERS
        .iter()
        .any(|offer| offer.api_key == api_key && offer.min_version <= version && version <= offer.max_version)
}

/// Runs one request to its answer, or parks it.
pub(crate) fn dispatch(
    broker: &Arc<Broker>,
    now: Now,
    connection: &Arc<Connection>,
    frame: BytesMut,
    responder: Responder,
) {
    let frame = frame.freeze();
    let mut reader = Reader::new(&frame);
    let header = match RequestHeader::decode(&mut reader) {
        Ok(header) => header,
        Err(FrameError::UnknownVersion { api_key: ApiKey::ApiVersions, correlation_id, .. }) => {
            api_versions::refuse_version(correlation_id, responder);
            return;
        }
        Err(error) => {
            responder(Reply::Close(error.to_string()));
            return;
        }
    };
    let body = reader.rest();
    let (api_key, version) = (header.api_key, header.api_version);
    if !is_offered(api_key, version) {
        if api_key == ApiKey::ApiVersions {
            api_versions::refuse_version(header.correlation_id, responder);
        } else {
            responder(Reply::Close(format!("{api_key} version {version} is not offered by this broker")));
        }
        return;
    }
    // Only the body holds the frame from here on, so that Produce can stamp batches where they lie.
    drop(frame);
    let context = RequestContext::new(now, Arc::clone(connection), header, responder);
    route(broker, context, body);
}

macro_rules! decoded {
    ($context:expr, $body:expr, $handler:path, $broker:expr) => {
        if let Some((context, request)) = $context.decode(&$body) {
            // The message owns what it needs; the frame's memory goes back now.
            drop($body);
            $handler($broker, context, request);
        }
    };
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what is not routed is not offered")]
fn route(broker: &Arc<Broker>, context: RequestContext, body: Bytes) {
    match context.api_key() {
        ApiKey::Produce => produce::handle(broker, context, body),
        ApiKey::Fetch => fetch::handle(broker, context, body),
        ApiKey::ListOffsets => decoded!(context, body, list_offsets::handle, broker),
        ApiKey::Metadata => decoded!(context, body, metadata::handle, broker),
        ApiKey::FindCoordinator => decoded!(context, body, find_coordinator::handle, broker),
        ApiKey::OffsetCommit => decoded!(context, body, offset_commit::handle, broker),
        ApiKey::OffsetFetch => decoded!(context, body, offset_fetch::handle, broker),
        ApiKey::JoinGroup => decoded!(context, body, join_group::handle, broker),
        ApiKey::Heartbeat => decoded!(context, body, heartbeat::handle, broker),
        ApiKey::LeaveGroup => decoded!(context, body, leave_group::handle, broker),
        ApiKey::SyncGroup => decoded!(context, body, sync_group::handle, broker),
        ApiKey::DescribeGroups => decoded!(context, body, describe_groups::handle, broker),
        ApiKey::ListGroups => decoded!(context, body, list_groups::handle, broker),
        ApiKey::DeleteGroups => decoded!(context, body, delete_groups::handle, broker),
        ApiKey::OffsetDelete => decoded!(context, body, offset_delete::handle, broker),
        ApiKey::ApiVersions => api_versions::handle(context, &body),
        ApiKey::CreateTopics => decoded!(context, body, create_topics::handle, broker),
        ApiKey::DeleteTopics => decoded!(context, body, delete_topics::handle, broker),
        ApiKey::DeleteRecords => decoded!(context, body, delete_records::handle, broker),
        ApiKey::InitProducerId => decoded!(context, body, init_producer_id::handle, broker),
        ApiKey::OffsetForLeaderEpoch => decoded!(context, body, offset_for_leader_epoch::handle, broker),
        ApiKey::DescribeConfigs => decoded!(context, body, describe_configs::handle, broker),
        ApiKey::AlterConfigs => decoded!(context, body, alter_configs::handle, broker),
        ApiKey::IncrementalAlterConfigs => decoded!(context, body, incremental_alter_configs::handle, broker),
        ApiKey::ListConfigResources => decoded!(context, body, list_config_resources::handle, broker),
        ApiKey::DescribeLogDirs => decoded!(context, body, describe_log_dirs::handle, broker),
        ApiKey::CreatePartitions => decoded!(context, body, create_partitions::handle, broker),
        ApiKey::ListPartitionReassignments => {
            decoded!(context, body, list_partition_reassignments::handle, broker);
        }
        ApiKey::ElectLeaders => decoded!(context, body, elect_leaders::handle, broker),
        ApiKey::DescribeQuorum => decoded!(context, body, describe_quorum::handle, broker),
        ApiKey::DescribeCluster => decoded!(context, body, describe_cluster::handle, broker),
        ApiKey::DescribeProducers => decoded!(context, body, describe_producers::handle, broker),
        ApiKey::DescribeTopicPartitions => decoded!(context, body, describe_topic_partitions::handle, broker),
        other => {
            context.close_because(format!("{other} has no handler"));
        }
    }
}
