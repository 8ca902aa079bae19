//! `CreateTopics`, `DeleteTopics`, `CreatePartitions`.

use chronik_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use chronik_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use chronik_protocol::messages::delete_topics_request::DeleteTopicState;
use chronik_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse,
};
use chronik_protocol::records::BatchOptions;
use chronik_raft::metadata::ConfigResource;
use chronik_types::{ErrorCode, NodeId, PartitionIndex, TopicId};

use super::{Fixture, by_name, code};
use crate::config::{BrokerConfig, TOPIC_CONFIGS};

fn wanted(name: &str, partition_count: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic {
        name: name.to_owned(),
        num_partitions: partition_count,
        replication_factor,
        ..Default::default()
    }
}

fn assigned(name: &str, lists: &[(i32, &[i32])]) -> CreatableTopic {
    let assignments = lists
        .iter()
        .map(|(index, nodes)| CreatableReplicaAssignment {
            partition_index: *index,
            broker_ids: nodes.to_vec(),
        })
        .collect();
    CreatableTopic { assignments, ..wanted(name, -1, -1) }
}

fn configured(name: &str, config: &str, value: Option<&str>) -> CreatableTopic {
    let config = CreatableTopicConfig { name: config.to_owned(), value: value.map(str::to_owned) };
    CreatableTopic { configs: vec![config], ..wanted(name, 1, 1) }
}

fn create(fixture: &Fixture, version: i16, topics: Vec<CreatableTopic>) -> CreateTopicsResponse {
    fixture.call(version, &CreateTopicsRequest { topics, ..Default::default() })
}

#[test]
fn a_created_topic_is_there_in_every_version() {
    let fixture = Fixture::new();
    for version in 2..=7 {
        let name = format!("topic-{version}");
        let mut topic = configured(&name, "retention.ms", Some("5000"));
        topic.num_partitions = 4;
        let response = create(&fixture, version, vec![topic]);
        let [result] = &response.topics[..] else { panic!("{response:?}") };
        assert_eq!(
            (result.name.as_str(), result.error_code, &result.error_message),
            (name.as_str(), 0, &None)
        );
        let image = fixture.image();
        let made = image.topic(&name).unwrap();
        assert_eq!(made.partition_count(), 4);
        for (_, partition) in made.partitions() {
            assert_eq!(partition.leader, Some(NodeId(1)));
            assert_eq!(&*partition.isr, [NodeId(1)]);
        }
        assert_eq!(image.config(&ConfigResource::Topic(name.as_str().into()), "retention.ms"), Some("5000"));
        if version >= 5 {
            assert_eq!((result.num_partitions, result.replication_factor), (4, 1));
            let configs = result.configs.as_deref().unwrap();
            assert_eq!(configs.len(), TOPIC_CONFIGS.len());
            let source = |name: &str| {
                let config = configs.iter().find(|config| config.name == name).unwrap();
                (config.value.as_deref().unwrap(), config.config_source)
            };
            assert_eq!(source("retention.ms"), ("5000", 1));
            assert_eq!(source("segment.ms"), ("604800000", 5));
        }
        assert_eq!(result.topic_id, if version == 7 { made.id } else { TopicId::ZERO });
    }
}

#[test]
fn defaults_come_from_the_broker_and_are_clamped_to_the_cluster() {
    let mut config = BrokerConfig { num_partitions: 5, default_replication_factor: 3, ..Default::default() };
    config.topic_values.insert("log.retention.ms".to_owned(), "9".to_owned());
    let fixture = Fixture::with_config(config);
    let response = create(&fixture, 7, vec![wanted("a", -1, -1)]);
    assert_eq!((response.topics[0].num_partitions, response.topics[0].replication_factor), (5, 1));
    let configs = response.topics[0].configs.as_deref().unwrap();
    let retention = configs.iter().find(|config| config.name == "retention.ms").unwrap();
    assert_eq!((retention.value.as_deref(), retention.config_source), (Some("9"), 4));
}

#[test]
fn partitions_go_round_robin_and_no_farther_than_there_are_brokers() {
    let fixture = Fixture::new();
    fixture.add_broker(2, false);
    fixture.add_broker(3, false);
    fixture.add_broker(4, true);
    let response = create(&fixture, 7, vec![wanted("nine", 9, 3), wanted("four", 1, 4)]);
    assert_eq!(code(response.topics[0].error_code), ErrorCode::None);
    assert_eq!(code(response.topics[1].error_code), ErrorCode::InvalidReplicationFactor);
    let image = fixture.image();
    let topic = image.topic("nine").unwrap();
    for (index, partition) in topic.partitions() {
        let expected: Vec<i32> = (0..3).map(|at| (index.get() + at) % 3 + 1).collect();
        let replicas: Vec<i32> = partition.replicas.iter().map(|node| node.get()).collect();
        assert_eq!(replicas, expected);
        assert_eq!(partition.leader, Some(partition.replicas[0]));
    }
}

#[test]
fn each_topic_that_cannot_be_made_says_why_and_the_others_are_made() {
    let fixture = Fixture::new();
    fixture.create_topic("there", 1, &[]);
    fixture.create_topic("a.b", 1, &[]);
    let cases = [
        (wanted("fine", 1, 1), ErrorCode::None, ""),
        (wanted("there", 1, 1), ErrorCode::TopicAlreadyExists, "'there' already exists"),
        (wanted("a_b", 1, 1), ErrorCode::InvalidTopicException, "collides with existing topic: a.b"),
        (wanted("no/slash", 1, 1), ErrorCode::InvalidTopicException, "invalid"),
        (wanted("", 1, 1), ErrorCode::InvalidTopicException, "invalid"),
        (wanted("none", 0, 1), ErrorCode::InvalidPartitions, "non-positive"),
        (wanted("minus", -2, 1), ErrorCode::InvalidPartitions, "non-positive"),
        (wanted("factor", 1, 0), ErrorCode::InvalidReplicationFactor, "larger than 0"),
        (wanted("far", 1, 2), ErrorCode::InvalidReplicationFactor, "2"),
        (configured("unknown", "no.such", Some("1")), ErrorCode::InvalidConfig, "no.such"),
        (configured("bad", "retention.ms", Some("soon")), ErrorCode::InvalidConfig, "retention.ms"),
        (configured("null", "retention.ms", None), ErrorCode::InvalidConfig, "Null value"),
        (assigned("nobody", &[(0, &[9])]), ErrorCode::InvalidReplicaAssignment, "9"),
        (assigned("twice", &[(0, &[1, 1])]), ErrorCode::InvalidReplicaAssignment, "1"),
        (assigned("gap", &[(1, &[1])]), ErrorCode::InvalidReplicaAssignment, ""),
        (assigned("empty", &[(0, &[])]), ErrorCode::InvalidReplicaAssignment, ""),
        (assigned("manual", &[(0, &[1]), (1, &[1])]), ErrorCode::None, ""),
        (
            CreatableTopic { num_partitions: 1, ..assigned("counted", &[(0, &[1])]) },
            ErrorCode::InvalidRequest,
            "numPartitions",
        ),
        (
            CreatableTopic { replication_factor: 1, ..assigned("factored", &[(0, &[1])]) },
            ErrorCode::InvalidRequest,
            "replication factor",
        ),
        (wanted("__cluster_metadata", 1, 1), ErrorCode::InvalidRequest, "prohibited"),
    ];
    let response = create(&fixture, 7, cases.iter().map(|(topic, ..)| topic.clone()).collect());
    assert_eq!(response.topics.len(), cases.len());
    let image = fixture.image();
    for (result, (topic, expected, words)) in response.topics.iter().zip(&cases) {
        assert_eq!((&result.name, code(result.error_code)), (&topic.name, *expected), "{result:?}");
        if *expected == ErrorCode::None {
            assert!(image.topic(&topic.name).is_some(), "{}", topic.name);
        } else {
            let message = result.error_message.as_deref().unwrap();
            assert!(!message.is_empty() && message.contains(words), "{}: {message}", topic.name);
            assert_eq!((result.num_partitions, result.replication_factor), (-1, -1));
            assert_eq!(image.topic(&topic.name).is_some(), topic.name == "there");
        }
    }
}

#[test]
fn a_name_that_a_request_has_twice_is_refused_once_and_not_made() {
    let fixture = Fixture::new();
    let topics = ["a", "b", "a", "a"].map(|name| wanted(name, 1, 1)).to_vec();
    let response = create(&fixture, 6, topics);
    let results = by_name(response.topics.iter().map(|result| (result.name.as_str(), result.error_code)));
    assert_eq!(response.topics.len(), 2);
    assert_eq!(results["a"], ErrorCode::InvalidRequest);
    assert_eq!(results["b"], ErrorCode::None);
    assert!(fixture.image().topic("a").is_none());
}

#[test]
fn validation_decides_everything_and_makes_nothing() {
    let fixture = Fixture::new();
    let request = CreateTopicsRequest {
        topics: vec![wanted("a", 2, 1), wanted("b", 2, 7)],
        validate_only: true,
        ..Default::default()
    };
    let response: CreateTopicsResponse = fixture.call(7, &request);
    assert_eq!((response.topics[0].error_code, response.topics[0].num_partitions), (0, 2));
    assert!(!response.topics[0].configs.as_deref().unwrap().is_empty());
    assert_eq!(code(response.topics[1].error_code), ErrorCode::InvalidReplicationFactor);
    assert_eq!(fixture.image().topic_count(), 0);
}

#[test]
fn a_request_for_too_many_partitions_makes_none_of_its_topics() {
    let fixture = Fixture::new();
    let response = create(&fixture, 7, vec![wanted("a", 20_000, 1), wanted("b", 20_000, 1)]);
    assert!(response.topics.iter().all(|result| code(result.error_code) == ErrorCode::PolicyViolation));
    let response = create(&fixture, 7, vec![wanted("a", i32::MAX, 1), wanted("b", i32::MAX, 1)]);
    assert_eq!(response.topics.len(), 2);
    assert_eq!(fixture.image().topic_count(), 0);
}

fn delete_named(fixture: &Fixture, version: i16, names: &[&str]) -> DeleteTopicsResponse {
    let names = names.iter().map(|name| (*name).to_owned());
    let request = if version >= 6 {
        let topics = names.map(|name| DeleteTopicState { name: Some(name), ..Default::default() }).collect();
        DeleteTopicsRequest { topics, timeout_ms: 1_000, ..Default::default() }
    } else {
        DeleteTopicsRequest { topic_names: names.collect(), timeout_ms: 1_000, ..Default::default() }
    };
    fixture.call(version, &request)
}

#[test]
fn a_deleted_topic_is_gone_in_every_version() {
    let fixture = Fixture::new();
    for version in 1..=6 {
        fixture.create_topic("a", 2, &[]);
        fixture.create_topic("b", 1, &[]);
        let earlier = fixture.partition("a", 1);
        let response = delete_named(&fixture, version, &["a", "missing", "b", "b", "b"]);
        let results = by_name(
            response.responses.iter().map(|result| (result.name.as_deref().unwrap(), result.error_code)),
        );
        assert_eq!(response.responses.len(), 3);
        assert_eq!(results["a"], ErrorCode::None);
        assert_eq!(results["missing"], ErrorCode::UnknownTopicOrPartition);
        assert_eq!(results["b"], ErrorCode::InvalidRequest);
        assert!(fixture.image().topic("a").is_none() && fixture.image().topic("b").is_some());
        assert_eq!(earlier.check_leader(), Err(ErrorCode::UnknownTopicOrPartition));
        assert_eq!(fixture.broker.partition_by_name("a", 0).err(), Some(ErrorCode::UnknownTopicOrPartition));
        delete_named(&fixture, version, &["b"]);
        assert_eq!(fixture.image().topic_count(), 0);
    }
}

#[test]
fn topics_are_deleted_by_id_and_each_is_meant_once() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c", "d", "e"] {
        fixture.create_topic(name, 1, &[]);
    }
    let image = fixture.image();
    let id = |name: &str| image.topic(name).unwrap().id;
    let (unknown, nobody) = (TopicId(99), TopicId(98));
    let ask = |name: Option<&str>, topic_id| DeleteTopicState { name: name.map(str::to_owned), topic_id };
    let request = DeleteTopicsRequest {
        topics: vec![
            ask(None, id("a")),
            ask(None, unknown),
            ask(None, TopicId::ZERO),
            ask(Some("b"), id("b")),
            ask(None, id("c")),
            ask(Some("c"), TopicId::ZERO),
            ask(None, id("d")),
            ask(None, id("d")),
            ask(Some("d"), TopicId::ZERO),
            ask(None, nobody),
            ask(None, nobody),
            ask(None, nobody),
            ask(Some("e"), TopicId::ZERO),
        ],
        timeout_ms: 1_000,
        ..Default::default()
    };
    let response: DeleteTopicsResponse = fixture.call(6, &request);
    let has = |name: Option<&str>, topic_id: TopicId, error: ErrorCode| {
        let found = response.responses.iter().filter(|result| {
            result.name.as_deref() == name && result.topic_id == topic_id && result.error_code == error.code()
        });
        assert_eq!(found.count(), 1, "{name:?} {topic_id} {error}: {response:?}");
    };
    has(Some("a"), id("a"), ErrorCode::None);
    has(None, unknown, ErrorCode::UnknownTopicId);
    has(None, TopicId::ZERO, ErrorCode::InvalidRequest);
    has(Some("b"), id("b"), ErrorCode::InvalidRequest);
    has(Some("c"), id("c"), ErrorCode::InvalidRequest);
    has(None, id("d"), ErrorCode::InvalidRequest);
    has(Some("d"), id("d"), ErrorCode::InvalidRequest);
    has(None, nobody, ErrorCode::InvalidRequest);
    has(Some("e"), id("e"), ErrorCode::None);
    assert_eq!(response.responses.len(), 9);
    let left: Vec<String> = fixture.image().topics().map(|topic| topic.name.to_string()).collect();
    assert_eq!(left, ["b", "c", "d"]);
}

#[test]
fn deletion_can_be_switched_off() {
    let fixture = Fixture::with_config(BrokerConfig { delete_topic_enable: false, ..Default::default() });
    fixture.create_topic("a", 1, &[]);
    for version in 1..=6 {
        let response = delete_named(&fixture, version, &["a"]);
        let expected =
            if version >= 3 { ErrorCode::TopicDeletionDisabled } else { ErrorCode::InvalidRequest };
        assert_eq!(code(response.responses[0].error_code), expected, "version {version}");
    }
    assert!(fixture.image().topic("a").is_some());
}

#[test]
fn a_topic_that_is_made_again_has_another_id_and_starts_empty() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 1, &[]);
    let first = fixture.image().topic("a").unwrap().id;
    fixture.append("a", 0, &[1, 2, 3], BatchOptions::default());
    delete_named(&fixture, 6, &["a"]);
    fixture.create_topic("a", 1, &[]);
    assert_ne!(fixture.image().topic("a").unwrap().id, first);
    assert_eq!(fixture.partition("a", 0).high_watermark().get(), 0);
}

fn more(name: &str, count: i32, lists: Option<&[&[i32]]>) -> CreatePartitionsTopic {
    let assignments = lists.map(|lists| {
        lists.iter().map(|nodes| CreatePartitionsAssignment { broker_ids: nodes.to_vec() }).collect()
    });
    CreatePartitionsTopic { name: name.to_owned(), count, assignments }
}

fn grow(fixture: &Fixture, version: i16, topics: Vec<CreatePartitionsTopic>) -> CreatePartitionsResponse {
    let request = CreatePartitionsRequest { topics, timeout_ms: 1_000, validate_only: false };
    fixture.call(version, &request)
}

#[test]
fn a_topic_grows_in_every_version_and_keeps_what_it_has() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 1, &[]);
    fixture.append("a", 0, &[1, 2], BatchOptions::default());
    for version in 0..=3 {
        let count = 2 + i32::from(version);
        let response = grow(&fixture, version, vec![more("a", count, None)]);
        assert_eq!((response.results[0].name.as_str(), response.results[0].error_code), ("a", 0));
        assert_eq!(fixture.image().topic("a").unwrap().next_partition(), PartitionIndex(count));
        assert_eq!(fixture.partition("a", count - 1).check_leader(), Ok(()));
    }
    assert_eq!(fixture.partition("a", 0).high_watermark().get(), 2);
}

#[test]
fn each_topic_that_cannot_grow_says_why() {
    let fixture = Fixture::new();
    fixture.add_broker(2, false);
    for name in ["same", "less", "minus", "few", "none", "nobody", "twice", "wide", "fine", "double", "huge"]
    {
        fixture.create_topic(name, 2, &[]);
    }
    let cases = [
        (more("missing", 3, None), ErrorCode::UnknownTopicOrPartition, ""),
        (more("same", 2, None), ErrorCode::InvalidPartitions, "already has 2 partition(s)"),
        (more("less", 1, None), ErrorCode::InvalidPartitions, "1 would not be an increase"),
        (more("minus", -1, None), ErrorCode::InvalidPartitions, "-1 would not be an increase"),
        (more("few", 4, Some(&[&[1]])), ErrorCode::InvalidReplicaAssignment, "only 1 assignment(s)"),
        (more("none", 4, Some(&[])), ErrorCode::InvalidReplicaAssignment, "only 0 assignment(s)"),
        (more("nobody", 3, Some(&[&[9]])), ErrorCode::InvalidReplicaAssignment, "9"),
        (more("twice", 3, Some(&[&[1, 1]])), ErrorCode::InvalidReplicaAssignment, "1"),
        (more("wide", 3, Some(&[&[1, 2]])), ErrorCode::InvalidReplicaAssignment, ""),
        (more("fine", 4, Some(&[&[2], &[1]])), ErrorCode::None, ""),
        (more("huge", i32::MAX, None), ErrorCode::PolicyViolation, "30000"),
    ];
    let mut topics: Vec<_> = cases.iter().map(|(topic, ..)| topic.clone()).collect();
    topics.extend([more("double", 3, None), more("double", 4, None)]);
    let response = grow(&fixture, 3, topics);
    assert_eq!(response.results.len(), cases.len() + 1);
    for (topic, expected, words) in &cases {
        let result = response.results.iter().find(|result| result.name == topic.name).unwrap();
        assert_eq!(code(result.error_code), *expected, "{result:?}");
        if *expected != ErrorCode::None {
            let message = result.error_message.as_deref().unwrap();
            assert!(!message.is_empty() && message.contains(words), "{}: {message}", topic.name);
        }
    }
    let double = response.results.iter().find(|result| result.name == "double").unwrap();
    assert_eq!(code(double.error_code), ErrorCode::InvalidRequest);
    let image = fixture.image();
    for topic in image.topics() {
        assert_eq!(topic.partition_count(), if &*topic.name == "fine" { 4 } else { 2 }, "{}", topic.name);
    }
    let leaders: Vec<_> = image.topic("fine").unwrap().partitions().map(|(_, found)| found.leader).collect();
    assert_eq!(leaders[2..], [Some(NodeId(2)), Some(NodeId(1))]);
}

#[test]
fn the_topics_of_a_request_share_one_limit() {
    let fixture = Fixture::new();
    for name in ["a", "b"] {
        fixture.create_topic(name, 1, &[]);
    }
    let topics = vec![more("a", 20_000, None), more("b", 20_000, None)];
    let request = CreatePartitionsRequest { topics, timeout_ms: 1_000, validate_only: true };
    let response: CreatePartitionsResponse = fixture.call(3, &request);
    let results = by_name(response.results.iter().map(|result| (result.name.as_str(), result.error_code)));
    assert_eq!((results["a"], results["b"]), (ErrorCode::None, ErrorCode::PolicyViolation));
}

#[test]
fn validation_of_more_partitions_adds_none() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 1, &[]);
    let topics = vec![more("a", 3, None)];
    let request = CreatePartitionsRequest { topics, timeout_ms: 1_000, validate_only: true };
    let response: CreatePartitionsResponse = fixture.call(3, &request);
    assert_eq!(code(response.results[0].error_code), ErrorCode::None);
    assert_eq!(fixture.image().topic("a").unwrap().partition_count(), 1);
}
