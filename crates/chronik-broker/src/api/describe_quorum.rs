//! `DescribeQuorum` (key 55, versions 0–2): how the quorum of the metadata log stands (KIP-595, KIP-836, KIP-853).
//!
//! Only the leader knows how far the others are. A node that follows has the leader answer, as Kafka's brokers do.
//! Offsets are those of the metadata log: the high watermark is the first that is not committed.

use std::sync::Arc;

use chronik_protocol::frame::{FRAME_LENGTH_BYTES, encode_request};
use chronik_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use chronik_protocol::messages::{DescribeQuorumRequest, DescribeQuorumResponse};
use chronik_raft::QuorumState;
use chronik_types::{ErrorCode, LogIndex, MonotonicMs, NodeId, Now};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::reply::Response;

/// What Kafka calls the metadata log.
const METADATA_LOG_TOPIC: &str = "__cluster_metadata";
/// The first version with texts, directories and nodes.
const NODES_FROM: i16 = 2;
/// Not known.
const UNKNOWN: i64 = -1;

#[expect(clippy::needless_pass_by_value, reason = "a request belongs to its handler, as with every API")]
pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DescribeQuorumRequest) {
    if !asks_for_the_metadata_log(&request) {
        context.reply(&unknown_partitions(&request));
        return;
    }
    let quorum = broker.metadata.quorum();
    if quorum.is_leader {
        let response = describe(broker, context.now, context.version(), &quorum);
        context.reply(&response);
        return;
    }
    let Some((link, leader)) = broker.controller_link.get().zip(quorum.leader) else {
        context.reply(&no_leader());
        return;
    };
    let header = &context.header;
    let frame =
        encode_request(header.correlation_id, header.client_id.as_deref(), &request, header.api_version);
    match frame {
        Ok(frame) => link.ask(
            leader,
            frame.slice(FRAME_LENGTH_BYTES..),
            Box::new(move |answer| match answer {
                Some(frame) => context.send(Response::from(frame)),
                None => context.reply(&no_leader()),
            }),
        ),
        Err(error) => context.close(&error),
    }
}

fn asks_for_the_metadata_log(request: &DescribeQuorumRequest) -> bool {
    let [topic] = request.topics.as_slice() else { return false };
    let [partition] = topic.partitions.as_slice() else { return false };
    topic.topic_name == METADATA_LOG_TOPIC && partition.partition_index == 0
}

/// The client tries again, here or elsewhere.
fn no_leader() -> DescribeQuorumResponse {
    DescribeQuorumResponse { error_code: ErrorCode::NotLeaderOrFollower.code(), ..Default::default() }
}

fn unknown_partitions(request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
    let topics = request
        .topics
        .iter()
        .map(|topic| TopicData {
            topic_name: topic.topic_name.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|partition| PartitionData {
                    partition_index: partition.partition_index,
                    error_code: ErrorCode::UnknownTopicOrPartition.code(),
                    ..Default::default()
                })
                .collect(),
        })
        .collect();
    DescribeQuorumResponse { topics, ..Default::default() }
}

fn describe(broker: &Broker, now: Now, version: i16, quorum: &QuorumState) -> DescribeQuorumResponse {
    let replicas = |nodes: &[NodeId]| nodes.iter().map(|node| replica(now, quorum, *node)).collect();
    let partition = PartitionData {
        partition_index: 0,
        error_code: ErrorCode::None.code(),
        leader_id: quorum.leader.map_or(-1, NodeId::get),
        leader_epoch: i32::try_from(quorum.term.get()).unwrap_or(i32::MAX),
        high_watermark: end_offset(quorum.commit_index),
        current_voters: replicas(&quorum.voters),
        observers: replicas(&quorum.learners),
        ..Default::default()
    };
    let topic = TopicData { topic_name: METADATA_LOG_TOPIC.to_owned(), partitions: vec![partition] };
    let nodes = if NODES_FROM <= version { nodes(broker) } else { Vec::new() };
    DescribeQuorumResponse { topics: vec![topic], nodes, ..Default::default() }
}

fn replica(now: Now, quorum: &QuorumState, node: NodeId) -> ReplicaState {
    let state = quorum.replicas.iter().find(|replica| replica.node == node);
    let is_leader = quorum.leader == Some(node);
    let wall = |at: Option<MonotonicMs>| {
        let ago_ms = at.map(|at| i64::try_from(now.monotonic.since_ms(at)).unwrap_or(i64::MAX));
        ago_ms.map_or(UNKNOWN, |ago_ms| now.wall.0.saturating_sub(ago_ms))
    };
    ReplicaState {
        replica_id: node.get(),
        log_end_offset: state.map_or(UNKNOWN, |state| end_offset(state.log_end_index)),
        // Kafka shows none for the leader, which fetches from nobody, and the present for what it has itself.
        last_fetch_timestamp: if is_leader {
            UNKNOWN
        } else {
            wall(state.and_then(|state| state.last_fetch))
        },
        last_caught_up_timestamp: if is_leader {
            now.wall.0
        } else {
            wall(state.and_then(|state| state.last_caught_up))
        },
        ..Default::default()
    }
}

/// Where each node of the quorum is reached by the others.
fn nodes(broker: &Broker) -> Vec<Node> {
    let node = |node: &crate::config::ClusterNode| Node {
        node_id: node.id.get(),
        listeners: vec![Listener {
            name: "CONTROLLER".to_owned(),
            host: node.host.clone(),
            port: node.raft_port,
        }],
    };
    broker.config.cluster_nodes.iter().map(node).collect()
}

/// The offset after an entry.
fn end_offset(index: LogIndex) -> i64 {
    i64::try_from(index.get()).unwrap_or(i64::MAX).saturating_add(1)
}
