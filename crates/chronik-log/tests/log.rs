//! Appending and reading, on a disk without faults.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use chronik_disk::Crash;
use chronik_log::{AppendOrigin, LogConfig, LogError, ReadData, ReadRequest};
use chronik_types::{ErrorCode, LeaderEpoch, Offset};
use common::*;

#[test]
fn what_is_appended_is_read_back() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    for at in 0..10_i64 {
        let appended = append(&log, batch(BASE_MS, &[b"a", b"b", b"c"])).unwrap();
        assert_eq!((appended.first_offset, appended.last_offset), (Offset(at * 3), Offset(at * 3 + 2)));
    }
    assert_eq!(log.log_end_offset(), Offset(30));
    let records = all_records(&log, 0, 100);
    assert_eq!(records.len(), 30);
    assert!(records.iter().enumerate().all(|(at, (offset, _))| usize::try_from(*offset) == Ok(at)));
    assert!(matches!(read_from(&log, 0, 1000).data, ReadData::Memory(_)));
}

#[test]
fn reads_stop_at_the_upper_bound_and_at_the_end() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    for _ in 0..3 {
        append(&log, batch(BASE_MS, &[b"a", b"b"])).unwrap();
    }
    let request = |start: i64, bound: i64| ReadRequest {
        start_offset: Offset(start),
        max_bytes: 1 << 20,
        at_least_one_batch: true,
        upper_bound_offset: Offset(bound),
    };
    let read = log.read(request(0, 4)).unwrap();
    assert_eq!((read.first_offset, read.next_offset), (Offset(0), Offset(4)));
    assert_eq!(log.read(request(0, 0)).unwrap().len_bytes, 0);
    assert_eq!(log.read(request(6, 6)).unwrap().next_offset, Offset(6));
    let error = log.read(request(7, 7)).unwrap_err();
    assert!(matches!(error, LogError::OffsetOutOfRange { .. }));
    assert_eq!(error.error_code(), ErrorCode::OffsetOutOfRange);
}

#[test]
fn segments_roll_and_are_read_across_a_restart() {
    let node =
        Node::new(LogConfig { segment_bytes: 2000, index_interval_bytes: 200, ..LogConfig::default() });
    let log = node.log();
    for at in 0..200_i64 {
        append(&log, batch(BASE_MS + at, &[b"0123456789", b"x"])).unwrap();
    }
    assert!(log.segment_count() > 5);
    let before = all_records(&log, 0, 300);
    assert_eq!(before.len(), 400);
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    assert_eq!(log.log_end_offset(), Offset(400));
    for max_bytes in [1, 90, 300, 1 << 20] {
        assert_eq!(all_records(&log, 0, max_bytes), before);
    }
    for from in 0..400 {
        assert_eq!(all_records(&log, from, 700).len(), 400 - usize::try_from(from).unwrap());
    }
    assert!(matches!(read_from(&log, 0, 1000).data, ReadData::File(_)));
    let appended =
        log.append(now_at(0), batch(BASE_MS, &[b"after"]), AppendOrigin::Client, LeaderEpoch(1)).unwrap();
    assert_eq!(appended.first_offset, Offset(400));
}
