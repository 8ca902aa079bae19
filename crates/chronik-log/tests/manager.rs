//! The log manager: retention, deletion, flushing, topic ids, epochs.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chronik_disk::{
    Crash, Disk, DiskFile, DiskLayer, Fault, FaultRule, FileLayer, OpenMode, Operation, SimDisk,
};
use chronik_log::{CleanupPolicy, Log, LogConfig, LogError, ReadData};
use chronik_types::{LeaderEpoch, Offset, TopicId, TopicPartition};
use common::*;
use parking_lot::Mutex;

const HOUR_MS: u64 = 3_600_000;

fn names(node: &Node) -> Vec<String> {
    node.disk.read_dir(&dir()).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn filled(config: &LogConfig, timestamp: i64) -> (Node, Arc<Log>) {
    let node = Node::new(LogConfig { segment_bytes: 300, ..config.clone() });
    let log = node.log();
    for _ in 0..20 {
        append(&log, batch(timestamp, &[b"some value"])).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
    (node, log)
}

#[test]
fn retention_by_time_empties_the_log_and_keeps_its_offsets() {
    let (node, log) = filled(&LogConfig { retention_ms: Some(HOUR_MS), ..LogConfig::default() }, BASE_MS);
    node.manager.maintain(now_at(HOUR_MS - 1000));
    assert_eq!(log.log_start_offset(), Offset(0));
    node.manager.maintain(now_at(2 * HOUR_MS));
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(20), Offset(20)));
    assert_eq!(log.size_bytes(), 0);
    assert_eq!(append(&log, batch(BASE_MS, &[b"next"])).unwrap().first_offset, Offset(20));
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!(node.log().log_start_offset(), Offset(20));
    assert_eq!(node.log().log_end_offset(), Offset(21));
}

/// Until a node has heard from its cluster, a topic may keep more than the node knows.
#[test]
fn nothing_goes_while_deletions_are_held() {
    let (node, log) = filled(&LogConfig { retention_ms: Some(HOUR_MS), ..LogConfig::default() }, BASE_MS);
    node.manager.hold_deletions();
    for hour in 1..5 {
        let next = node.manager.maintain(now_at(hour * HOUR_MS));
        assert!(now_at(hour * HOUR_MS).monotonic < next, "nor does it look again at once");
    }
    assert_eq!(log.log_start_offset(), Offset(0));
    node.manager.allow_deletions();
    node.manager.maintain(now_at(5 * HOUR_MS));
    assert_eq!(log.log_start_offset(), Offset(20));
}

#[test]
fn a_timestamp_from_the_future_does_not_keep_a_segment_for_ever() {
    let config = LogConfig {
        retention_ms: Some(HOUR_MS),
        message_timestamp_after_max_ms: None,
        ..LogConfig::default()
    };
    let (node, log) = filled(&config, BASE_MS + 1_000_000_000_000);
    node.manager.maintain(now_at(2 * HOUR_MS));
    assert_eq!(log.log_start_offset(), Offset(20));
}

#[test]
fn retention_stops_at_the_high_watermark() {
    let (node, log) = filled(&LogConfig { retention_ms: Some(HOUR_MS), ..LogConfig::default() }, BASE_MS);
    log.set_high_watermark(Offset(7));
    node.manager.maintain(now_at(2 * HOUR_MS));
    assert!(log.log_start_offset() <= Offset(7));
    assert_eq!(log.log_end_offset(), Offset(20));
}

#[test]
fn retention_by_size_keeps_at_least_that_much() {
    let (node, log) = filled(
        &LogConfig { retention_bytes: Some(700), retention_ms: None, ..LogConfig::default() },
        BASE_MS,
    );
    node.manager.maintain(now_at(HOUR_MS));
    assert!((700..1000).contains(&log.size_bytes()), "{}", log.size_bytes());
    assert_eq!(all_records(&log, log.log_start_offset().get(), 500).last().unwrap().0, 19);
}

#[test]
fn a_compacted_log_is_not_deleted_by_age() {
    let compact = CleanupPolicy { delete: false, compact: true };
    let config = LogConfig { retention_ms: Some(HOUR_MS), cleanup_policy: compact, ..LogConfig::default() };
    // Records without keys come in before the topic is compacted.
    let (node, log) = filled(&LogConfig::default(), BASE_MS);
    log.update_config(Arc::new(LogConfig { segment_bytes: 300, ..config }));
    node.manager.maintain(now_at(2 * HOUR_MS));
    assert_eq!(log.log_start_offset(), Offset(0));
    log.delete_records(Offset(15)).unwrap();
    let before = log.segment_count();
    node.manager.maintain(now_at(2 * HOUR_MS + 1));
    assert!(log.segment_count() < before, "what lies below the log's start goes all the same");
}

#[test]
fn deleted_records_do_not_come_back_and_their_files_go() {
    let (node, log) = filled(&LogConfig::default(), BASE_MS);
    assert!(matches!(log.delete_records(Offset(21)), Err(LogError::OffsetOutOfRange { .. })));
    assert_eq!(log.delete_records(Offset(13)).unwrap(), Offset(13));
    assert_eq!(log.delete_records(Offset(3)).unwrap(), Offset(13));
    assert_eq!(log.log_start_offset(), Offset(13));
    let request = chronik_log::ReadRequest {
        start_offset: Offset(12),
        max_bytes: 10,
        at_least_one_batch: true,
        upper_bound_offset: Offset(20),
    };
    assert!(log.read(request).is_err());
    drop(log);
    // At once: no checkpoint was written.
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    assert_eq!(log.log_start_offset(), Offset(13));
    log.set_high_watermark(Offset(20));
    // A reader keeps the file that it has.
    let held = read_from(&log, 13, 10_000);
    assert!(matches!(held.data, ReadData::File(_)));
    log.delete_records(Offset(20)).unwrap();
    node.manager.maintain(now_at(1000));
    node.manager.maintain(now_at(100_000));
    let files = node.disk.read_dir(&partition_dir()).unwrap();
    let data = files.iter().filter(|entry| entry.name.contains(".log")).collect::<Vec<_>>();
    assert_eq!(data.len(), 1, "{data:?}");
    assert_eq!(data[0].len_bytes, 0);
    assert!(!records_of(&bytes_of(&held)).is_empty());
}

/// Replication point 16.
#[test]
fn a_topic_id_guards_its_directory() {
    let node = Node::new(LogConfig::default());
    append(&node.log(), batch(BASE_MS, &[b"old"])).unwrap();
    let node = node.restart(Crash::Process, "boot-1");
    let other = TopicId(77);
    let error = node.manager.get_or_create(&partition(), other, Arc::clone(&node.config)).err().unwrap();
    assert!(matches!(error, LogError::InconsistentTopicId { found, expected }
        if found == TOPIC_ID && expected == other));
    assert!(node.manager.retire_stray(now_at(0), &partition()).unwrap());
    let log = node.manager.get_or_create(&partition(), other, Arc::clone(&node.config)).unwrap();
    assert_eq!(log.log_end_offset(), Offset(0));
    node.manager.maintain(now_at(1_000_000));
    assert!(names(&node).iter().any(|name| name.ends_with("-stray")), "strays are kept");
    let contents = node.disk.read_file(&partition_dir().join("partition.metadata")).unwrap();
    assert_eq!(String::from_utf8(contents).unwrap(), format!("version: 0\ntopic_id: {other}\n"));
}

#[test]
fn a_deleted_partition_is_gone_at_once_and_its_directory_later() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"old"])).unwrap();
    let held = read_from(&log, 0, 100);
    assert!(node.manager.delete(now_at(0), &partition()).unwrap());
    assert!(!node.manager.delete(now_at(0), &partition()).unwrap());
    assert!(node.manager.get(&partition()).is_none());
    assert!(matches!(
        append(&log, batch(BASE_MS, &[b"x"])).unwrap_err(),
        chronik_log::AppendError::Log(LogError::Closed)
    ));
    assert!(
        log.read(chronik_log::ReadRequest {
            start_offset: Offset(0),
            max_bytes: 10,
            at_least_one_batch: true,
            upper_bound_offset: Offset(1)
        })
        .is_err()
    );
    assert_eq!(records_of(&bytes_of(&held)).len(), 1);
    let fresh = node.log();
    assert_eq!(append(&fresh, batch(BASE_MS, &[b"new"])).unwrap().first_offset, Offset(0));
    assert_eq!(records_of(&bytes_of(&read_from(&fresh, 0, 100))), [(0, b"new".to_vec())]);
    assert!(names(&node).iter().any(|name| name.ends_with("-delete")));
    node.manager.maintain(now_at(59_000));
    assert!(names(&node).iter().any(|name| name.ends_with("-delete")));
    node.manager.maintain(now_at(61_000));
    assert!(!names(&node).iter().any(|name| name.ends_with("-delete")));
}

/// The topic that takes the place of [`TOPIC_ID`].
const ANEW: TopicId = TopicId(77);

fn append_old(log: &Log) {
    for _ in 0..5 {
        append(log, batch(BASE_MS, &[b"old"])).unwrap();
    }
}

/// Deletes the partition and makes another of its name, with one record.
fn make_anew(node: &Node, now_ms: u64) -> Arc<Log> {
    assert!(node.manager.delete(now_at(now_ms), &partition()).unwrap());
    let log = node.manager.get_or_create(&partition(), ANEW, Arc::clone(&node.config)).unwrap();
    append(&log, batch(BASE_MS, &[b"new"])).unwrap();
    log
}

#[test]
fn a_topic_that_was_made_anew_is_not_taken_for_the_one_before_after_a_power_loss() {
    for seed in 0..200 {
        let node = Node::new(LogConfig::default());
        node.disk.sync_dir(Path::new("/")).unwrap();
        let log = node.log();
        append_old(&log);
        log.sync().unwrap();
        // A checkpoint that a power loss leaves.
        node.manager.maintain(now_at(5_000));
        drop(log);
        make_anew(&node, 5_000).sync().unwrap();
        let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
        let log = node.manager.get(&partition()).unwrap();
        assert_eq!((log.topic_id(), log.log_end_offset()), (ANEW, Offset(1)), "seed {seed}");
        assert_eq!(records_of(&bytes_of(&read_from(&log, 0, 100))), [(0, b"new".to_vec())], "seed {seed}");
    }
}

/// The topic id of the log that takes a deleted one's place is lost with the power; then nothing of the deleted one may
/// be there for it.
#[test]
fn a_deleted_log_does_not_come_back_in_another_ones_place() {
    for seed in 0..60 {
        let node = Node::new(LogConfig::default());
        node.disk.sync_dir(Path::new("/")).unwrap();
        let log = node.log();
        append_old(&log);
        drop(log);
        drop(make_anew(&node, 0));
        let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
        if let Ok(log) = node.manager.get_or_create(&partition(), ANEW, Arc::clone(&node.config)) {
            let found = all_records(&log, 0, 1000);
            assert!(found.iter().all(|(_, value)| value == b"new"), "seed {seed}: {found:?}");
        }
    }
}

/// Replication point 16. A topic may be deleted, and another made by its name, while a node is away.
#[test]
fn a_log_with_records_knows_whose_it_is_whatever_the_power_takes() {
    for dies_first in [false, true] {
        for seed in 0..60 {
            let node = Node::new(LogConfig::default());
            node.disk.sync_dir(Path::new("/")).unwrap();
            let log = node.log();
            drop(log);
            let node = if dies_first { node.restart(Crash::Process, "boot-1") } else { node };
            append(&node.log(), batch(BASE_MS, &[b"old"])).unwrap();
            let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
            let other = node.manager.get_or_create(&partition(), TopicId(77), Arc::clone(&node.config));
            let adopted = other.is_ok_and(|log| log.log_end_offset() > Offset(0));
            assert!(!adopted, "seed {seed}, died first: {dies_first}");
        }
    }
}

/// The checkpoint of a clean shutdown is all that the power leaves of what was known, and others have written since.
#[test]
fn what_a_clean_shutdown_knew_is_not_certain_once_a_process_has_run_since() {
    for seed in 0..60 {
        let node = Node::new(LogConfig::default());
        append_old(&node.log());
        node.manager.shutdown(now_at(0)).unwrap();
        let node = node.restart(Crash::Process, "boot-1");
        make_anew(&node, 0).sync().unwrap();
        let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
        let log = node.manager.get(&partition()).unwrap();
        assert_eq!((log.topic_id(), log.log_end_offset()), (ANEW, Offset(1)), "seed {seed}");
    }
}

#[test]
fn what_a_clean_shutdown_knew_of_a_deleted_log_is_not_believed_of_the_next_one() {
    for same_topic in [false, true] {
        let node = Node::new(LogConfig::default());
        for _ in 0..20 {
            append(&node.log(), batch(BASE_MS, &[b"old and long"])).unwrap();
        }
        node.log().set_high_watermark(Offset(20));
        // More than the next log will have.
        node.log().delete_records(Offset(15)).unwrap();
        node.manager.shutdown(now_at(0)).unwrap();
        let node = node.restart(Crash::Process, "boot-1");
        node.manager.delete(now_at(0), &partition()).unwrap();
        let id = if same_topic { TOPIC_ID } else { TopicId(77) };
        let log = node.manager.get_or_create(&partition(), id, Arc::clone(&node.config)).unwrap();
        for _ in 0..9 {
            append(&log, batch(BASE_MS, &[b"new"])).unwrap();
        }
        drop(log);
        let node = node.restart(Crash::Process, "boot-1");
        assert!(node.manager.failed().is_empty(), "{:?}", node.manager.failed());
        let log = node.manager.get_or_create(&partition(), id, Arc::clone(&node.config)).unwrap();
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(0), Offset(9)));
        assert!(all_records(&log, 0, 1000).iter().all(|(_, value)| value == b"new"));
    }
}

#[test]
fn a_directory_on_its_way_out_is_removed_at_the_next_start() {
    let node = Node::new(LogConfig::default());
    append(&node.log(), batch(BASE_MS, &[b"old"])).unwrap();
    node.manager.delete(now_at(0), &partition()).unwrap();
    let node = node.restart(Crash::Process, "boot-1");
    assert!(node.manager.get(&partition()).is_none());
    node.manager.maintain(now_at(0));
    assert!(!names(&node).iter().any(|name| name.ends_with("-delete")));
}

#[test]
fn flush_messages_asks_for_a_sync_that_moves_the_recovery_point() {
    let node = Node::new(LogConfig { flush_messages: Some(3), ..LogConfig::default() });
    let log = node.log();
    assert_eq!(append(&log, batch(BASE_MS, &[b"a", b"b"])).unwrap().sync_up_to, None);
    let appended = append(&log, batch(BASE_MS, &[b"c"])).unwrap();
    assert_eq!(appended.sync_up_to, Some(Offset(3)));
    let synced = Arc::new(AtomicI64::new(-1));
    for _ in 0..3 {
        let synced = Arc::clone(&synced);
        let done =
            move |outcome: Result<Offset, LogError>| synced.store(outcome.unwrap().get(), Ordering::Relaxed);
        node.manager.flush_queue().request(&log, Offset(3), Some(Box::new(done)));
    }
    let before = node.manager.stats().sync_count;
    assert_eq!(node.manager.flush_queue().sync_batch().log_count, 1);
    assert_eq!(synced.load(Ordering::Relaxed), 3);
    assert_eq!(log.recovery_point(), Offset(3));
    // Three that wait share one pass: the segment, and once the epochs and the topic id.
    assert_eq!(node.manager.stats().sync_count - before, 3);
    drop(log);
    let node = node.restart(Crash::PowerLoss { seed: 3 }, "boot-2");
    assert_eq!(all_records(&node.log(), 0, 1000).len(), 3);
}

#[test]
fn flush_ms_syncs_old_data() {
    let node = Node::new(LogConfig { flush_ms: Some(500), ..LogConfig::default() });
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"a"])).unwrap();
    let next = node.manager.maintain(now_at(100));
    assert_eq!(next.0, 500);
    assert!(node.manager.flush_queue().is_empty());
    node.manager.maintain(now_at(500));
    assert!(!node.manager.flush_queue().is_empty());
    node.manager.flush_queue().sync_batch();
    assert_eq!(log.recovery_point(), Offset(1));
}

/// Replication point 2.
#[test]
fn epochs_are_kept_across_restarts_and_cut_with_the_log() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    for epoch in [1, 1, 4, 4, 6] {
        log.append(now_at(0), batch(BASE_MS, &[b"v"]), chronik_log::AppendOrigin::Client, LeaderEpoch(epoch))
            .unwrap();
    }
    log.begin_epoch(LeaderEpoch(9)).unwrap();
    let end = |log: &Log, epoch| {
        log.end_offset_for_epoch(LeaderEpoch(epoch)).map(|end| (end.leader_epoch.get(), end.end_offset.get()))
    };
    drop(log);
    for checkpoint in [false, true] {
        if checkpoint {
            node.manager.maintain(now_at(10_000));
        }
    }
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    assert_eq!(end(&log, 1), Some((1, 2)));
    assert_eq!(end(&log, 3), Some((1, 2)));
    assert_eq!(end(&log, 6), Some((6, 5)));
    assert_eq!(end(&log, 10), None);
    log.truncate_to(now_at(0), Offset(3)).unwrap();
    assert_eq!(end(&log, 4), Some((4, 3)));
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(4)));
    let stale =
        log.append(now_at(0), batch(BASE_MS, &[b"v"]), chronik_log::AppendOrigin::Client, LeaderEpoch(3));
    assert!(stale.is_err(), "LOG-1: epochs never decrease");
}

#[test]
fn a_directory_that_kafka_wrote_is_taken_over() {
    let (node, log) = filled(&LogConfig::default(), BASE_MS);
    let records = all_records(&log, 0, 1000);
    log.delete_records(Offset(2)).unwrap();
    drop(log);
    node.manager.shutdown(now_at(0)).unwrap();
    // What is Chronik's own is not there in Kafka's directory.
    for entry in node.disk.read_dir(&dir()).unwrap() {
        if entry.name.starts_with("chronik-") {
            node.disk.remove_file(&dir().join(entry.name)).unwrap();
        }
    }
    assert!(names(&node).contains(&".kafka_cleanshutdown".to_owned()));
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.manager.get(&partition()).unwrap();
    assert_eq!(log.topic_id(), TOPIC_ID);
    assert_eq!((log.log_start_offset(), log.high_watermark()), (Offset(2), Offset(20)));
    assert_eq!(all_records(&log, 2, 300), records[2..]);
    assert!(!names(&node).contains(&".kafka_cleanshutdown".to_owned()));
}

#[test]
fn what_kafka_has_done_since_counts_and_not_what_chronik_knew() {
    let config = LogConfig { segment_bytes: 300, ..LogConfig::default() };
    let (mut node, log) = filled(&config, BASE_MS);
    let (end, segment_count) = (log.log_end_offset(), log.segment_count());
    assert!(segment_count > 4);
    drop(log);
    node.manager.shutdown(now_at(0)).unwrap();
    // Kafka has deleted the oldest segments, and has ended in good order.
    let mut logs = node.disk.read_dir(&partition_dir()).unwrap();
    logs.retain(|entry| Path::new(&entry.name).extension().is_some_and(|found| found == "log"));
    for entry in &logs[..segment_count - 2] {
        node.disk.remove_file(&partition_dir().join(&entry.name)).unwrap();
    }
    let first: i64 = logs[segment_count - 2].name[..20].parse().unwrap();
    for (name, offset) in
        [("log-start-offset-checkpoint", first), ("replication-offset-checkpoint", end.get())]
    {
        let contents = format!("0\n1\norders 0 {offset}\n");
        node.disk.replace_file(&dir().join(name), contents.as_bytes()).unwrap();
    }
    // Also where the first start after that comes to nothing, and where Kafka was killed.
    for kafka_ends_well in [true, true, false] {
        let clean_file = dir().join(".kafka_cleanshutdown");
        if kafka_ends_well {
            node.disk.replace_file(&clean_file, b"").unwrap();
        }
        node = node.restart(Crash::Process, "boot-2");
        let log = node.manager.get(&partition()).unwrap();
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(first), end));
        assert_eq!(log.high_watermark(), end);
    }
    append(&node.log(), batch(BASE_MS, &[b"after"])).unwrap();
    let node = node.restart(Crash::Process, "boot-2");
    assert_eq!(node.log().log_end_offset(), end.next());
}

#[test]
fn a_segment_that_compaction_has_emptied_outlasts_the_policy() {
    let deleting = LogConfig { segment_bytes: 300, ..LogConfig::default() };
    let compacting = LogConfig { cleanup_policy: CleanupPolicy::COMPACT, ..deleting.clone() };
    let (node, log) = filled(&deleting, BASE_MS);
    let end = log.log_end_offset();
    drop(log);
    node.manager.shutdown(now_at(0)).unwrap();
    let disk = node.disk.clone();
    drop(node);
    let mut logs = disk.read_dir(&partition_dir()).unwrap();
    logs.retain(|entry| Path::new(&entry.name).extension().is_some_and(|found| found == "log"));
    // What a clean leaves where nothing of a segment is the newest of its key.
    for extension in ["log", "index", "timeindex"] {
        let path = partition_dir().join(logs[1].name.replace("log", extension));
        disk.open(&path, OpenMode::ReadWrite).unwrap().truncate(0).unwrap();
    }
    let node = Node::on(disk.clone(), compacting, "boot-1");
    node.manager.shutdown(now_at(0)).unwrap();
    drop(node);
    let node = Node::on(disk, deleting, "boot-2");
    let log = node.manager.get(&partition()).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(0), end));
}

#[test]
fn a_segment_that_compaction_had_ready_takes_its_place() {
    let (node, log) = filled(&LogConfig::default(), BASE_MS);
    drop(log);
    let from = partition_dir().join(format!("{:020}.log", 0));
    let contents = node.disk.read_file(&from).unwrap();
    let swap = partition_dir().join(format!("{:020}.log.swap", 0));
    let open = node.disk.open(&swap, OpenMode::CreateNew).unwrap();
    open.write_all_at(&contents, 0).unwrap();
    let node = node.restart(Crash::Process, "boot-1");
    assert!(!node.disk.exists(&swap).unwrap());
    assert_eq!(all_records(&node.log(), 0, 1000).len(), 20);
}

#[test]
fn many_partitions_are_listed_in_order() {
    let node = Node::new(LogConfig::default());
    for number in [3, 1, 2] {
        let partition = TopicPartition::new("t", number);
        node.manager.get_or_create(&partition, TOPIC_ID, Arc::clone(&node.config)).unwrap();
    }
    let node = node.restart(Crash::Process, "boot-1");
    let listed: Vec<String> = node.manager.describe_dirs()[0]
        .partitions
        .iter()
        .map(|(partition, _)| partition.to_string())
        .collect();
    assert_eq!(listed, ["t-1", "t-2", "t-3"]);
    assert_eq!(node.manager.get(&TopicPartition::new("t", 2)).unwrap().topic_id(), TOPIC_ID);
}

type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A disk on which something happens, once, while a segment is synced.
struct SlowSync {
    disk: SimDisk,
    meanwhile: Meanwhile,
}

struct SlowFile {
    file: Arc<dyn DiskFile>,
    meanwhile: Meanwhile,
}

impl DiskLayer for SlowSync {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        if path.extension().is_none_or(|extension| extension != "log") {
            return Ok(file);
        }
        Ok(Arc::new(SlowFile { file, meanwhile: Arc::clone(&self.meanwhile) }))
    }
}

impl FileLayer for SlowFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }

    fn sync_data(&self) -> io::Result<()> {
        let meanwhile = self.meanwhile.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        self.file.sync_data()
    }
}

/// A deletion does not wait for a sync, which may take seconds. That the directory is gone then is no failure of the disk.
#[test]
fn a_topic_that_is_deleted_while_its_log_is_synced_takes_no_directory_offline() {
    let disk = SimDisk::new();
    let meanwhile = Meanwhile::default();
    let config = Arc::new(small_segments());
    let slow: Arc<dyn Disk> = Arc::new(SlowSync { disk, meanwhile: Arc::clone(&meanwhile) });
    let manager = open_manager(&slow, &dir(), options("boot-1"), &config, now_at(0)).unwrap();
    for is_made_anew in [false, true] {
        let log = manager.get_or_create(&partition(), TOPIC_ID, Arc::clone(&config)).unwrap();
        for at in 0..40 {
            append(&log, idempotent(5, 0, at, &[b"value"])).unwrap();
        }
        let (deleting, config) = (Arc::clone(&manager), Arc::clone(&config));
        *meanwhile.lock() = Some(Box::new(move || {
            assert!(deleting.delete(now_at(1), &partition()).unwrap());
            if is_made_anew {
                deleting.get_or_create(&partition(), TopicId(77), config).unwrap();
            }
        }));
        assert_eq!(log.sync().is_err(), !is_made_anew);
        assert!(manager.offline_dirs().is_empty(), "made anew: {is_made_anew}");
    }
}

/// What Kafka's checkpoints say of a deleted log names no topic, and must not be believed of the next one of its name.
#[test]
fn a_log_start_of_kafkas_is_not_that_of_the_next_topic() {
    // A log of Kafka's that cannot be read keeps our own checkpoint from being written.
    for is_beside_a_failed_log in [false, true] {
        for seed in 0..40 {
            let disk = SimDisk::new();
            if is_beside_a_failed_log {
                let other = dir().join("bad-0");
                disk.create_dir_all(&other).unwrap();
                disk.replace_file(&other.join("00000000000000000000.log"), &batch(BASE_MS, &[b"value"]))
                    .unwrap();
                disk.inject(FaultRule::always(Operation::Read, "bad-0", Fault::Io));
            }
            let node = kafka_knows_a_start(disk);
            assert!(node.manager.delete(now_at(1), &partition()).unwrap());
            if seed % 2 == 0 {
                node.manager.maintain(now_at(20_000));
            }
            the_next_topic_keeps_its_records(node, seed);
        }
    }
}

#[test]
fn what_a_client_deletes_lets_nothing_go_by_age_while_deletions_are_held() {
    let (node, log) = filled(&LogConfig { retention_ms: Some(HOUR_MS), ..LogConfig::default() }, BASE_MS);
    node.manager.hold_deletions();
    log.delete_records(Offset(1)).unwrap();
    node.manager.maintain(now_at(5 * HOUR_MS));
    assert_eq!(log.log_start_offset(), Offset(1));
    node.manager.allow_deletions();
    node.manager.maintain(now_at(10 * HOUR_MS));
    assert!(Offset(1) < log.log_start_offset());
}

/// A directory of Kafka's, whose checkpoints know the start of a log that is deleted, and of no topic id.
fn kafka_knows_a_start(disk: SimDisk) -> Node {
    disk.create_dir_all(&partition_dir()).unwrap();
    let metadata = format!("version: 0\ntopic_id: {TOPIC_ID}\n");
    disk.replace_file(&file("partition.metadata"), metadata.as_bytes()).unwrap();
    for name in ["log-start-offset-checkpoint", "replication-offset-checkpoint"] {
        disk.replace_file(&dir().join(name), b"0\n1\norders 0 5000\n").unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(&dir()).unwrap();
    let node = Node::on(disk, LogConfig::default(), "boot-1");
    assert_eq!(node.log().log_start_offset(), Offset(5000));
    node
}

/// The next topic of the name gets records that are synced, and loses none of them with the power.
fn the_next_topic_keeps_its_records(node: Node, seed: u64) {
    let next = TopicId(77);
    let log = node.manager.get_or_create(&partition(), next, Arc::clone(&node.config)).unwrap();
    for _ in 0..30 {
        append(&log, batch(BASE_MS, &[b"value"])).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
    let log = node.manager.get_or_create(&partition(), next, Arc::clone(&node.config)).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(0), Offset(30)), "seed {seed}");
}

#[test]
fn a_deletion_that_was_noted_late_outlasts_the_power_before_the_next_topic_does() {
    for seed in 0..60 {
        let node = kafka_knows_a_start(SimDisk::new());
        node.disk.inject(FaultRule::always(Operation::Write, "chronik-journal", Fault::NoSpace));
        assert!(node.manager.delete(now_at(1), &partition()).unwrap());
        // Whatever it makes durable, the note is not among it.
        let other = TopicPartition::new("other", 0);
        node.manager.get_or_create(&other, TopicId(3), Arc::clone(&node.config)).unwrap();
        node.disk.clear_faults();
        the_next_topic_keeps_its_records(node, seed);
    }
}

#[test]
fn a_deletion_before_a_checkpoint_that_fails_outlasts_the_power_before_the_next_topic_does() {
    for seed in 0..60 {
        let node = kafka_knows_a_start(SimDisk::new());
        assert!(node.manager.delete(now_at(1), &partition()).unwrap());
        node.disk.inject(FaultRule::always(Operation::Write, "chronik-checkpoint", Fault::NoSpace));
        node.manager.maintain(now_at(20_000));
        node.disk.clear_faults();
        the_next_topic_keeps_its_records(node, seed);
    }
}
