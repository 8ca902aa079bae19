//! `InitProducerId` and `DescribeProducers`.

use std::collections::BTreeSet;

use chronik_protocol::messages::describe_producers_request::TopicRequest;
use chronik_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, InitProducerIdRequest, InitProducerIdResponse,
};
use chronik_protocol::records::BatchOptions;
use chronik_types::{ErrorCode, ProducerEpoch, ProducerId};

use super::{Fixture, code, response};

fn request() -> InitProducerIdRequest {
    InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: i32::MAX, ..Default::default() }
}

#[test]
fn every_producer_gets_an_id_of_its_own() {
    let fixture = Fixture::new();
    let mut seen = BTreeSet::new();
    // More than a block of ids.
    for _ in 0..500 {
        for version in 0..=5 {
            let answer: InitProducerIdResponse = fixture.call(version, &request());
            assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
            assert!(answer.producer_id >= 0 && seen.insert(answer.producer_id));
        }
    }
    // One that had an id gets another.
    let again = InitProducerIdRequest { producer_id: 7, producer_epoch: 3, ..request() };
    let answer: InitProducerIdResponse = fixture.call(5, &again);
    assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
    assert!(seen.insert(answer.producer_id));
}

#[test]
fn half_an_identity_and_transactions_are_refused() {
    let fixture = Fixture::new();
    let named = |name: &str| InitProducerIdRequest { transactional_id: Some(name.to_owned()), ..request() };
    let cases = [
        (3, InitProducerIdRequest { producer_id: 7, ..request() }, ErrorCode::InvalidRequest),
        (3, InitProducerIdRequest { producer_epoch: 0, ..request() }, ErrorCode::InvalidRequest),
        (0, named(""), ErrorCode::InvalidRequest),
        (
            0,
            InitProducerIdRequest { transaction_timeout_ms: 0, ..named("t") },
            ErrorCode::InvalidTransactionTimeout,
        ),
        (0, named("t"), ErrorCode::TransactionalIdAuthorizationFailed),
    ];
    for (from, request, expected) in cases {
        for version in from..=5 {
            let answer: InitProducerIdResponse = fixture.call(version, &request);
            assert_eq!(code(answer.error_code), expected, "{request:?}");
            assert_eq!((answer.producer_id, answer.producer_epoch), (-1, -1));
        }
    }
}

#[test]
fn producers_wait_for_the_next_block() {
    let fixture = Fixture::new();
    fixture.metadata.hold();
    let first = fixture.send(5, &request());
    let second = fixture.send(5, &request());
    assert!(first.lock().is_none() && second.lock().is_none());
    assert_eq!(fixture.metadata.release(), 1, "one block serves both");
    let first: InitProducerIdResponse = response(&first, 5);
    let second: InitProducerIdResponse = response(&second, 5);
    assert_eq!((first.error_code, second.error_code), (0, 0));
    assert_ne!(first.producer_id, second.producer_id);
}

#[test]
fn who_has_written_is_described() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 2, &[]);
    let options = BatchOptions {
        producer_id: ProducerId(40),
        producer_epoch: ProducerEpoch(2),
        base_sequence: 0,
        ..Default::default()
    };
    let now = fixture.broker.clock.now().wall.get();
    fixture.append("a", 1, &[now, now + 5, now + 3], options);
    let request = DescribeProducersRequest {
        topics: [("a", vec![0, 1, 9, 1, 0]), ("missing", vec![0]), ("no/slash", vec![0])]
            .map(|(name, partition_indexes)| TopicRequest { name: name.to_owned(), partition_indexes })
            .to_vec(),
    };
    let response: DescribeProducersResponse = fixture.call(0, &request);
    let errors: Vec<Vec<_>> = response
        .topics
        .iter()
        .map(|topic| topic.partitions.iter().map(|found| code(found.error_code)).collect())
        .collect();
    assert_eq!(
        errors,
        [
            vec![ErrorCode::None, ErrorCode::None, ErrorCode::UnknownTopicOrPartition],
            vec![ErrorCode::UnknownTopicOrPartition],
            vec![ErrorCode::InvalidTopicException],
        ]
    );
    assert!(response.topics[0].partitions[0].active_producers.is_empty());
    let [producer] = &response.topics[0].partitions[1].active_producers[..] else { panic!("{response:?}") };
    assert_eq!((producer.producer_id, producer.producer_epoch, producer.last_sequence), (40, 2, 2));
    assert_eq!(producer.last_timestamp, now + 5);
    assert_eq!((producer.coordinator_epoch, producer.current_txn_start_offset), (-1, -1));
    for topic in &response.topics[1..] {
        assert!(topic.partitions[0].error_message.as_deref().is_some_and(|message| !message.is_empty()));
    }
}
