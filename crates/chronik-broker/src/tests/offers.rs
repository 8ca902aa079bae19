//! What is offered is answered, in every version, and nothing else is.

use chronik_protocol::api::ApiKey;
use chronik_protocol::frame::{FRAME_LENGTH_BYTES, encode_request};
use chronik_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, ApiVersionsRequest, ApiVersionsResponse,
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteGroupsRequest, DeleteGroupsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterRequest, DescribeClusterResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeProducersRequest, DescribeProducersResponse,
    DescribeQuorumRequest, DescribeQuorumResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, ElectLeadersRequest, ElectLeadersResponse, FetchRequest, FetchResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, InitProducerIdRequest,
    InitProducerIdResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListConfigResourcesRequest, ListConfigResourcesResponse, ListGroupsRequest, ListGroupsResponse,
    ListOffsetsRequest, ListOffsetsResponse, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse, MetadataRequest, MetadataResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, ProduceRequest, ProduceResponse,
    SyncGroupRequest, SyncGroupResponse,
};

use super::Fixture;
use crate::api::OFFERS;
use crate::reply::Reply;

/// The first version of Produce that is more than an offer (KAFKA-18659).
const PRODUCE_FROM: i16 = 3;

#[test]
fn every_offered_version_is_answered() {
    let fixture = Fixture::new();
    for offer in OFFERS {
        for version in offer.min_version..=offer.max_version {
            macro_rules! answered {
                ($request:expr, $response:ty) => {{
                    let _: $response = fixture.call(version, &$request);
                }};
            }
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "an API that is offered and not tried here fails"
            )]
            match offer.api_key {
                ApiKey::Produce if version < PRODUCE_FROM => {}
                ApiKey::Produce => {
                    answered!(
                        ProduceRequest { acks: 1, transactional_id: None, ..Default::default() },
                        ProduceResponse
                    );
                }
                ApiKey::Fetch => answered!(FetchRequest::default(), FetchResponse),
                ApiKey::ElectLeaders => answered!(ElectLeadersRequest::default(), ElectLeadersResponse),
                ApiKey::ListOffsets => answered!(ListOffsetsRequest::default(), ListOffsetsResponse),
                ApiKey::Metadata => answered!(MetadataRequest::default(), MetadataResponse),
                ApiKey::ApiVersions => {
                    let (client_software_name, client_software_version) =
                        ("tests".to_owned(), "1".to_owned());
                    let request = ApiVersionsRequest { client_software_name, client_software_version };
                    answered!(request, ApiVersionsResponse);
                }
                ApiKey::AlterConfigs => answered!(AlterConfigsRequest::default(), AlterConfigsResponse),
                ApiKey::IncrementalAlterConfigs => {
                    answered!(IncrementalAlterConfigsRequest::default(), IncrementalAlterConfigsResponse);
                }
                ApiKey::ListConfigResources => {
                    answered!(ListConfigResourcesRequest::default(), ListConfigResourcesResponse);
                }
                ApiKey::CreateTopics => answered!(CreateTopicsRequest::default(), CreateTopicsResponse),
                ApiKey::DeleteTopics => answered!(DeleteTopicsRequest::default(), DeleteTopicsResponse),
                ApiKey::DeleteRecords => answered!(DeleteRecordsRequest::default(), DeleteRecordsResponse),
                ApiKey::InitProducerId => answered!(InitProducerIdRequest::default(), InitProducerIdResponse),
                ApiKey::OffsetForLeaderEpoch => {
                    answered!(OffsetForLeaderEpochRequest::default(), OffsetForLeaderEpochResponse);
                }
                ApiKey::FindCoordinator => {
                    answered!(FindCoordinatorRequest::default(), FindCoordinatorResponse);
                }
                ApiKey::DeleteGroups => answered!(DeleteGroupsRequest::default(), DeleteGroupsResponse),
                ApiKey::DescribeGroups => answered!(DescribeGroupsRequest::default(), DescribeGroupsResponse),
                ApiKey::Heartbeat => answered!(HeartbeatRequest::default(), HeartbeatResponse),
                ApiKey::JoinGroup => answered!(JoinGroupRequest::default(), JoinGroupResponse),
                ApiKey::LeaveGroup => answered!(LeaveGroupRequest::default(), LeaveGroupResponse),
                ApiKey::ListGroups => answered!(ListGroupsRequest::default(), ListGroupsResponse),
                ApiKey::OffsetCommit => answered!(OffsetCommitRequest::default(), OffsetCommitResponse),
                ApiKey::OffsetDelete => answered!(OffsetDeleteRequest::default(), OffsetDeleteResponse),
                ApiKey::OffsetFetch => answered!(OffsetFetchRequest::default(), OffsetFetchResponse),
                ApiKey::SyncGroup => answered!(SyncGroupRequest::default(), SyncGroupResponse),
                ApiKey::DescribeConfigs => {
                    answered!(DescribeConfigsRequest::default(), DescribeConfigsResponse);
                }
                ApiKey::DescribeLogDirs => {
                    answered!(DescribeLogDirsRequest::default(), DescribeLogDirsResponse);
                }
                ApiKey::CreatePartitions => {
                    answered!(CreatePartitionsRequest::default(), CreatePartitionsResponse);
                }
                ApiKey::ListPartitionReassignments => {
                    answered!(
                        ListPartitionReassignmentsRequest::default(),
                        ListPartitionReassignmentsResponse
                    );
                }
                ApiKey::DescribeCluster => {
                    answered!(DescribeClusterRequest::default(), DescribeClusterResponse);
                }
                ApiKey::DescribeQuorum => answered!(DescribeQuorumRequest::default(), DescribeQuorumResponse),
                ApiKey::DescribeProducers => {
                    answered!(DescribeProducersRequest::default(), DescribeProducersResponse);
                }
                ApiKey::DescribeTopicPartitions => {
                    answered!(DescribeTopicPartitionsRequest::default(), DescribeTopicPartitionsResponse);
                }
                other => panic!("{other} is offered and not tried here"),
            }
        }
    }
}

#[test]
fn what_is_not_offered_closes_the_connection() {
    let fixture = Fixture::new();
    for key in ApiKey::ALL {
        let Some(versions) = key.versions() else { continue };
        for version in versions.min_version..=versions.max_version {
            let is_offered = OFFERS.iter().any(|offer| {
                offer.api_key == *key && (offer.min_version..=offer.max_version).contains(&version)
            });
            if is_offered {
                continue;
            }
            let mut frame = Vec::from(key.key().to_be_bytes());
            frame.extend_from_slice(&version.to_be_bytes());
            frame.extend_from_slice(&[0, 0, 0, 77, 0xff, 0xff, 0, 0, 0, 0]);
            let reply = fixture.send_frame(&frame.into()).lock().take();
            assert!(matches!(reply, Some(Reply::Close(_))), "{key} version {version}: {reply:?}");
        }
    }
}

#[test]
fn a_body_that_ends_early_closes_the_connection() {
    let fixture = Fixture::new();
    let request = CreateTopicsRequest::default();
    let frame = encode_request(77, Some("tests"), &request, 7).unwrap();
    let short = frame.slice(FRAME_LENGTH_BYTES..frame.len() - 1);
    let reply = fixture.send_frame(&short).lock().take();
    assert!(matches!(reply, Some(Reply::Close(_))), "{reply:?}");
}
