//! `DeleteRecords`.

use chronik_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use chronik_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
};
use chronik_protocol::records::BatchOptions;
use chronik_types::ErrorCode;

use super::{Fixture, code};

fn delete(fixture: &Fixture, version: i16, topic: &str, index: i32, offset: i64) -> (ErrorCode, i64) {
    let partitions = vec![DeleteRecordsPartition { partition_index: index, offset }];
    let request = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic { name: topic.to_owned(), partitions }],
        timeout_ms: 1_000,
    };
    let response: DeleteRecordsResponse = fixture.call(version, &request);
    let [answered] = &response.topics[..] else { panic!("{response:?}") };
    assert_eq!(answered.name, topic);
    let [result] = &answered.partitions[..] else { panic!("{response:?}") };
    assert_eq!(result.partition_index, index);
    (code(result.error_code), result.low_watermark)
}

#[test]
fn records_go_from_the_front_in_every_version() {
    for version in 0..=2 {
        let fixture = Fixture::new();
        fixture.create_topic("a", 1, &[]);
        fixture.append("a", 0, &[1, 2, 3, 4, 5], BatchOptions::default());
        let start = || fixture.partition("a", 0).log().log_start_offset().get();
        assert_eq!(delete(&fixture, version, "a", 0, 2), (ErrorCode::None, 2));
        assert_eq!(start(), 2);
        assert_eq!(delete(&fixture, version, "a", 0, 1), (ErrorCode::None, 2), "what is gone is gone");
        assert_eq!(delete(&fixture, version, "a", 0, 6), (ErrorCode::OffsetOutOfRange, -1));
        assert_eq!(delete(&fixture, version, "a", 0, -2), (ErrorCode::OffsetOutOfRange, -1));
        assert_eq!(start(), 2);
        assert_eq!(delete(&fixture, version, "a", 0, -1), (ErrorCode::None, 5), "up to the high watermark");
        assert_eq!(start(), 5);
        assert_eq!(delete(&fixture, version, "a", 0, 5), (ErrorCode::None, 5));
        assert_eq!(fixture.append("a", 0, &[6], BatchOptions::default()), 5, "offsets go on");
    }
}

#[test]
fn what_cannot_be_deleted_says_why() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 1, &[]);
    fixture.create_topic("__consumer_offsets", 1, &[]);
    assert_eq!(delete(&fixture, 2, "missing", 0, 0), (ErrorCode::UnknownTopicOrPartition, -1));
    assert_eq!(delete(&fixture, 2, "a", 1, 0), (ErrorCode::UnknownTopicOrPartition, -1));
    assert_eq!(delete(&fixture, 2, "a", -1, 0), (ErrorCode::UnknownTopicOrPartition, -1));
    assert_eq!(delete(&fixture, 2, "__consumer_offsets", 0, 0), (ErrorCode::InvalidTopicException, -1));
    assert_eq!(delete(&fixture, 2, "__transaction_state", 0, 0), (ErrorCode::UnknownTopicOrPartition, -1));
}

#[test]
fn a_partition_that_is_elsewhere_is_not_deleted_from_here() {
    let fixture = Fixture::new();
    fixture.add_broker(2, false);
    fixture.create_topic("a", 2, &[]);
    let image = fixture.image();
    let topic = image.topic("a").unwrap();
    let elsewhere = topic.partitions().find(|(_, found)| !found.replicas.contains(&super::NODE)).unwrap().0;
    assert_eq!(delete(&fixture, 2, "a", elsewhere.get(), 0), (ErrorCode::NotLeaderOrFollower, -1));
}

#[test]
fn traffic_is_counted_by_topic_and_outlives_it() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 2, &[]);
    fixture.create_topic("b", 1, &[]);
    fixture.append("a", 0, &[1, 2, 3], BatchOptions::default());
    fixture.append("a", 1, &[4], BatchOptions::default());
    fixture.append("b", 0, &[5], BatchOptions::default());
    let traffic = fixture.broker.traffic();
    let messages =
        |topic: &str| traffic.topics.get(topic).map(|topic| (topic.messages_in, topic.produce_requests));
    assert_eq!((messages("a"), messages("b")), (Some((4, 2)), Some((1, 1))));
    assert_eq!(traffic.total.messages_in, 5);
    assert_eq!(traffic.total.bytes_in, traffic.topics.values().map(|topic| topic.bytes_in).sum::<u64>());

    let request = DeleteTopicsRequest { topic_names: vec!["a".to_owned()], ..Default::default() };
    let _: DeleteTopicsResponse = fixture.call(5, &request);
    let traffic = fixture.broker.traffic();
    assert!(!traffic.topics.contains_key("a"));
    assert_eq!(traffic.total.messages_in, 5, "sums never go back");
}
