//! What a disk does not take the word of, while a log that waits for room keeps checkpoints from being written.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::sync::Arc;

use chronik_disk::{Crash, Disk, SimDisk};
use chronik_log::{LogConfig, LogError};
use chronik_types::{Offset, TopicId, TopicPartition};
use common::*;

const OTHER: TopicId = TopicId(9);
/// Room for a few records, and too little for the log that waits.
const LITTLE_BYTES: u64 = 100_000;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 1_000,
        index_interval_bytes: 150,
        retention_ms: Some(1_000),
        ..LogConfig::default()
    }
}

fn other() -> TopicPartition {
    TopicPartition::new("other", 0)
}

/// A log that a full disk keeps from being recovered, beside another one of 40 records.
fn with_one_that_waits() -> Node {
    let node = Node::new(LogConfig { retention_ms: None, ..config() });
    let waiting = node.log();
    append(&waiting, batch(BASE_MS, &[b"waits"])).unwrap();
    let log = node.manager.get_or_create(&other(), OTHER, Arc::clone(&node.config)).unwrap();
    for at in 0..40 {
        append(&log, batch(BASE_MS, &[format!("value {at}").as_bytes()])).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
    node.manager.maintain(now_at(10_000));
    node.disk.crash(Crash::Process);
    let disk = node.disk.clone();
    drop((waiting, log, node));
    disk.remove_file(&partition_dir().join("partition.metadata")).unwrap();
    full(&disk);
    let node = Node::on(disk, config(), "boot-1");
    assert!(node.manager.waits_for_room());
    node
}

fn full(disk: &SimDisk) {
    disk.set_capacity_bytes(Some(disk.used_bytes()));
}

fn little_room(disk: &SimDisk) {
    disk.set_capacity_bytes(Some(disk.used_bytes() + LITTLE_BYTES));
}

/// The deletion of a log is known before there is another one of its name.
#[test]
fn a_deletion_that_a_full_disk_did_not_take_is_noted_before_the_name_is_used_again() {
    for is_remade in [true, false] {
        let node = with_one_that_waits();
        assert!(node.manager.delete(now_at(20_000), &other()).unwrap());
        let remade = TopicId(10);
        let open = || node.manager.get_or_create(&other(), remade, Arc::clone(&node.config));
        if is_remade {
            assert!(
                matches!(open(), Err(LogError::DiskFull { .. })),
                "nothing says yet that the other one is gone"
            );
        }
        little_room(&node.disk);
        if is_remade {
            append(&open().unwrap(), batch(BASE_MS, &[b"new"])).unwrap();
        } else {
            node.manager.maintain(now_at(30_000));
        }
        assert!(node.manager.waits_for_room(), "so that there is no checkpoint");
        let node = node.restart(Crash::Process, "boot-1");
        let log = node.manager.get(&other());
        assert_eq!(log.as_ref().map(|log| log.topic_id()), is_remade.then_some(remade));
        if let Some(log) = log {
            assert_eq!(log.log_end_offset(), Offset(1));
        }
        node.disk.set_capacity_bytes(None);
        node.manager.maintain(now_at(60_000));
        assert!(!node.manager.waits_for_room() && !node.manager.has_lost_records(), "{is_remade}");
    }
}

/// A full disk keeps nobody from deleting records, and the journal has it once there is room.
#[test]
fn records_that_were_deleted_on_a_full_disk_do_not_come_back() {
    let node = with_one_that_waits();
    let log = node.manager.get(&other()).unwrap();
    log.set_high_watermark(log.log_end_offset());
    assert_eq!(log.delete_records(Offset(30)).unwrap(), Offset(30));
    little_room(&node.disk);
    node.manager.maintain(now_at(20_000));
    assert!(node.manager.waits_for_room(), "so that there is no checkpoint");
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert!(Offset(30) <= node.manager.get(&other()).unwrap().log_start_offset());
}

/// Retention makes room on a full disk. What it has deleted is not missed after a crash.
#[test]
fn what_retention_deletes_on_a_full_disk_is_not_taken_for_lost() {
    let node = with_one_that_waits();
    let log = node.manager.get(&other()).unwrap();
    log.set_high_watermark(log.log_end_offset());
    // Retention looks every five minutes, and files go a minute later.
    let mut now_ms = 400_000;
    node.manager.maintain(now_at(now_ms));
    assert!(Offset(0) < log.log_start_offset(), "old segments are deleted");
    let used_bytes = node.disk.used_bytes();
    for _ in 0..3 {
        now_ms += 61_000;
        node.manager.maintain(now_at(now_ms));
    }
    assert!(node.disk.used_bytes() < used_bytes, "and their files are gone");
    assert!(node.manager.waits_for_room(), "so that there is no checkpoint");
    let start = log.log_start_offset();
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert!(!node.manager.has_lost_records());
    let log = node.manager.get(&other()).unwrap();
    assert_eq!((log.log_start_offset(), log.hole()), (start, None));
}
