//! Requests whose proposals take their time.

use std::sync::Arc;

use chronik_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use chronik_protocol::messages::create_topics_request::CreatableTopic;
use chronik_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse,
};
use chronik_types::{ErrorCode, TopicId};

use super::{Fixture, code, response};

fn request(names: &[&str], timeout_ms: i32) -> CreateTopicsRequest {
    let topics = names
        .iter()
        .map(|name| CreatableTopic {
            name: (*name).to_owned(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        })
        .collect();
    CreateTopicsRequest { topics, timeout_ms, ..Default::default() }
}

#[test]
fn the_answer_waits_until_all_proposals_are_applied() {
    let fixture = Fixture::new();
    fixture.metadata.hold();
    let pending = fixture.send(7, &request(&["a", "b"], 1_000));
    fixture.pass(999);
    assert!(pending.lock().is_none());
    assert_eq!(fixture.metadata.release(), 2, "each topic is a proposal of its own");
    let answered: CreateTopicsResponse = response(&pending, 7);
    assert!(answered.topics.iter().all(|result| result.error_code == 0 && result.topic_id != TopicId::ZERO));
    assert_eq!(fixture.broker.timers.armed_count(), 0);
    fixture.pass(10);
    assert!(pending.lock().is_none(), "answered once");
}

#[test]
fn what_is_not_done_in_time_is_told_and_goes_on() {
    let fixture = Fixture::new();
    fixture.create_topic("old", 1, &[]);
    fixture.metadata.hold();
    let created = fixture.send(7, &request(&["a", "no/slash"], 1_000));
    let topics = vec![CreatePartitionsTopic { name: "old".to_owned(), count: 2, assignments: None }];
    let grown = fixture.send(3, &CreatePartitionsRequest { topics, timeout_ms: 1_000, validate_only: false });
    let topic_names = vec!["old".to_owned(), "missing".to_owned()];
    let deleted =
        fixture.send(5, &DeleteTopicsRequest { topic_names, timeout_ms: 1_000, ..Default::default() });
    fixture.pass(1_000);
    let created: CreateTopicsResponse = response(&created, 7);
    assert_eq!(code(created.topics[0].error_code), ErrorCode::RequestTimedOut);
    assert_eq!((created.topics[0].topic_id, created.topics[0].num_partitions), (TopicId::ZERO, -1));
    assert_eq!(code(created.topics[1].error_code), ErrorCode::InvalidTopicException);
    let grown: CreatePartitionsResponse = response(&grown, 3);
    assert_eq!(code(grown.results[0].error_code), ErrorCode::RequestTimedOut);
    let deleted: DeleteTopicsResponse = response(&deleted, 5);
    let error = |name: &str| {
        deleted.responses.iter().find(|result| result.name.as_deref() == Some(name)).unwrap().error_code
    };
    assert_eq!(code(error("old")), ErrorCode::RequestTimedOut);
    assert_eq!(code(error("missing")), ErrorCode::UnknownTopicOrPartition);
    fixture.metadata.release();
    assert!(fixture.image().topic("a").is_some(), "the proposal went on");
    assert!(fixture.image().topic("old").is_none());
}

#[test]
fn a_timeout_of_nothing_waits_for_nothing() {
    let fixture = Fixture::new();
    fixture.metadata.hold();
    for timeout_ms in [0, -1, i32::MIN] {
        let answered: CreateTopicsResponse = fixture.call(7, &request(&["a"], timeout_ms));
        assert_eq!(code(answered.topics[0].error_code), ErrorCode::RequestTimedOut);
    }
    let answered: CreateTopicsResponse = fixture.call(7, &request(&[], 0));
    assert!(answered.topics.is_empty());
}

#[test]
fn one_of_two_that_make_the_same_topic_is_refused() {
    let fixture = Fixture::new();
    fixture.metadata.hold();
    let first = fixture.send(7, &request(&["a"], 1_000));
    let second = fixture.send(7, &request(&["a"], 1_000));
    fixture.metadata.release();
    let first: CreateTopicsResponse = response(&first, 7);
    assert_eq!(code(first.topics[0].error_code), ErrorCode::None);
    let second: CreateTopicsResponse = response(&second, 7);
    assert_eq!(code(second.topics[0].error_code), ErrorCode::TopicAlreadyExists);
    assert_eq!((second.topics[0].topic_id, second.topics[0].num_partitions), (TopicId::ZERO, -1));
    assert!(!second.topics[0].error_message.as_deref().unwrap().is_empty());
}

#[test]
fn a_client_that_goes_takes_its_wait_along() {
    let fixture = Fixture::new();
    fixture.metadata.hold();
    let pending = fixture.send(7, &request(&["a"], 1_000));
    let pending_count = Arc::strong_count(&pending);
    assert_eq!(fixture.broker.timers.armed_count(), 1);
    fixture.broker.connection_closed(&fixture.connection);
    assert_eq!(fixture.broker.timers.armed_count(), 0);
    assert_eq!(Arc::strong_count(&pending), pending_count - 1, "the responder is dropped");
    fixture.metadata.release();
    assert!(pending.lock().is_none());
    // A request that arrives after the end waits for nothing.
    fixture.metadata.hold();
    fixture.send(7, &request(&["b"], 1_000));
    assert_eq!(fixture.broker.timers.armed_count(), 0);
}
