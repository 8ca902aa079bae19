//! What concerns several brokers: `DescribeCluster`, `DescribeQuorum`, `ListPartitionReassignments`, hints of leaders.

use std::sync::Arc;

use chronik_protocol::messages::describe_quorum_request;
use chronik_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use chronik_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use chronik_protocol::messages::{
    DescribeClusterRequest, DescribeClusterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, ProduceRequest, ProduceResponse,
};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_types::{ErrorCode, TimestampMs};

use super::{Fixture, NODE, code, connection};
use crate::config::{BrokerConfig, ExternalEndpoint};
use crate::connection::Connection;

fn ids(response: &DescribeClusterResponse) -> Vec<(i32, bool)> {
    response.brokers.iter().map(|broker| (broker.broker_id, broker.is_fenced)).collect()
}

#[test]
fn the_cluster_is_described_in_every_version() {
    let fixture = Fixture::new();
    fixture.add_broker(2, false);
    fixture.add_broker(3, true);
    for version in 0..=2 {
        let request = DescribeClusterRequest {
            include_cluster_authorized_operations: version == 1,
            ..Default::default()
        };
        let response: DescribeClusterResponse = fixture.call(version, &request);
        assert_eq!(code(response.error_code), ErrorCode::None);
        assert_eq!(ids(&response), [(1, false), (2, false)]);
        assert_eq!(response.controller_id, 1);
        assert_eq!(Some(response.cluster_id.as_str()), fixture.image().cluster_id());
        assert_eq!((response.brokers[0].host.as_str(), response.brokers[0].port), ("127.0.0.1", 9092));
        assert_eq!((response.brokers[1].host.as_str(), response.brokers[1].port), ("host-2", 9092));
        let operations = if version == 1 { 8096 } else { i32::MIN };
        assert_eq!(response.cluster_authorized_operations, operations, "what Kafka 4.3.1 answers");
    }
}

#[test]
fn fenced_brokers_are_told_when_asked_for() {
    let fixture = Fixture::new();
    fixture.add_broker(3, true);
    let request = DescribeClusterRequest { include_fenced_brokers: true, ..Default::default() };
    let response: DescribeClusterResponse = fixture.call(2, &request);
    assert_eq!(ids(&response), [(1, false), (3, true)]);
}

#[test]
fn only_brokers_are_found_here() {
    let fixture = Fixture::new();
    for (endpoint_type, expected) in
        [(2, ErrorCode::MismatchedEndpointType), (9, ErrorCode::UnsupportedEndpointType)]
    {
        let request = DescribeClusterRequest { endpoint_type, ..Default::default() };
        for version in 1..=2 {
            let response: DescribeClusterResponse = fixture.call(version, &request);
            assert_eq!(code(response.error_code), expected);
            assert!(response.error_message.is_some_and(|message| !message.is_empty()));
            assert!(response.brokers.is_empty());
        }
    }
}

#[test]
fn no_partition_is_ever_moving() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 1, &[]);
    let topic = |name: &str| ListPartitionReassignmentsTopics {
        name: name.to_owned(),
        partition_indexes: vec![0, 9],
    };
    for topics in [None, Some(vec![]), Some(vec![topic("a"), topic("missing")])] {
        let request = ListPartitionReassignmentsRequest { topics, ..Default::default() };
        let response: ListPartitionReassignmentsResponse = fixture.call(0, &request);
        assert_eq!((response.error_code, response.error_message), (0, None));
        assert!(response.topics.is_empty());
    }
}

fn quorum_request(topic: &str, partition_index: i32) -> DescribeQuorumRequest {
    let partition = describe_quorum_request::PartitionData { partition_index };
    let topic =
        describe_quorum_request::TopicData { topic_name: topic.to_owned(), partitions: vec![partition] };
    DescribeQuorumRequest { topics: vec![topic] }
}

#[test]
fn the_quorum_is_described_in_every_version() {
    let fixture = Fixture::new();
    for version in 0..=2 {
        let response: DescribeQuorumResponse =
            fixture.call(version, &quorum_request("__cluster_metadata", 0));
        assert_eq!(response.error_code, 0);
        let partition = &response.topics[0].partitions[0];
        assert_eq!((partition.error_code, partition.leader_id, partition.leader_epoch), (0, 1, 1));
        assert_eq!(
            partition.high_watermark,
            i64::try_from(fixture.image().applied_index().get()).unwrap() + 1
        );
        let voters: Vec<i32> = partition.current_voters.iter().map(|voter| voter.replica_id).collect();
        assert_eq!(voters, [1]);
    }
    for request in [quorum_request("orders", 0), quorum_request("__cluster_metadata", 1)] {
        let response: DescribeQuorumResponse = fixture.call(2, &request);
        let partition = &response.topics[0].partitions[0];
        assert_eq!(code(partition.error_code), ErrorCode::UnknownTopicOrPartition);
    }
}

#[test]
fn a_producer_at_the_wrong_broker_is_told_the_leader() {
    let fixture = Fixture::new();
    fixture.add_broker(2, false);
    fixture.create_topic("spread", 2, &[]);
    let leads_second = |node: i32| {
        let image = fixture.image();
        let partition = image.topic("spread").unwrap().partition(chronik_types::PartitionIndex(1)).unwrap();
        partition.leader.map(chronik_types::NodeId::get) == Some(node)
    };
    assert!(leads_second(2));
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(TimestampMs(1_000_000), None, Some(b"value"), &[]).unwrap();
    let batch = builder.finish().unwrap().freeze();
    for version in [9, 10] {
        let partition = PartitionProduceData { index: 1, records: Some(batch.clone()) };
        let topic = TopicProduceData {
            name: "spread".to_owned(),
            partition_data: vec![partition],
            ..Default::default()
        };
        let request =
            ProduceRequest { acks: 1, timeout_ms: 1_000, topic_data: vec![topic], ..Default::default() };
        let response: ProduceResponse = fixture.call(version, &request);
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(code(partition.error_code), ErrorCode::NotLeaderOrFollower);
        let told = (version >= 10).then_some(2);
        assert_eq!(Some(partition.current_leader.leader_id).filter(|leader| *leader >= 0), told);
        let endpoints: Vec<(i32, &str)> =
            response.node_endpoints.iter().map(|node| (node.node_id, node.host.as_str())).collect();
        assert_eq!(endpoints, if version >= 10 { vec![(2, "host-2")] } else { Vec::new() });
    }
}

#[test]
fn who_comes_by_another_listener_is_told_its_addresses_and_of_brokers_that_have_it() {
    let external =
        ExternalEndpoint { listener: "EXTERNAL".to_owned(), host: "outside".to_owned(), port: 1_234 };
    let mut fixture =
        Fixture::with_config(BrokerConfig { external_endpoints: vec![external], ..BrokerConfig::default() });
    fixture.add_broker(2, false);
    let told = |fixture: &Fixture| -> Vec<(i32, String, i32)> {
        let response: DescribeClusterResponse = fixture.call(2, &DescribeClusterRequest::default());
        response.brokers.into_iter().map(|broker| (broker.broker_id, broker.host, broker.port)).collect()
    };
    let inside = [(1, "127.0.0.1".to_owned(), 9092), (2, "host-2".to_owned(), 9092)];
    assert_eq!(told(&fixture), inside);
    let by_default = connection(9);
    let outside = Connection::new(by_default.id, by_default.local, by_default.peer);
    fixture.connection = Arc::new(outside.by_listener(Some("EXTERNAL".into())));
    assert_eq!(told(&fixture), [(NODE.get(), "outside".to_owned(), 1_234)], "broker 2 has no such listener");
}
