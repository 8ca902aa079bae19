//! `DescribeCluster` and `ListPartitionReassignments`.

use chronik_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use chronik_protocol::messages::{
    DescribeClusterRequest, DescribeClusterResponse, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
};
use chronik_types::ErrorCode;

use super::{Fixture, code};

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
