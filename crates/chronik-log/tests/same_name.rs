//! A topic that is made anew under the name of a deleted one has nothing of that one, whatever the power takes.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use chronik_disk::{Crash, Disk, OpenMode};
use chronik_log::{LogConfig, LogError};
use chronik_types::{Offset, TopicId, TopicPartition};
use common::*;

const NEXT_TOPIC: TopicId = TopicId(0x9abc);
/// Each takes another part of what is not synced.
const SEEDS: u64 = 200;
const NEXT_END: i64 = 5;

fn append_up_to(log: &chronik_log::Log, end: i64) {
    while log.log_end_offset().get() < end {
        append(log, batch(BASE_MS, &[b"value"])).unwrap();
    }
}

/// A log whose records were deleted in part, or that was cut or emptied, was deleted; another one of its name has synced records.
fn made_anew(change: impl Fn(&chronik_log::Log)) -> Node {
    let node = Node::new(small_segments());
    let log = node.log();
    append_up_to(&log, 40);
    log.set_high_watermark(Offset(40));
    change(&log);
    assert!(node.manager.delete(now_at(10), &partition()).unwrap());
    let next = node.manager.get_or_create(&partition(), NEXT_TOPIC, node.config.clone()).unwrap();
    append_up_to(&next, NEXT_END);
    next.set_high_watermark(Offset(NEXT_END));
    next.sync().unwrap();
    node
}

fn check(change: impl Fn(&chronik_log::Log) + Copy, what: &str) {
    for seed in 0..SEEDS {
        let node = made_anew(change).restart(Crash::PowerLoss { seed }, "boot-2");
        let log = match node.manager.get_or_create(&partition(), NEXT_TOPIC, node.config.clone()) {
            Ok(log) => log,
            Err(LogError::InconsistentTopicId { .. }) => {
                panic!("{what}, seed {seed}: it is the deleted one's")
            }
            Err(error) => panic!("{what}, seed {seed}: {error}"),
        };
        let range = (log.log_start_offset(), log.log_end_offset(), log.hole());
        assert_eq!(range, (Offset(0), Offset(NEXT_END), None), "{what}, seed {seed}");
        let found = all_records(&log, 0, 500).into_iter().map(|(offset, _)| offset);
        assert!(found.eq(0..NEXT_END), "{what}, seed {seed}");
        assert!(node.disk.exists(&partition_dir()).unwrap());
    }
}

#[test]
fn the_deleted_ones_start_is_not_its_start() {
    check(|log| assert_eq!(log.delete_records(Offset(30)).unwrap(), Offset(30)), "records were deleted");
}

#[test]
fn what_was_cut_off_the_deleted_one_is_not_cut_off_it() {
    check(|log| assert!(log.truncate_to(now_at(5), Offset(2)).unwrap()), "it was cut");
}

#[test]
fn it_does_not_begin_where_the_deleted_one_was_emptied_to() {
    check(|log| log.truncate_fully_and_start_at(now_at(5), Offset(70)).unwrap(), "it was emptied");
}

/// An attempt to write the id that did not come to its end leaves a file behind.
#[test]
fn a_log_that_has_lost_its_id_takes_it_from_the_checkpoint() {
    let node = Node::new(small_segments());
    let log = node.log();
    append_up_to(&log, NEXT_END);
    log.sync().unwrap();
    node.manager.maintain(now_at(10_000));
    node.disk.remove_file(&file("partition.metadata")).unwrap();
    node.disk.open(&file("partition.metadata.tmp"), OpenMode::Create).unwrap();
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    assert_eq!((log.topic_id(), log.log_end_offset()), (TOPIC_ID, Offset(NEXT_END)));
    append_up_to(&log, NEXT_END + 1);
}

/// A replica that begins where its leader does has nothing but the journal's word for that until it has a checkpoint.
#[test]
fn a_log_that_was_emptied_before_its_first_batch_begins_there() {
    for seed in 0..SEEDS {
        let node = Node::new(small_segments());
        node.log().truncate_fully_and_start_at(now_at(5), Offset(50)).unwrap();
        let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
        let log = node.log();
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(50), Offset(50)), "seed {seed}");
    }
}

/// A process that ends takes nothing, and the next one believes the id of a log by a checkpoint: it must be on the disk.
#[test]
fn the_id_of_a_log_that_a_checkpoint_knows_outlasts_the_power() {
    for seed in 0..SEEDS * 2 {
        let node = Node::new(LogConfig::default());
        let other = TopicPartition::new("other", 0);
        node.manager.get_or_create(&other, TopicId(3), node.config.clone()).unwrap();
        node.manager.maintain(now_at(10_000));
        drop(node.log());
        node.manager.maintain(now_at(20_000));
        let node = node.restart(Crash::Process, "boot-1");
        append_up_to(&node.log(), 5);
        // The topic is deleted and made anew while this machine is away.
        let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
        match node.manager.get_or_create(&partition(), NEXT_TOPIC, node.config.clone()) {
            Ok(log) => assert_eq!(log.log_end_offset(), Offset(0), "seed {seed}"),
            Err(error) => {
                assert!(matches!(error, LogError::InconsistentTopicId { .. }), "seed {seed}: {error}");
            }
        }
    }
}
