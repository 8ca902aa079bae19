//! What a full disk refuses, and what it does not take the word of: while a log that waits for room keeps checkpoints from
//! being written, and when a log is cut.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::sync::Arc;

use bytes::BytesMut;
use chronik_disk::{Crash, Disk, Fault, FaultRule, Operation, SimDisk};
use chronik_log::{AppendError, AppendOrigin, Appended, Log, LogConfig, LogError, LogManager};
use chronik_types::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition};
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

const EPOCHS: &str = "leader-epoch-checkpoint";

fn append_in(log: &Log, epoch: i32, records: BytesMut) -> Result<Appended, AppendError> {
    log.append(now_at(0), records, AppendOrigin::Client, LeaderEpoch(epoch))
}

/// A log of two batches of a producer, each under a leader epoch of its own.
fn two_epochs() -> (Node, Arc<Log>) {
    let node = Node::new(small_segments());
    let log = node.log();
    append_in(&log, 1, idempotent(5, 0, 0, &[b"a"])).unwrap();
    append_in(&log, 2, idempotent(5, 0, 1, &[b"b"])).unwrap();
    (node, log)
}

/// A cut needs no room. What its producer sends again afterwards is in the log once more, also after a restart, and the
/// epoch that was cut off is forgotten.
#[test]
fn a_cut_on_a_full_disk_leaves_nothing_of_what_it_took() {
    for (has_checkpoint, epoch) in [(true, 1), (false, 1), (true, 3), (false, 3)] {
        let what = format!("checkpoint {has_checkpoint}, epoch {epoch}");
        let (node, log) = two_epochs();
        if has_checkpoint {
            node.manager.maintain(now_at(10_000));
        }
        node.disk.inject(FaultRule::always(Operation::Write, EPOCHS, Fault::NoSpace));
        assert!(log.truncate_to(now_at(1), Offset(1)).unwrap(), "{what}");
        let told =
            (log.log_end_offset(), log.latest_epoch(), log.knows_producer(ProducerId(5), ProducerEpoch(0)));
        assert_eq!(told, (Offset(1), Some(LeaderEpoch(1)), true), "{what}");
        assert!(!log.truncate_to(now_at(1), Offset(1)).unwrap(), "{what}");
        let again = || append_in(&log, epoch, idempotent(5, 0, 1, &[b"b"]));
        assert!(again().is_err(), "{what}: an epoch is in its file before a record of it is in the log");
        node.disk.clear_faults();
        let appended = again().unwrap();
        assert_eq!((appended.first_offset, appended.is_duplicate), (Offset(1), false), "{what}");
        drop(log);
        let node = node.restart(Crash::Process, "boot-1");
        let log = node.log();
        assert_eq!(all_records(&log, 0, 1_000).len(), 2, "{what}");
        assert_eq!(log.latest_epoch(), Some(LeaderEpoch(epoch)), "{what}");
        assert!(!node.manager.has_lost_records(), "{what}");
    }
}

/// The process may end before the list of epochs is written, and the list has one then that was cut off.
#[test]
fn a_list_of_epochs_from_before_a_cut_is_not_believed_beyond_it() {
    let (node, log) = two_epochs();
    node.disk.inject(FaultRule::always(Operation::Write, EPOCHS, Fault::NoSpace));
    assert!(log.truncate_to(now_at(1), Offset(1)).unwrap());
    drop(log);
    node.disk.clear_faults();
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    assert_eq!((log.log_end_offset(), log.latest_epoch()), (Offset(1), Some(LeaderEpoch(1))));
}

#[test]
fn a_log_that_is_emptied_on_a_full_disk_has_no_epochs() {
    let (node, log) = two_epochs();
    node.disk.inject(FaultRule::once(Operation::Write, EPOCHS, Fault::NoSpace));
    log.truncate_fully_and_start_at(now_at(1), Offset(100)).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(100), Offset(100)));
    assert_eq!((log.latest_epoch(), log.knows_producer(ProducerId(5), ProducerEpoch(0))), (None, false));
    append_in(&log, 1, idempotent(5, 0, 7, &[b"c"])).unwrap();
    assert_eq!(node.disk.read_file(&file(EPOCHS)).unwrap(), b"0\n1\n1 100\n");
}

/// A cut that a read error keeps from its end has not begun, or has taken its directory offline: there is no log whose
/// producers are known by batches that it does not have.
#[test]
fn a_cut_that_a_read_error_stops_changes_nothing() {
    let mut stopped_count = 0;
    for skip_count in 0..20 {
        let (node, log) = two_epochs();
        node.disk.inject(FaultRule::once(Operation::Read, ".log", Fault::Io).after(skip_count));
        let cut = log.truncate_to(now_at(1), Offset(1));
        node.disk.clear_faults();
        if cut.is_err() {
            stopped_count += 1;
            if log.check_usable().is_err() {
                continue;
            }
            assert_eq!(all_records(&log, 0, 1_000).len(), 2, "{skip_count}");
            assert!(log.truncate_to(now_at(1), Offset(1)).unwrap(), "{skip_count}");
        }
        let appended = append_in(&log, 3, idempotent(5, 0, 1, &[b"b"])).unwrap();
        assert!(!appended.is_duplicate, "{skip_count}");
    }
    assert!(stopped_count > 2);
}

/// Whoever cuts a log at a hole tries again until there is room, and the hole is closed then.
#[test]
fn a_hole_is_closed_by_a_cut_that_is_tried_again() {
    for (full_file, close_second) in [(EPOCHS, true), (EPOCHS, false), ("hole", true)] {
        let node = Node::new(small_segments());
        let log = node.log();
        for at in 0..60 {
            append_in(&log, at / 20, idempotent(5, 0, at, &[format!("value {at}").as_bytes()])).unwrap();
        }
        log.set_high_watermark(Offset(60));
        log.sync().unwrap();
        node.manager.maintain(now_at(10_000));
        let bases = bases(&node.disk);
        drop(log);
        let disk = node.disk.clone();
        drop(node);
        disk.crash(Crash::Process);
        for lost in [bases[1], bases[3]] {
            disk.remove_file(&segment(lost, "log")).unwrap();
        }
        let node = Node::on(disk, small_segments(), "boot-1");
        let log = node.log();
        let hole = Offset(if close_second { bases[3] } else { bases[1] });
        let left = close_second.then_some(Offset(bases[1]));
        assert_eq!(log.hole(), Some(Offset(bases[1])));
        node.disk.inject(FaultRule::once(Operation::Write, full_file, Fault::NoSpace));
        let first = log.truncate_to(now_at(1), hole);
        assert_eq!(first.is_err(), full_file == "hole", "{first:?}");
        log.truncate_to(now_at(2), hole).unwrap();
        assert_eq!((log.hole(), log.log_end_offset()), (left, hole), "{full_file}, {close_second}");
    }
}

/// What was deleted in a directory that is offline by now does not keep others from anything.
#[test]
fn a_deletion_that_an_offline_directory_did_not_take_keeps_no_name_from_use() {
    let disk = SimDisk::new();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = Arc::new(config());
    let source_config = Arc::clone(&config);
    let source = Arc::new(move |_: &str| Arc::clone(&source_config));
    let dirs = vec!["/data".into(), "/more".into()];
    let starting = LogManager::open(as_disk, dirs, options("boot-1"), source, now_at(0)).unwrap();
    let manager = starting.finish(now_at(0));
    let open = |partition: &TopicPartition, id| manager.get_or_create(partition, id, Arc::clone(&config));
    let first = open(&other(), OTHER).unwrap();
    let next = TopicPartition::new("next", 0);
    let second = open(&next, TopicId(8)).unwrap();
    assert_ne!(first.log_dir(), second.log_dir());
    append(&second, batch(BASE_MS, &[b"a"])).unwrap();
    full(&disk);
    assert!(manager.delete(now_at(1), &other()).unwrap());
    // Its directory fails.
    let failing = TopicPartition::new("failing", 0);
    disk.set_capacity_bytes(None);
    let of_first = first.log_dir().to_owned();
    let held_back = FaultRule::always(Operation::Write, "chronik-journal", Fault::NoSpace);
    disk.inject(held_back);
    let failing = open(&failing, TopicId(7)).unwrap();
    assert_eq!(failing.log_dir(), of_first);
    disk.clear_faults();
    disk.inject(FaultRule::once(Operation::Write, "failing-0", Fault::Io));
    assert!(append(&failing, batch(BASE_MS, &[b"a"])).is_err());
    assert_eq!(manager.offline_dirs().len(), 1);
    let journal = of_first.join("chronik-journal").to_str().unwrap().to_owned();
    disk.inject(FaultRule::always(Operation::Write, journal, Fault::Io));
    let remade = open(&other(), TopicId(10)).unwrap();
    assert_ne!(remade.log_dir(), of_first);
}

#[test]
fn a_full_disk_refuses_and_heals() {
    let node = Node::new(small_segments());
    let log = node.log();
    append(&log, idempotent(1, 0, 0, &[b"a"])).unwrap();
    node.disk.set_capacity_bytes(Some(node.disk.used_bytes() + 30));
    for _ in 0..3 {
        let error = append(&log, idempotent(1, 0, 1, &[b"b"])).unwrap_err();
        assert!(matches!(error, AppendError::Log(LogError::DiskFull { .. })), "{error}");
        assert_eq!(error.error_code(), ErrorCode::KafkaStorageError);
    }
    assert_eq!(log.log_end_offset(), Offset(1));
    assert_eq!(all_records(&log, 0, 1000).len(), 1);
    // Nothing of the failed batch is left behind, and the checkpoint may fail too.
    assert_eq!(node.disk.read_file(&segment(0, "log")).unwrap().len() as u64, log.size_bytes());
    node.manager.maintain(now_at(10_000));
    node.disk.set_capacity_bytes(None);
    assert_eq!(append(&log, idempotent(1, 0, 1, &[b"b"])).unwrap().first_offset, Offset(1));
    node.manager.maintain(now_at(20_000));
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!(node.log().log_end_offset(), Offset(2));
}

#[test]
fn a_full_disk_is_survived_wherever_it_strikes() {
    for room in (0..3000).step_by(37) {
        let node = Node::new(small_segments());
        let log = node.log();
        node.disk.set_capacity_bytes(Some(node.disk.used_bytes() + room));
        let mut acknowledged = 0;
        for at in 0..20 {
            match append(&log, batch(BASE_MS, &[format!("value {at}").as_bytes()])) {
                Ok(_) => acknowledged += 1,
                Err(error) => {
                    assert!(matches!(error, AppendError::Log(LogError::DiskFull { .. })), "{room}: {error}");
                    node.manager.maintain(now_at(10_000));
                    break;
                }
            }
        }
        assert_eq!(all_records(&log, 0, 1000).len(), acknowledged);
        // Deleting works without room.
        log.set_high_watermark(log.log_end_offset());
        assert_eq!(log.delete_records(log.log_end_offset()).unwrap(), log.log_end_offset());
        node.manager.maintain(now_at(11_000));
        node.manager.maintain(now_at(100_000));
        node.disk.set_capacity_bytes(None);
        let appended = append(&log, batch(BASE_MS, &[b"after"])).unwrap();
        assert_eq!(usize::try_from(appended.first_offset.get()).unwrap(), acknowledged);
        node.manager.maintain(now_at(200_000));
        drop(log);
        let node = node.restart(Crash::Process, "boot-1");
        assert_eq!(node.log().log_end_offset().get(), appended.first_offset.get() + 1, "{room}");
    }
}

/// A replica of a compacted log begins a segment behind a gap, finds no room for its first batch, and what comes instead, from
/// another leader or from its own clients, lies before it.
#[test]
fn a_segment_that_was_begun_behind_a_gap_makes_way() {
    for record_count in [1, 2, 3, 8] {
        begun_behind_a_gap(&vec![&b"own"[..]; record_count]);
    }
}

/// `first` is the first batch that comes instead: it may reach to where the segment begins, and beyond.
fn begun_behind_a_gap(first: &[&[u8]]) {
    let node = Node::new(LogConfig { segment_bytes: 300, ..LogConfig::default() });
    let log = node.log();
    let value = vec![b'v'; 100];
    let copy = |offset, value: &[u8]| {
        let batch = copied(batch(BASE_MS, &[value]), offset, 0);
        log.append_as_follower(now_at(0), batch, LeaderEpoch(0))
    };
    while log.segment_count() < 2 {
        copy(log.log_end_offset().get(), &value).unwrap();
    }
    // The last segment is full.
    copy(log.log_end_offset().get(), &value[..60]).unwrap();
    let (end, count) = (log.log_end_offset(), log.segment_count());
    let behind = end.get() + 2;
    node.disk.inject(FaultRule::once(Operation::Write, format!("{behind:020}.log"), Fault::NoSpace));
    copy(behind, &value).unwrap_err();
    assert_eq!((log.log_end_offset(), log.segment_count()), (end, count + 1));
    // It leads.
    log.begin_epoch(LeaderEpoch(1)).unwrap();
    append_in(&log, 1, batch(BASE_MS, first)).unwrap();
    for at in 0..6 {
        append_in(&log, 1, batch(BASE_MS, &[format!("own {at}").as_bytes()])).unwrap();
    }
    log.sync().unwrap();
    let end = log.log_end_offset();
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!((node.log().log_end_offset(), node.log().hole()), (end, None));
    assert!(!node.manager.has_lost_records());
    assert!(!bases(&node.disk).contains(&behind), "{:?}", bases(&node.disk));
}
