//! Finding offsets by time, with every codec; timestamps that are refused or stamped.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use chronik_log::{AppendOrigin, LogConfig, OffsetQuery};
use chronik_protocol::records::{BatchHeader, Compression, TimestampType, patch_max_timestamp};
use chronik_types::{ErrorCode, LeaderEpoch, Offset, TimestampMs};
use common::*;

#[test]
fn the_first_record_at_or_after_a_time_is_found_in_every_codec() {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    for codec in [None, Gzip, Snappy, Lz4, Zstd] {
        let node =
            Node::new(LogConfig { segment_bytes: 1200, index_interval_bytes: 100, ..LogConfig::default() });
        let log = node.log();
        for at in 0..60_i64 {
            let values: Vec<Vec<u8>> = (0..5).map(|n| format!("record {at} {n}").into_bytes()).collect();
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            append(&log, compressed(codec, BASE_MS + at * 10, &values)).unwrap();
        }
        let find = |ms: i64| {
            let found = log.offset_for(OffsetQuery::Timestamp(TimestampMs(BASE_MS + ms))).unwrap();
            found.map(|found| (found.offset.get(), found.timestamp.get() - BASE_MS))
        };
        assert_eq!(find(-100), Some((0, 0)), "{codec:?}");
        for at in 0..60_i64 {
            assert_eq!(find(at * 10), Some((at * 5, at * 10)), "{codec:?}");
            assert_eq!(find(at * 10 + 3), Some((at * 5 + 3, at * 10 + 3)), "{codec:?}");
            let after = (at < 59).then_some((at * 5 + 5, at * 10 + 10));
            assert_eq!(find(at * 10 + 5), after, "{codec:?}");
        }
        let max = log.offset_for(OffsetQuery::MaxTimestamp).unwrap().unwrap();
        assert_eq!((max.offset.get(), max.timestamp.get()), (299, BASE_MS + 594));
        assert_eq!(max.leader_epoch, LeaderEpoch(0));
        // Records below the log's start are not found.
        log.set_high_watermark(log.log_end_offset());
        log.delete_records(Offset(148)).unwrap();
        assert_eq!(find(-100), Some((148, 293)), "{codec:?}");
    }
}

#[test]
fn the_largest_timestamp_need_not_be_the_last() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    assert_eq!(log.offset_for(OffsetQuery::MaxTimestamp).unwrap(), None);
    for ms in [5, 90, 20, 90] {
        append(&log, batch(BASE_MS + ms, &[b"a", b"b"])).unwrap();
    }
    let max = log.offset_for(OffsetQuery::MaxTimestamp).unwrap().unwrap();
    assert_eq!((max.offset.get(), max.timestamp.get()), (3, BASE_MS + 91));
    let found = log.offset_for(OffsetQuery::Timestamp(TimestampMs(BASE_MS + 10))).unwrap().unwrap();
    assert_eq!(found.offset, Offset(2));
    assert_eq!(log.offset_for(OffsetQuery::LatestTiered).unwrap(), None);
}

#[test]
fn timestamps_outside_the_limits_are_refused() {
    let node = Node::new(LogConfig {
        message_timestamp_before_max_ms: Some(1000),
        message_timestamp_after_max_ms: Some(500),
        ..LogConfig::default()
    });
    let log = node.log();
    for (ms, good) in [(0, true), (-1000, true), (-1001, false), (500, true), (501, false)] {
        match append(&log, batch(BASE_MS + ms, &[b"v"])) {
            Ok(_) => assert!(good, "{ms}"),
            Err(error) => {
                assert_eq!(error.error_code(), ErrorCode::InvalidTimestamp);
                assert!(!good, "{ms}");
            }
        }
    }
}

#[test]
fn the_brokers_time_is_stamped_where_the_topic_wants_it() {
    let node =
        Node::new(LogConfig { message_timestamp_type: TimestampType::LogAppendTime, ..LogConfig::default() });
    let log = node.log();
    let appended =
        log.append(now_at(77), batch(5, &[b"a", b"b"]), AppendOrigin::Client, LeaderEpoch(2)).unwrap();
    assert_eq!(appended.log_append_time.get(), BASE_MS + 77);
    let bytes = bytes_of(&read_from(&log, 0, 1000));
    let header = BatchHeader::parse(&bytes).unwrap();
    header.check_crc(&bytes).unwrap();
    assert_eq!(header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(header.max_timestamp.get(), BASE_MS + 77);
    assert_eq!(header.partition_leader_epoch, LeaderEpoch(2));
    let found = log.offset_for(OffsetQuery::Timestamp(TimestampMs(BASE_MS))).unwrap().unwrap();
    assert_eq!((found.offset.get(), found.timestamp.get()), (0, BASE_MS + 77));
}

#[test]
fn batches_over_the_limits_are_refused() {
    let node = Node::new(LogConfig { max_message_bytes: 200, segment_bytes: 150, ..LogConfig::default() });
    let log = node.log();
    let code = |len: usize| append(&log, batch(BASE_MS, &[&vec![0; len]])).map_err(|e| e.error_code());
    code(10).unwrap();
    assert_eq!(code(300), Err(ErrorCode::MessageTooLarge));
    assert_eq!(code(100), Err(ErrorCode::RecordListTooLarge));
    code(10).unwrap();
    assert_eq!(log.log_end_offset(), Offset(2));
}

#[test]
fn a_batch_that_cannot_be_read_stands_as_one_record() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"before"])).unwrap();
    let mut garbage = batch(BASE_MS + 10, &[b"not compressed", b"whatever the header says"]);
    garbage[22] |= 1;
    patch_max_timestamp(&mut garbage, TimestampType::CreateTime, TimestampMs(BASE_MS + 10));
    // A producer could not write this; a log that an earlier version wrote may hold it.
    log.append(now_at(0), garbage, AppendOrigin::Coordinator, LeaderEpoch(0)).unwrap();
    append(&log, batch(BASE_MS + 20, &[b"behind"])).unwrap();
    let find = |ms: i64| {
        let found = log.offset_for(OffsetQuery::Timestamp(TimestampMs(BASE_MS + ms))).unwrap();
        found.map(|found| (found.timestamp.get() - BASE_MS, found.offset.get()))
    };
    assert_eq!(find(0), Some((0, 0)));
    assert_eq!(find(5), Some((10, 1)));
    assert_eq!(find(15), Some((20, 3)));
}
