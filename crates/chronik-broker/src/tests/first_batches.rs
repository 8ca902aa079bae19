//! A producer's first batch is taken before its others (ADR 14).

use bytes::Bytes;
use chronik_protocol::messages::ProduceResponse;
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_raft::metadata::UpdateIsr;
use chronik_types::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerEpoch, TimestampMs};

use super::leadership::{
    TOPIC, apply, batch, fetched, lead, numbered, produce, produce_batch, produce_with, three_brokers,
};
use super::{Fixture, Pending, code, response};
use crate::partition::{Applied, LeaderAnswer};

const INDEX: PartitionIndex = PartitionIndex(0);

/// What a producer hears of a batch with `acks=all` when the followers have come.
fn sent(fixture: &Fixture, records: Bytes) -> ErrorCode {
    let pending = produce_batch(fixture, 9, records);
    for node in [2, 3] {
        fetched(fixture, node, fixture.partition("shared", 0).log().log_end_offset().get(), 0);
    }
    let answer: ProduceResponse = response(&pending, 9);
    code(answer.responses[0].partition_responses[0].error_code)
}

/// Replication point 11, ADR 14, KAFKA-15591: of two batches under way the first is refused, and the second comes when there is
/// nothing to refuse it for any more.
#[test]
fn a_producers_first_batch_is_taken_before_its_second() {
    let fixture = three_brokers();
    let sent = |sequence: i32| sent(&fixture, batch(numbered(sequence)));
    let in_sync = |nodes: &[i32]| {
        let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        apply(&fixture, vec![UpdateIsr::new(TOPIC, INDEX, &nodes, None).into()]);
    };
    in_sync(&[1]);
    assert_eq!(sent(0), ErrorCode::NotEnoughReplicas);
    in_sync(&[1, 2, 3]);
    assert_eq!(sent(1), ErrorCode::LeaderNotAvailable);
    assert_eq!(sent(0), ErrorCode::None);
    assert_eq!(sent(1), ErrorCode::None);
    in_sync(&[1]);
    assert_eq!(sent(2), ErrorCode::NotEnoughReplicas);
    in_sync(&[1, 2, 3]);
    assert_eq!(sent(3), ErrorCode::OutOfOrderSequenceNumber, "the log knows what is missing");
}

/// ADR 14: it is not waited for where another leader has taken it.
#[test]
fn a_first_batch_that_went_to_another_leader_is_not_waited_for() {
    let fixture = three_brokers();
    let told = |pending: &Pending| {
        let answer: ProduceResponse = response(pending, 9);
        code(answer.responses[0].partition_responses[0].error_code)
    };
    lead(&fixture, 2);
    assert_eq!(told(&produce_with(&fixture, 9, numbered(0))), ErrorCode::NotLeaderOrFollower);
    let partition = fixture.partition("shared", 0);
    let records = batch(BatchOptions { partition_leader_epoch: LeaderEpoch(1), ..numbered(0) });
    let position = partition.fetch_position();
    let answer = LeaderAnswer {
        leader_epoch: position.current_leader_epoch,
        fetched_from: position.fetch_offset,
        error: ErrorCode::None,
        high_watermark: Offset::ZERO,
        log_start_offset: Offset::ZERO,
        diverging: None,
        records,
    };
    let applied = partition.apply_answer(fixture.broker.clock.now(), answer);
    assert!(matches!(applied, Applied::At(_)), "{applied:?}");
    lead(&fixture, 1);
    let pending = produce_with(&fixture, 9, numbered(1));
    for node in [2, 3] {
        fetched(&fixture, node, 2, 0);
    }
    assert_eq!(told(&pending), ErrorCode::None);
}

/// The log refuses it for what passes, and not this broker before it.
#[test]
fn a_first_batch_that_a_full_disk_has_refused_is_waited_for() {
    let fixture = three_brokers();
    let of_size = |sequence: i32, len_bytes: usize| {
        let mut builder = BatchBuilder::new(numbered(sequence));
        builder.append(TimestampMs(1_000_000), None, Some(&vec![7_u8; len_bytes]), &[]).unwrap();
        builder.finish().unwrap().freeze()
    };
    // Somebody else's record, so that there is a segment.
    drop(produce(&fixture, 9));
    fixture.disk.set_capacity_bytes(Some(fixture.disk.used_bytes() + 20_000));
    assert_eq!(sent(&fixture, of_size(0, 100_000)), ErrorCode::KafkaStorageError);
    assert_eq!(sent(&fixture, of_size(1, 100)), ErrorCode::LeaderNotAvailable);
    fixture.disk.set_capacity_bytes(None);
    assert_eq!(sent(&fixture, of_size(0, 100_000)), ErrorCode::None);
    assert_eq!(sent(&fixture, of_size(1, 100)), ErrorCode::None);
}

#[test]
fn a_first_batch_that_was_damaged_on_its_way_is_waited_for() {
    let fixture = three_brokers();
    let mut damaged = batch(numbered(0)).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(sent(&fixture, damaged.into()), ErrorCode::CorruptMessage);
    assert_eq!(sent(&fixture, batch(numbered(1))), ErrorCode::LeaderNotAvailable);
    assert_eq!(sent(&fixture, batch(numbered(0))), ErrorCode::None);
    assert_eq!(sent(&fixture, batch(numbered(1))), ErrorCode::None);
}

#[test]
fn the_first_batch_of_a_new_epoch_is_waited_for_too() {
    let fixture = three_brokers();
    let of_epoch = |epoch: i16, sequence: i32| {
        batch(BatchOptions { producer_epoch: ProducerEpoch(epoch), ..numbered(sequence) })
    };
    assert_eq!(sent(&fixture, of_epoch(0, 0)), ErrorCode::None);
    let in_sync = |nodes: &[i32]| {
        let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        apply(&fixture, vec![UpdateIsr::new(TOPIC, INDEX, &nodes, None).into()]);
    };
    in_sync(&[1]);
    assert_eq!(sent(&fixture, of_epoch(1, 0)), ErrorCode::NotEnoughReplicas);
    in_sync(&[1, 2, 3]);
    assert_eq!(sent(&fixture, of_epoch(1, 1)), ErrorCode::LeaderNotAvailable);
    assert_eq!(sent(&fixture, of_epoch(1, 0)), ErrorCode::None);
    assert_eq!(sent(&fixture, of_epoch(1, 1)), ErrorCode::None);
}
