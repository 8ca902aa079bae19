//! `Produce`: what is refused, how, and what is stored.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_disk::{Fault, FaultRule, Operation};
use chronik_log::{CleanupPolicy, LogConfig, ReadData, ReadRequest};
use chronik_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use chronik_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use chronik_protocol::messages::produce_response::PartitionProduceResponse;
use chronik_protocol::messages::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ProduceRequest, ProduceResponse,
};
use chronik_protocol::records::{
    BatchBuilder, BatchHeader, BatchOptions, Compression, RecordIter, TimestampType, patch_max_timestamp,
};
use chronik_types::{ErrorCode, Offset, ProducerEpoch, ProducerId, TimestampMs};

use super::{Fixture, code, response};
use crate::reply::Reply;

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// A batch of records at these times, each with a key or without.
fn batch(options: BatchOptions, records: &[(i64, Option<&[u8]>)]) -> BytesMut {
    let mut builder = BatchBuilder::new(options);
    for (timestamp, key) in records {
        builder.append(TimestampMs(*timestamp), *key, Some(b"value value value value"), &[]).unwrap();
    }
    builder.finish().unwrap()
}

fn keyed(timestamp: i64) -> BytesMut {
    batch(BatchOptions::default(), &[(timestamp, Some(b"key"))])
}

fn request(acks: i16, parts: &[(&str, i32, &[u8])]) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 1_000,
        topic_data: parts
            .iter()
            .map(|(topic, index, records)| TopicProduceData {
                name: (*topic).to_owned(),
                partition_data: vec![PartitionProduceData {
                    index: *index,
                    records: Some(Bytes::copy_from_slice(records)),
                }],
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

/// Produces one batch to partition 0 of topic `a`.
fn produce(fixture: &Fixture, version: i16, records: &[u8]) -> PartitionProduceResponse {
    let answer: ProduceResponse = fixture.call(version, &request(-1, &[("a", 0, records)]));
    let [topic] = &answer.responses[..] else { panic!("{answer:?}") };
    let [partition] = &topic.partition_responses[..] else { panic!("{answer:?}") };
    partition.clone()
}

fn configure(fixture: &Fixture, change: impl FnOnce(&mut LogConfig)) {
    let partition = fixture.partition("a", 0);
    let mut config = LogConfig::clone(&partition.log().config());
    change(&mut config);
    partition.log().update_config(Arc::new(config));
}

/// What is in the log from `offset` on.
fn stored(fixture: &Fixture, offset: i64) -> Vec<Bytes> {
    let request = ReadRequest {
        start_offset: Offset(offset),
        max_bytes: 1 << 24,
        at_least_one_batch: true,
        upper_bound_offset: Offset(i64::MAX),
    };
    match fixture.partition("a", 0).log().read(request).unwrap().data {
        ReadData::Memory(batches) => batches,
        ReadData::Empty => Vec::new(),
        ReadData::File(_) => panic!("what was just written is in memory"),
    }
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.create_topic("a", 2, &[]);
    fixture
}

fn now(fixture: &Fixture) -> i64 {
    fixture.broker.clock.now().wall.get()
}

#[test]
fn a_compacted_topic_refuses_records_without_a_key() {
    let fixture = fixture();
    configure(&fixture, |config| config.cleanup_policy = CleanupPolicy { delete: false, compact: true });
    let now = now(&fixture);
    for compression in CODECS {
        let options = BatchOptions { compression, ..BatchOptions::default() };
        let end = fixture.partition("a", 0).high_watermark();
        let good = batch(options, &[(now, Some(b"k")), (now, Some(b""))]);
        let answer = produce(&fixture, 8, &good);
        assert_eq!((code(answer.error_code), answer.base_offset), (ErrorCode::None, end.get()));
        let bad = batch(options, &[(now, Some(b"k")), (now, None), (now, Some(b"k")), (now, None)]);
        for version in [3, 7, 8, 9, 12] {
            if compression == Compression::Zstd && version < 7 {
                continue;
            }
            let answer = produce(&fixture, version, &bad);
            assert_eq!(code(answer.error_code), ErrorCode::InvalidRecord, "{compression:?}");
            assert_eq!(answer.base_offset, -1);
            let indexes: Vec<i32> = answer.record_errors.iter().map(|error| error.batch_index).collect();
            let expected: &[i32] = if version < 8 { &[] } else { &[1, 3] };
            assert_eq!(indexes, expected);
            assert_eq!(answer.error_message.is_some(), version >= 8);
            assert!(answer.record_errors.iter().all(|error| error.batch_index_error_message.is_some()));
            assert_eq!(answer.log_start_offset, if version < 5 { -1 } else { 0 });
        }
        assert_eq!(fixture.partition("a", 0).log().log_end_offset().get(), end.get() + 2);
    }
}

#[test]
fn timestamps_out_of_range_are_named() {
    let fixture = fixture();
    configure(&fixture, |config| {
        config.message_timestamp_before_max_ms = Some(1_000);
        config.message_timestamp_after_max_ms = Some(100);
    });
    let now = now(&fixture);
    for compression in CODECS {
        let options = BatchOptions { compression, ..BatchOptions::default() };
        let fine = batch(options, &[(now - 1_000, None), (now + 100, None), (-1, None)]);
        assert_eq!(code(produce(&fixture, 8, &fine).error_code), ErrorCode::None);
        let bad = batch(options, &[(now, None), (now - 1_001, None), (now + 101, None)]);
        let answer = produce(&fixture, 8, &bad);
        assert_eq!(code(answer.error_code), ErrorCode::InvalidTimestamp);
        let indexes: Vec<i32> = answer.record_errors.iter().map(|error| error.batch_index).collect();
        assert_eq!(indexes, [1, 2], "{compression:?}");
    }
    // Under the broker's time that of the producer does not matter.
    configure(&fixture, |config| config.message_timestamp_type = TimestampType::LogAppendTime);
    let answer = produce(&fixture, 8, &keyed(now + 10_000));
    assert_eq!((code(answer.error_code), answer.log_append_time_ms), (ErrorCode::None, now));
    let header = BatchHeader::parse(&stored(&fixture, answer.base_offset)[0]).unwrap();
    assert_eq!(header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(header.max_timestamp, TimestampMs(now));
    let by_broker = BatchOptions { log_append_time: Some(TimestampMs(now)), ..BatchOptions::default() };
    let answer = produce(&fixture, 8, &batch(by_broker, &[(now, None), (now, None)]));
    assert_eq!(code(answer.error_code), ErrorCode::InvalidTimestamp);
    assert_eq!(answer.record_errors.len(), 2);
}

#[test]
fn a_largest_timestamp_that_lies_is_put_right() {
    let fixture = fixture();
    let now = now(&fixture);
    for compression in CODECS {
        let options = BatchOptions { compression, ..BatchOptions::default() };
        let mut lie = batch(options, &[(now - 3, None), (now, None), (now - 7, None)]);
        patch_max_timestamp(&mut lie, TimestampType::CreateTime, TimestampMs(77));
        let answer = produce(&fixture, 8, &lie);
        let kept = &stored(&fixture, answer.base_offset)[0];
        let header = BatchHeader::parse(kept).unwrap();
        assert_eq!((header.max_timestamp, header.check_crc(kept)), (TimestampMs(now), Ok(())));
    }
}

#[test]
fn the_topics_codec_is_stored_and_the_same_codec_verbatim() {
    let fixture = fixture();
    let now = now(&fixture);
    for to in CODECS {
        configure(&fixture, |config| config.compression_type = Some(to));
        for (at, from) in (0_i16..).zip(CODECS) {
            let options = BatchOptions {
                compression: from,
                producer_id: ProducerId(i64::from(at) + 10 * i64::from(to as u8)),
                producer_epoch: ProducerEpoch(at),
                base_sequence: 0,
                ..BatchOptions::default()
            };
            let sent = batch(options, &[(now, Some(b"k")), (now - 5, None)]);
            let answer = produce(&fixture, 8, &sent);
            assert_eq!(code(answer.error_code), ErrorCode::None, "{from:?} to {to:?}");
            let kept = &stored(&fixture, answer.base_offset)[0];
            let header = BatchHeader::parse(kept).unwrap();
            assert_eq!(header.check_crc(kept), Ok(()));
            assert_eq!(header.attributes.compression(), Some(to));
            assert_eq!(header.producer_epoch, ProducerEpoch(at));
            if from == to {
                assert_eq!(kept[16..], sent[16..], "verbatim but for offset and leader epoch");
            }
            let mut records = RecordIter::new(kept, 1 << 20).unwrap();
            let first = records.next_record().unwrap().unwrap();
            assert_eq!((first.offset.get(), first.key), (answer.base_offset, Some(&b"k"[..])));
            let second = records.next_record().unwrap().unwrap();
            assert_eq!((second.timestamp, second.key), (TimestampMs(now - 5), None));
            // The producer's next try is known for what it is.
            let again = produce(&fixture, 8, &sent);
            assert_eq!((again.error_code, again.base_offset), (0, answer.base_offset));
        }
    }
}

#[test]
fn size_is_checked_before_and_behind_recompression() {
    let fixture = fixture();
    let now = now(&fixture);
    let zeros = |compression| {
        let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        builder.append(TimestampMs(now), None, Some(&vec![0; 5_000]), &[]).unwrap();
        builder.finish().unwrap()
    };
    configure(&fixture, |config| config.max_message_bytes = 1_000);
    assert_eq!(code(produce(&fixture, 8, &zeros(Compression::None)).error_code), ErrorCode::MessageTooLarge);
    assert_eq!(code(produce(&fixture, 8, &zeros(Compression::Zstd)).error_code), ErrorCode::None);
    configure(&fixture, |config| config.compression_type = Some(Compression::None));
    let answer = produce(&fixture, 8, &zeros(Compression::Zstd));
    assert_eq!(code(answer.error_code), ErrorCode::MessageTooLarge);
    assert_eq!(answer.log_start_offset, -1);
    configure(&fixture, |config| config.max_message_bytes = 6_000);
    assert_eq!(code(produce(&fixture, 8, &zeros(Compression::Zstd)).error_code), ErrorCode::None);
}

#[test]
fn settings_that_change_hold_for_the_next_batch() {
    let fixture = fixture();
    let now = now(&fixture);
    let alter = |name: &str, value: &str| {
        let configs = vec![AlterableConfig {
            name: name.to_owned(),
            config_operation: 0,
            value: Some(value.to_owned()),
        }];
        let resources =
            vec![AlterConfigsResource { resource_type: 2, resource_name: "a".to_owned(), configs }];
        let request = IncrementalAlterConfigsRequest { resources, ..Default::default() };
        let answer: IncrementalAlterConfigsResponse = fixture.call(1, &request);
        assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
    };
    let codec = |answer: &PartitionProduceResponse| {
        BatchHeader::parse(&stored(&fixture, answer.base_offset)[0]).unwrap().attributes.compression()
    };
    let sent = batch(BatchOptions::default(), &[(now, None), (now, None)]);
    assert_eq!(codec(&produce(&fixture, 8, &sent)), Some(Compression::None));
    alter("compression.type", "lz4");
    assert_eq!(codec(&produce(&fixture, 8, &sent)), Some(Compression::Lz4));
    alter("message.timestamp.type", "LogAppendTime");
    assert_eq!(produce(&fixture, 8, &sent).log_append_time_ms, now);
    alter("cleanup.policy", "compact");
    assert_eq!(produce(&fixture, 8, &sent).record_errors.len(), 2);
    alter("max.message.bytes", "70");
    assert_eq!(code(produce(&fixture, 8, &sent).error_code), ErrorCode::MessageTooLarge);
}

#[test]
fn what_cannot_be_read_is_not_stored() {
    let fixture = fixture();
    let now = now(&fixture);
    for compression in &CODECS[1..] {
        let mut garbage = keyed(now);
        garbage[22] |= *compression as u8;
        let crc = crc32c(&garbage[21..]);
        garbage[17..21].copy_from_slice(&crc.to_be_bytes());
        let answer = produce(&fixture, 8, &garbage);
        assert_ne!(code(answer.error_code), ErrorCode::None, "{compression:?}");
        assert!(answer.record_errors.is_empty(), "no single record is at fault");
    }
    assert_eq!(fixture.partition("a", 0).log().log_end_offset(), Offset(0));
}

/// The checksum by its definition, to need no crate for it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn a_partition_named_twice_is_written_once() {
    let fixture = fixture();
    let now = now(&fixture);
    let (first, second, other) = (keyed(now - 2), keyed(now - 1), keyed(now));
    let wanted = request(-1, &[("a", 0, &first), ("a", 1, &other), ("a", 0, &second)]);
    let answer: ProduceResponse = fixture.call(8, &wanted);
    let [topic] = &answer.responses[..] else { panic!("{answer:?}") };
    let answered: Vec<_> = topic
        .partition_responses
        .iter()
        .map(|found| (found.index, found.error_code, found.base_offset))
        .collect();
    assert_eq!(answered, [(0, 0, 0), (1, 0, 0)]);
    assert_eq!(fixture.partition("a", 0).log().log_end_offset(), Offset(1));
    let kept = BatchHeader::parse(&stored(&fixture, 0)[0]).unwrap();
    assert_eq!(kept.max_timestamp, TimestampMs(now - 1), "the last one counts");
}

#[test]
fn the_first_fault_is_the_one_that_kafka_names() {
    let fixture = fixture();
    fixture.create_topic("__consumer_offsets", 1, &[]);
    let now = now(&fixture);
    let good = keyed(now);
    let cases: [(i16, &str, i32, &[u8], ErrorCode); 9] = [
        (7, "no/slash", 0, &good, ErrorCode::UnknownTopicOrPartition),
        (7, "a", 9, b"garbage", ErrorCode::UnknownTopicOrPartition),
        (7, "__consumer_offsets", 9, &good, ErrorCode::UnknownTopicOrPartition),
        (7, "a", 0, b"garbage", ErrorCode::InvalidRecord),
        (7, "a", 0, &good, ErrorCode::InvalidRequiredAcks),
        (7, "__consumer_offsets", 0, &good, ErrorCode::InvalidRequiredAcks),
        (-1, "__consumer_offsets", 0, &good, ErrorCode::InvalidTopicException),
        (-1, "a", -1, &good, ErrorCode::UnknownTopicOrPartition),
        (-1, "a", 0, &good, ErrorCode::None),
    ];
    for (acks, topic, index, records, expected) in cases {
        let answer: ProduceResponse = fixture.call(8, &request(acks, &[(topic, index, records)]));
        let found = &answer.responses[0].partition_responses[0];
        assert_eq!(code(found.error_code), expected, "{topic} {index} with acks {acks}");
    }
}

#[test]
fn transactional_records_need_a_transactional_id() {
    let fixture = fixture();
    let now = now(&fixture);
    let options = BatchOptions {
        producer_id: ProducerId(3),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        is_transactional: true,
        ..BatchOptions::default()
    };
    let transactional = batch(options, &[(now, None)]);
    let good = keyed(now);
    let mixed = request(-1, &[("a", 1, &good), ("a", 0, &transactional)]);
    let answer: ProduceResponse = fixture.call(8, &mixed);
    let codes: Vec<_> =
        answer.responses[0].partition_responses.iter().map(|found| code(found.error_code)).collect();
    assert_eq!(codes, [ErrorCode::TransactionalIdAuthorizationFailed; 2]);
    let named = ProduceRequest { transactional_id: Some("t".to_owned()), ..mixed };
    let answer: ProduceResponse = fixture.call(8, &named);
    let codes: Vec<_> =
        answer.responses[0].partition_responses.iter().map(|found| code(found.error_code)).collect();
    assert_eq!(codes, [ErrorCode::None, ErrorCode::InvalidTxnState]);
}

#[test]
fn the_high_watermark_waits_for_every_sync_below_it() {
    let fixture = fixture();
    configure(&fixture, |config| config.flush_messages = Some(2));
    let now = now(&fixture);
    let send = || fixture.send(8, &request(-1, &[("a", 0, &keyed(now))]));
    let high_watermark = || fixture.partition("a", 0).high_watermark().get();
    let answered = |pending: &super::Pending| -> ProduceResponse { response(pending, 8) };
    let first = send();
    assert_eq!(answered(&first).responses[0].partition_responses[0].base_offset, 0);
    let (second, third) = (send(), send());
    assert!(second.lock().is_none(), "the second record of two waits for its sync");
    assert!(third.lock().is_none(), "what lies behind it is not committed before it");
    assert_eq!((high_watermark(), fixture.partition("a", 0).log().log_end_offset().get()), (1, 3));
    fixture.broker.logs.flush_queue().sync_batch();
    for (pending, base_offset) in [(second, 1), (third, 2)] {
        let answer = answered(&pending);
        let found = &answer.responses[0].partition_responses[0];
        assert_eq!((found.error_code, found.base_offset), (0, base_offset));
    }
    assert_eq!(high_watermark(), 3);
}

#[test]
fn a_failed_sync_fails_what_lies_behind_it_too() {
    let fixture = fixture();
    configure(&fixture, |config| config.flush_messages = Some(2));
    let now = now(&fixture);
    let send = || fixture.send(8, &request(-1, &[("a", 0, &keyed(now))]));
    send();
    let waiting = [send(), send()];
    fixture.disk.inject(FaultRule::always(Operation::Sync, ".log", Fault::Io));
    fixture.broker.logs.flush_queue().sync_batch();
    for pending in &waiting {
        let answer: ProduceResponse = response(pending, 8);
        let found = &answer.responses[0].partition_responses[0];
        assert_eq!(code(found.error_code), ErrorCode::KafkaStorageError);
    }
    assert_eq!(fixture.partition("a", 0).high_watermark(), Offset(1));
}

#[test]
fn acks_0_with_a_refused_batch_closes_the_connection() {
    let fixture = fixture();
    configure(&fixture, |config| config.cleanup_policy = CleanupPolicy { delete: false, compact: true });
    let now = now(&fixture);
    let bad = batch(BatchOptions::default(), &[(now, None)]);
    let pending = fixture.send(8, &request(0, &[("a", 0, &bad)]));
    assert!(matches!(&*pending.lock(), Some(Reply::Close(_))), "{:?}", pending.lock());
}
