//! Idempotent producers (KIP-98): which sequence is taken, which is a duplicate, which is refused.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use chronik_disk::Crash;
use chronik_log::{AppendOrigin, LogConfig, PendingBatch, UNKNOWN_OFFSET};
use chronik_protocol::records::BatchOptions;
use chronik_types::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use common::*;

/// What an append gave: the base offset, with "dup" for a duplicate, or the error.
fn outcome(log: &chronik_log::Log, epoch: i16, sequence: i32, count: usize) -> String {
    let values: Vec<&[u8]> = vec![b"v"; count];
    match append(log, idempotent(1, epoch, sequence, &values)) {
        Ok(appended) if appended.first_offset == UNKNOWN_OFFSET => {
            format!("old dup {}", appended.last_offset)
        }
        Ok(appended) if appended.is_duplicate => format!("dup {}", appended.first_offset),
        Ok(appended) => appended.first_offset.to_string(),
        Err(error) => error.error_code().to_string(),
    }
}

/// Runs appends of (epoch, sequence, count) in turn.
fn check(steps: &[(i16, i32, usize, &str)]) {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    for &(epoch, sequence, count, expected) in steps {
        assert_eq!(
            outcome(&log, epoch, sequence, count),
            expected,
            "{epoch} {sequence} {count} of {steps:?}"
        );
    }
}

#[test]
fn sequences_follow_each_other() {
    let out_of_order = "OUT_OF_ORDER_SEQUENCE_NUMBER";
    check(&[(0, 0, 1, "0"), (0, 1, 2, "1"), (0, 3, 1, "3")]);
    check(&[(0, 0, 1, "0"), (0, 2, 1, out_of_order), (0, 1, 1, "1")]);
    // A producer that nothing is known of may begin anywhere.
    check(&[(0, 17, 1, "0"), (0, 18, 1, "1")]);
    check(&[(5, 3, 1, "0")]);
    // A new epoch begins at 0.
    check(&[(0, 0, 1, "0"), (1, 1, 1, out_of_order), (1, 0, 1, "1"), (1, 1, 1, "2")]);
    check(&[(1, 0, 1, "0"), (0, 1, 1, "INVALID_PRODUCER_EPOCH"), (0, 0, 1, "INVALID_PRODUCER_EPOCH")]);
}

/// Replication point 11.
#[test]
fn the_last_five_batches_are_duplicates() {
    let out_of_order = "OUT_OF_ORDER_SEQUENCE_NUMBER";
    check(&[
        (0, 0, 1, "0"),
        (0, 1, 2, "1"),
        (0, 3, 1, "3"),
        (0, 4, 1, "4"),
        (0, 5, 1, "5"),
        (0, 6, 1, "6"),
        (0, 0, 1, "old dup 0"),
        (0, 1, 2, "dup 1"),
        (0, 1, 1, out_of_order),
        (0, 6, 1, "dup 6"),
        (0, 3, 1, "dup 3"),
        (0, 7, 1, "7"),
        (0, 1, 2, "old dup 2"),
        // Other batches than those that were sent, of the same records.
        (0, 0, 3, "old dup 2"),
        (0, 0, 4, out_of_order),
        (0, 8, 1, "8"),
    ]);
    // A new epoch forgets the old one's batches.
    check(&[(0, 0, 1, "0"), (1, 0, 1, "1"), (1, 0, 1, "dup 1"), (0, 0, 1, "INVALID_PRODUCER_EPOCH")]);
}

/// A new leader may have taken many batches before the retries of those reach it that the old one did not answer (ADR 12).
#[test]
fn older_duplicates_are_told_from_what_was_never_appended() {
    let out_of_order = "OUT_OF_ORDER_SEQUENCE_NUMBER";
    let then = |first: (i16, i32), last: &[(i16, i32, usize, &'static str)]| {
        let mut steps = vec![(first.0, first.1, 1, "0")];
        let offsets = ["1", "2", "3", "4", "5", "6", "7"];
        steps.extend(offsets.iter().zip(1..).map(|(offset, n)| (first.0, first.1 + n, 1, *offset)));
        steps.extend(last);
        check(&steps);
    };
    then((0, 0), &[(0, 0, 1, "old dup 2"), (0, 2, 1, "old dup 2"), (0, 0, 3, "old dup 2")]);
    // Where numbers do not begin at 0 those before may never have come here: to call them duplicates would lose them.
    then(
        (0, 10),
        &[(0, 9, 1, out_of_order), (0, 9, 2, out_of_order), (0, 10, 1, "old dup 2"), (0, 0, 1, out_of_order)],
    );
    // Of a newer epoch nothing is known from the older one.
    then((0, 0), &[(1, 0, 1, "8"), (1, 0, 1, "dup 8"), (1, 1, 5, "9"), (0, 0, 1, "INVALID_PRODUCER_EPOCH")]);
    // What is ahead is no duplicate.
    then((0, 0), &[(0, 9, 1, out_of_order), (0, 7, 2, out_of_order), (0, 8, 1, "8")]);
    // Before a wrap numbers are higher, and were not sent yet again.
    let max = i32::MAX;
    then(
        (0, max - 7),
        &[(0, 0, 1, "8"), (0, max - 6, 1, out_of_order), (0, 1, 1, "9"), (0, 3, 1, out_of_order)],
    );
    then(
        (0, max - 9),
        &[(0, max - 1, 6, "8"), (0, 4, 1, "14"), (0, 5, 1, "15"), (0, max - 9, 1, out_of_order)],
    );
}

/// Replication point 11.
#[test]
fn sequences_wrap() {
    check(&[(0, i32::MAX, 1, "0"), (0, 0, 1, "1"), (0, i32::MAX, 1, "dup 0"), (0, 1, 1, "2")]);
    check(&[
        (0, i32::MAX - 1, 4, "0"),
        (0, i32::MAX - 1, 4, "dup 0"),
        (0, 1, 1, "OUT_OF_ORDER_SEQUENCE_NUMBER"),
        (0, 2, 1, "4"),
    ]);
}

/// Replication point 11.
#[test]
fn a_duplicate_is_answered_with_the_first_ones_offset_and_timestamp() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"other"])).unwrap();
    let first = append(&log, idempotent(1, 0, 0, &[b"a", b"b"])).unwrap();
    let again = append(&log, idempotent(1, 0, 0, &[b"a", b"b"])).unwrap();
    assert!(again.is_duplicate && !first.is_duplicate);
    assert_eq!((again.first_offset, again.last_offset), (Offset(1), Offset(2)));
    assert_eq!((first.log_append_time.get(), again.log_append_time.get()), (-1, BASE_MS + 1));
    assert_eq!(log.log_end_offset(), Offset(3));
}

#[test]
fn batches_of_one_call_are_checked_against_each_other() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    let pending =
        |sequence| PendingBatch { batch: idempotent(1, 0, sequence, &[b"v"]), origin: AppendOrigin::Client };
    let mut broken = batch(BASE_MS, &[b"x"]);
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let batches = vec![
        pending(0),
        pending(1),
        PendingBatch { batch: broken, origin: AppendOrigin::Client },
        pending(1),
        pending(3),
        pending(2),
        PendingBatch { batch: batch(BASE_MS, &[b"p", b"q"]), origin: AppendOrigin::Client },
    ];
    let results = log.append_many(now_at(0), batches, LeaderEpoch(0));
    let codes: Vec<_> = results
        .iter()
        .map(|result| match result {
            Ok(appended) => (appended.first_offset.get(), appended.is_duplicate, ErrorCode::None),
            Err(error) => (-1, false, error.error_code()),
        })
        .collect();
    assert_eq!(
        codes,
        [
            (0, false, ErrorCode::None),
            (1, false, ErrorCode::None),
            (-1, false, ErrorCode::CorruptMessage),
            (1, true, ErrorCode::None),
            (-1, false, ErrorCode::OutOfOrderSequenceNumber),
            (2, false, ErrorCode::None),
            (3, false, ErrorCode::None),
        ]
    );
    assert_eq!(all_records(&log, 0, 1000).len(), 5);
}

#[test]
fn a_failed_write_takes_the_producers_back_with_it() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, idempotent(1, 0, 0, &[b"a"])).unwrap();
    node.disk.set_capacity_bytes(Some(node.disk.used_bytes() + 10));
    let pending =
        |sequence| PendingBatch { batch: idempotent(1, 0, sequence, &[b"v"]), origin: AppendOrigin::Client };
    let results = log.append_many(now_at(0), vec![pending(1), pending(2), pending(1)], LeaderEpoch(0));
    assert!(results.iter().all(Result::is_err));
    node.disk.set_capacity_bytes(None);
    let results = log.append_many(now_at(0), vec![pending(1), pending(2)], LeaderEpoch(0));
    assert!(results.iter().all(|result| result.as_ref().is_ok_and(|appended| !appended.is_duplicate)));
}

/// Replication point 11.
#[test]
fn a_cut_takes_the_producers_back() {
    let node = Node::new(LogConfig { segment_bytes: 400, ..LogConfig::default() });
    let log = node.log();
    for sequence in 0..10 {
        append(&log, idempotent(1, 0, sequence, &[b"v"])).unwrap();
    }
    log.truncate_to(now_at(0), Offset(7)).unwrap();
    assert_eq!(log.active_producers()[0].last_sequence, 6);
    assert!(append(&log, idempotent(1, 0, 6, &[b"v"])).unwrap().is_duplicate);
    append(&log, idempotent(1, 0, 8, &[b"v"])).unwrap_err();
    append(&log, idempotent(1, 0, 7, &[b"v"])).unwrap();
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!(node.log().active_producers()[0].last_sequence, 7);
    node.log().truncate_fully_and_start_at(now_at(0), Offset(20)).unwrap();
    assert!(node.log().active_producers().is_empty());
    let node = node.restart(Crash::Process, "boot-1");
    assert!(node.log().active_producers().is_empty());
    assert_eq!(node.log().log_end_offset(), Offset(20));
}

/// Replication point 11. A snapshot, such as an orderly end leaves, holds the last batch of each producer only.
#[test]
fn a_cut_back_to_a_snapshot_keeps_what_is_known_of_the_batches_before_it() {
    let node = Node::new(LogConfig::default());
    for sequence in 0..10 {
        append(&node.log(), idempotent(1, 0, sequence, &[b"v"])).unwrap();
    }
    append(&node.log(), idempotent(2, 0, 0, &[b"v"])).unwrap();
    node.manager.shutdown(now_at(20_000)).unwrap();
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    for sequence in 10..13 {
        append(&log, idempotent(1, 0, sequence, &[b"v"])).unwrap();
    }
    append(&log, idempotent(2, 1, 0, &[b"v"])).unwrap();
    log.truncate_to(now_at(30_000), Offset(12)).unwrap();
    drop(log);
    let check = |node: &Node| {
        let log = node.log();
        for sequence in 5..=10 {
            let again = append(&log, idempotent(1, 0, sequence, &[b"v"])).unwrap();
            assert!(again.is_duplicate, "{sequence}");
        }
        assert!(append(&log, idempotent(2, 0, 0, &[b"v"])).unwrap().is_duplicate);
        append(&log, idempotent(1, 0, 12, &[b"v"])).unwrap_err();
    };
    check(&node);
    let node = node.restart(Crash::Process, "boot-1");
    check(&node);
    append(&node.log(), idempotent(1, 0, 11, &[b"v"])).unwrap();
    let node = node.restart(Crash::Process, "boot-1");
    assert!(append(&node.log(), idempotent(1, 0, 9, &[b"v"])).unwrap().is_duplicate);
    assert!(append(&node.log(), idempotent(1, 0, 11, &[b"v"])).unwrap().is_duplicate);
}

/// ADR 14: what a producer sent to the leader before may come after what it sends to this one.
#[test]
fn after_an_election_batches_wait_for_those_before_them() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    let append_at = |at_ms: u64, (producer, epoch): (i64, i16), sequence: i32| {
        let batch = idempotent(producer, epoch, sequence, &[b"v"]);
        let appended = log.append(now_at(at_ms), batch, AppendOrigin::Client, LeaderEpoch(1));
        appended.map(|appended| appended.is_duplicate).map_err(|error| error.error_code())
    };
    let wait = Err(ErrorCode::LeaderNotAvailable);
    assert_eq!(append_at(0, (1, 0), 0), Ok(false));
    assert_eq!(append_at(0, (1, 0), 2), Err(ErrorCode::OutOfOrderSequenceNumber), "nobody else has led");
    log.note_election(now_at(1_000));
    assert_eq!(append_at(1_000, (1, 0), 2), wait);
    assert_eq!(append_at(1_000, (1, 0), 1), Ok(false));
    assert_eq!(append_at(1_000, (1, 0), 2), Ok(false));
    assert_eq!(append_at(1_000, (1, 0), 1), Ok(true));
    // Numbers wrap: what is remembered from before that is not ahead, and what comes after it is.
    assert_eq!(append_at(1_000, (3, 0), i32::MAX), wait);
    assert_eq!(append_at(1_000, (1, 1), 1), wait, "the first batch of an epoch");
    assert_eq!(append_at(1_000, (1, 1), 0), Ok(false));
    assert_eq!(append_at(1_000, (1, 1), 1), Ok(false));
    assert_eq!(append_at(60_999, (1, 1), 9), wait);
    assert_eq!(append_at(61_000, (1, 1), 9), Err(ErrorCode::OutOfOrderSequenceNumber));
    log.note_election(now_at(70_000));
    assert_eq!(append_at(129_999, (2, 0), 3), wait, "a producer of which nothing is known");
    assert_eq!(append_at(130_000, (2, 0), 3), Ok(false));
    assert_eq!(append_at(130_000, (1, 1), 1), Ok(true));
    assert_eq!(append_at(130_000, (1, 0), 9), Err(ErrorCode::InvalidProducerEpoch));
    // Where records have been deleted, the producer's may be among them.
    log.set_high_watermark(log.log_end_offset());
    log.delete_records(Offset(1)).unwrap();
    log.note_election(now_at(140_000));
    assert_eq!(append_at(149_999, (4, 0), 3), wait);
    assert_eq!(append_at(150_000, (4, 0), 3), Ok(false));
}

/// ADR 14.
#[test]
fn after_an_election_numbers_that_wrap_are_told_apart() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    let append = |sequence: i32| {
        let appended = append(&log, idempotent(1, 0, sequence, &[b"v"]));
        appended.map(|appended| appended.is_duplicate).map_err(|error| error.error_code())
    };
    let max = i32::MAX;
    assert_eq!(append(max - 1), Ok(false));
    log.note_election(now_at(0));
    assert_eq!(append(0), Err(ErrorCode::LeaderNotAvailable), "the last one before it is missing");
    assert_eq!(append(2), Err(ErrorCode::LeaderNotAvailable));
    assert_eq!(append(max), Ok(false));
    assert_eq!(append(0), Ok(false));
    assert_eq!(append(max), Ok(true));
    assert_eq!(
        append(max - 2),
        Err(ErrorCode::OutOfOrderSequenceNumber),
        "it lies before, and is not remembered"
    );
}

/// Replication point 11.
#[test]
fn silent_producers_are_forgotten() {
    let node = Node::new(LogConfig { retention_ms: None, ..LogConfig::default() });
    let log = node.log();
    append(&log, idempotent(1, 0, 0, &[b"v"])).unwrap();
    node.manager.maintain(now_at(23 * 3_600_000));
    assert_eq!(log.active_producers().len(), 1);
    node.manager.maintain(now_at(25 * 3_600_000));
    assert!(log.active_producers().is_empty());
    // It may go on where it was, or anywhere else.
    append(&log, idempotent(1, 0, 5, &[b"v"])).unwrap();
}

#[test]
fn an_open_transaction_is_known_and_ends_with_its_marker() {
    use chronik_protocol::records::{BatchBuilder, ControlType, EndTxnMarker};
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"before"])).unwrap();
    let options = BatchOptions {
        producer_id: ProducerId(9),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        is_transactional: true,
        ..BatchOptions::default()
    };
    append(&log, batch_with(options, BASE_MS, &[b"in it"])).unwrap();
    assert_eq!(log.first_unstable_offset(), Some(Offset(1)));
    let plain = BatchOptions { base_sequence: 1, is_transactional: false, ..options };
    let error = append(&log, batch_with(plain, BASE_MS, &[b"outside"])).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::InvalidTxnState);
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    assert_eq!(log.first_unstable_offset(), Some(Offset(1)));
    let marker = BatchOptions { base_sequence: -1, is_control: true, ..options };
    let mut builder = BatchBuilder::new(marker);
    let end = EndTxnMarker { control_type: ControlType::Commit, coordinator_epoch: 4 };
    builder.append_marker(chronik_types::TimestampMs(BASE_MS), end).unwrap();
    let marker = builder.finish().unwrap();
    log.append(now_at(0), marker.clone(), AppendOrigin::Coordinator, LeaderEpoch(0)).unwrap();
    assert_eq!(log.first_unstable_offset(), None);
    assert_eq!(log.active_producers()[0].coordinator_epoch, 4);
    // A client cannot write one.
    assert_eq!(append(&log, marker).unwrap_err().error_code(), ErrorCode::InvalidRecord);
}
