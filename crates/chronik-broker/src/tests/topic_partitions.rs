//! `DescribeTopicPartitions`.

use chronik_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use chronik_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use chronik_raft::metadata::UpdateIsr;
use chronik_types::{ErrorCode, NodeId, PartitionIndex, TopicId};

use super::{Fixture, code};
use crate::config::BrokerConfig;

fn fixture() -> Fixture {
    let config = BrokerConfig { max_request_partition_size_limit: 5, ..Default::default() };
    let fixture = Fixture::with_config(config);
    for (name, partition_count) in [("a", 3), ("b", 1), ("c", 4)] {
        fixture.create_topic(name, partition_count, &[]);
    }
    fixture
}

fn ask(names: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> DescribeTopicPartitionsRequest {
    DescribeTopicPartitionsRequest {
        topics: names.iter().map(|name| TopicRequest { name: (*name).to_owned() }).collect(),
        response_partition_limit: limit,
        cursor: cursor.map(|(name, index)| Cursor { topic_name: name.to_owned(), partition_index: index }),
    }
}

/// Each topic with its partitions, and where to go on.
type Told = (Vec<(String, Vec<i32>)>, Option<(String, i32)>);

fn told(response: &DescribeTopicPartitionsResponse) -> Told {
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index).collect();
        (topic.name.clone().unwrap(), partitions)
    });
    let next =
        response.next_cursor.as_ref().map(|cursor| (cursor.topic_name.clone(), cursor.partition_index));
    (topics.collect(), next)
}

fn expected(topics: &[(&str, &[i32])], next: Option<(&str, i32)>) -> Told {
    let topics = topics.iter().map(|(name, partitions)| ((*name).to_owned(), partitions.to_vec())).collect();
    (topics, next.map(|(name, index)| (name.to_owned(), index)))
}

#[test]
fn pages_follow_one_another_until_all_is_told() {
    let fixture = fixture();
    let mut cursor = None;
    let mut seen = Vec::new();
    for _ in 0..8 {
        let asked = cursor.as_ref().map(|(name, index): &(String, i32)| (name.as_str(), *index));
        let response = fixture.call(0, &ask(&[], 2, asked));
        let (topics, next) = told(&response);
        let page: Vec<_> = topics
            .iter()
            .flat_map(|(name, found)| found.iter().map(move |index| (name.clone(), *index)))
            .collect();
        assert!(page.len() <= 2);
        seen.extend(page);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    let all = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1), ("c", 2), ("c", 3)];
    assert_eq!(seen, all.map(|(name, index)| (name.to_owned(), index)));
}

#[test]
fn a_page_ends_as_on_kafka() {
    let fixture = fixture();
    let page = |request| told(&fixture.call(0, &request));
    // In the middle of a topic, at the end of one, and after the last.
    assert_eq!(page(ask(&[], 2, None)), expected(&[("a", &[0, 1])], Some(("a", 2))));
    assert_eq!(page(ask(&[], 3, None)), expected(&[("a", &[0, 1, 2])], Some(("b", 0))));
    assert_eq!(page(ask(&["a", "b"], 4, None)), expected(&[("a", &[0, 1, 2]), ("b", &[0])], None));
    // The broker's own limit, and a limit that makes no sense.
    assert_eq!(
        page(ask(&[], 2_000, None)),
        expected(&[("a", &[0, 1, 2]), ("b", &[0]), ("c", &[0])], Some(("c", 1)))
    );
    for limit in [0, -1, i32::MIN] {
        assert_eq!(page(ask(&[], limit, None)), expected(&[("a", &[0])], Some(("a", 1))));
    }
    // Names come in order and once, from the cursor on.
    let names = ["c", "a", "b", "a"];
    assert_eq!(page(ask(&names, 5, Some(("b", 0)))), expected(&[("b", &[0]), ("c", &[0, 1, 2, 3])], None));
    // A cursor behind the last partition tells the topic without any.
    assert_eq!(page(ask(&["b"], 5, Some(("b", 7)))), expected(&[("b", &[])], None));
    assert_eq!(page(ask(&["b"], 5, Some(("b", i32::MAX)))), expected(&[("b", &[])], None));
    // With all topics the cursor's may have gone meanwhile.
    assert_eq!(page(ask(&[], 5, Some(("bb", 2)))), expected(&[("c", &[0, 1, 2, 3])], None));
}

#[test]
fn a_partition_is_told_in_full_and_what_is_missing_is_named() {
    let fixture = fixture();
    fixture.create_topic("__consumer_offsets", 1, &[]);
    let names = ["a", "missing", "no/slash", "__consumer_offsets"];
    let response: DescribeTopicPartitionsResponse = fixture.call(0, &ask(&names, 5, None));
    let topic =
        |name: &str| response.topics.iter().find(|topic| topic.name.as_deref() == Some(name)).unwrap();
    let found = topic("a");
    assert_eq!(found.topic_id, fixture.image().topic("a").unwrap().id);
    assert_eq!((found.error_code, found.is_internal), (0, false));
    assert_eq!(found.topic_authorized_operations, 3576, "what Kafka 4.3.1 answers");
    let partition = &found.partitions[1];
    assert_eq!((partition.leader_id, partition.leader_epoch), (1, 0));
    assert_eq!((&partition.replica_nodes[..], &partition.isr_nodes[..]), (&[1][..], &[1][..]));
    assert_eq!(partition.eligible_leader_replicas.as_deref(), Some(&[][..]));
    assert_eq!(partition.last_known_elr.as_deref(), Some(&[][..]));
    assert!(partition.offline_replicas.is_empty());
    assert_eq!(code(topic("missing").error_code), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(topic("missing").topic_id, TopicId::ZERO);
    assert_eq!(code(topic("no/slash").error_code), ErrorCode::InvalidTopicException);
    assert!(topic("__consumer_offsets").is_internal);
}

/// Replication point 7.
#[test]
fn kip_966_who_is_eligible_to_lead_is_told() {
    let fixture = super::leadership::three_brokers();
    let [one, two] = [NodeId(1), NodeId(2)];
    let command = UpdateIsr::new(super::leadership::TOPIC, PartitionIndex(0), &[one], None).with_elr(&[two]);
    super::leadership::apply(&fixture, vec![command.into()]);
    let response: DescribeTopicPartitionsResponse = fixture.call(0, &ask(&["shared"], 5, None));
    let partition = &response.topics[0].partitions[0];
    assert_eq!((&partition.replica_nodes[..], &partition.isr_nodes[..]), (&[1, 2, 3][..], &[1][..]));
    assert_eq!(partition.eligible_leader_replicas.as_deref(), Some(&[2][..]));
    assert_eq!(partition.last_known_elr.as_deref(), Some(&[][..]), "the last known leader stays in the ISR");
}

#[test]
fn a_cursor_that_makes_no_sense_is_refused() {
    let fixture = fixture();
    for request in [ask(&["b", "c"], 5, Some(("a", 0))), ask(&["b", "c"], 5, Some(("b", -1)))] {
        let response: DescribeTopicPartitionsResponse = fixture.call(0, &request);
        let names: Vec<_> = response.topics.iter().map(|topic| topic.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["b", "c"]);
        assert!(response.topics.iter().all(|topic| code(topic.error_code) == ErrorCode::InvalidRequest));
        assert_eq!(response.next_cursor, None);
    }
}
