//! What happens to a log while it is cleaned: appends, reads, cuts, deletion, transactions that end late.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chronik_disk::{Disk, RealDisk};
use chronik_log::{AppendOrigin, CleanerOptions, CleanupPolicy, Log, LogConfig, ManagerOptions, OffsetQuery};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use common::compaction::*;
use common::*;

const SHAPE: Shape = Shape {
    key_count: 30,
    producer_count: 3,
    records_max: 6,
    value_bytes_max: 60,
    without_key: false,
    codec_count: 2,
};

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 2_000,
        index_interval_bytes: 200,
        cleanup_policy: CleanupPolicy::COMPACT,
        min_cleanable_dirty_ratio: 0.0,
        retention_ms: None,
        message_timestamp_after_max_ms: None,
        ..LogConfig::default()
    }
}

fn fill(log: &Log, history: &mut History, seed: u64, count: u64) {
    let mut rng = Rng(seed);
    for at in 0..count {
        history.append(log, &mut rng, SHAPE, now_at(seed * 1_000 + at), LeaderEpoch(0)).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
}

#[test]
fn appends_and_reads_go_on_while_segments_are_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let options = ManagerOptions { tail_ring_bytes_max: 0, open_files_max: 4, ..options("boot") };
    let config = Arc::new(LogConfig { file_delete_delay_ms: 0, ..config() });
    let manager = open_manager(&disk, temp.path(), options, &config, now_at(0)).unwrap();
    let log = manager.get_or_create(&partition(), TOPIC_ID, config).unwrap();
    let is_done = AtomicBool::new(false);
    let mut history = History::default();
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (log, is_done) = (&log, &is_done);
            scope.spawn(move || {
                let mut rng = Rng(reader);
                while !is_done.load(Ordering::Acquire) {
                    let max_bytes = 100 + rng.index(3_000);
                    let found = all_seen(log, max_bytes);
                    assert!(found.is_sorted_by(|a, b| a.0 < b.0), "LOG-1: offsets do not increase");
                    if let Some((offset, record)) = found.get(rng.index(found.len().max(1))) {
                        // A value that was read may be gone by now; whatever is found instead comes later.
                        let query = OffsetQuery::Timestamp(TimestampMs(record.timestamp));
                        assert!(log.offset_for(query).is_ok(), "offset {offset}");
                    }
                }
            });
        }
        let (cleaned, stopped) = (&log, &is_done);
        let mut worker = worker(&manager, small_steps());
        let manager = &manager;
        scope.spawn(move || {
            let mut now_ms = 1_000_000;
            while !stopped.load(Ordering::Acquire) {
                now_ms += 1;
                worker.step(now_at(now_ms));
                if now_ms % 50 == 0 {
                    // Old files are removed at once.
                    manager.maintain(now_at(now_ms));
                }
            }
            clean(&mut worker, now_at(now_ms));
            assert!(cleaned.cleaned_up_to().is_some());
        });
        for round in 0..60 {
            fill(&log, &mut history, round, 25);
        }
        is_done.store(true, Ordering::Release);
    });
    assert!(manager.stats().clean_count > 1, "{:?}", manager.stats());
    history.check(&all_seen(&log, 4_000), log.cleaned_up_to().unwrap().get(), "in the end");
}

/// Runs so many steps of a clean, then does something to the log.
fn interrupted(steps: usize, what: impl Fn(&Node, &Log)) -> (Node, History, chronik_log::CleanerWorker) {
    let node = filed(config());
    let log = node.log();
    let mut history = History::default();
    fill(&log, &mut history, 1, 60);
    let mut worker = worker(&node.manager, small_steps());
    for _ in 0..steps {
        worker.step(now_at(10_000));
    }
    what(&node, &log);
    (node, history, worker)
}

#[test]
fn a_cut_in_the_middle_of_a_clean_ends_it() {
    for steps in 0..120 {
        let at = format!("after {steps} steps");
        let (node, mut history, mut worker) = interrupted(steps, |_, log| {
            log.truncate_to(now_at(10_000), Offset(60)).unwrap();
        });
        let log = node.log();
        let end = log.log_end_offset().get();
        assert!(log.cleaned_up_to().is_none_or(|offset| offset.get() <= end), "{at}");
        // What was superseded by a record that the cut took may be gone: as in Kafka, only what lies above the high
        // watermark is cut, and that is not cleaned. So only what is left is looked at.
        let left = all_seen(&log, 900);
        history.records = left.into_iter().collect();
        history.sequences.clear();
        for producer in log.active_producers() {
            history.sequences.insert(producer.producer_id.get(), producer.last_sequence + 1);
        }
        fill(&log, &mut history, 2, 60);
        clean(&mut worker, now_at(20_000));
        history.check(&all_seen(&log, 900), log.cleaned_up_to().unwrap().get(), &at);
        assert!(node.disk.read_dir(&partition_dir()).unwrap().iter().all(|e| !e.name.ends_with(".cleaned")));
    }
}

#[test]
fn a_topic_that_is_deleted_in_the_middle_of_a_clean_harms_nobody() {
    for steps in (0..120).step_by(3) {
        let (node, _, mut worker) = interrupted(steps, |node, _| {
            node.manager.delete(now_at(10_000), &partition()).unwrap();
        });
        // Another topic of that name.
        let log = node.log();
        let mut history = History::default();
        fill(&log, &mut history, 3, 60);
        assert_eq!(all_seen(&log, 900).len(), history.records.len());
        clean(&mut worker, now_at(20_000));
        let at = format!("deleted after {steps} steps");
        history.check(&all_seen(&log, 900), log.cleaned_up_to().unwrap().get(), &at);
        assert!(node.manager.describe_dirs().iter().all(|dir| dir.offline_reason.is_none()), "{at}");
    }
}

#[test]
fn a_policy_that_changes_is_followed_at_once() {
    let (node, history, mut worker) = interrupted(5, |_, log| {
        log.update_config(Arc::new(LogConfig { cleanup_policy: CleanupPolicy::DELETE, ..config() }));
    });
    assert!(worker.is_busy());
    clean(&mut worker, now_at(20_000));
    let log = node.log();
    // Opening the log again has given it its old settings.
    log.update_config(Arc::new(LogConfig { cleanup_policy: CleanupPolicy::DELETE, ..config() }));
    clean(&mut worker, now_at(20_000));
    assert!(!worker.is_busy() && log.cleaned_up_to().is_none());
    assert_eq!(all_seen(&log, 900).len(), history.records.len());
    log.update_config(Arc::new(config()));
    clean(&mut worker, now_at(30_000));
    assert!(log.cleaned_up_to().is_some());
}

#[test]
fn work_is_bounded_in_time() {
    let node = filed(config());
    let log = node.log();
    let mut history = History::default();
    fill(&log, &mut history, 1, 100);
    let bytes = log.size_bytes();
    let options = CleanerOptions { io_max_bytes_per_second: 1_000.0, ..small_steps() };
    let mut worker = worker(&node.manager, options);
    let (start, mut now_ms) = (10_000, 10_000);
    for _ in 0..100_000 {
        let next = worker.step(now_at(now_ms));
        if log.cleaned_up_to().is_some() {
            break;
        }
        now_ms = next.0;
    }
    assert!(log.cleaned_up_to().is_some());
    // It reads the dirty part twice and writes less than that.
    assert!((now_ms - start) >= bytes, "{bytes} bytes in {} ms at 1 byte a ms", now_ms - start);
    assert!((now_ms - start) <= bytes * 4, "{bytes} bytes in {} ms at 1 byte a ms", now_ms - start);
}

#[test]
fn the_longest_lag_closes_a_segment_that_nobody_appends_to() {
    let node =
        filed(LogConfig { max_compaction_lag_ms: Some(5_000), min_cleanable_dirty_ratio: 1.0, ..config() });
    let log = node.log();
    let mut history = History::default();
    fill(&log, &mut history, 0, 6);
    let mut worker = worker(&node.manager, small_steps());
    clean(&mut worker, now_at(3_000));
    assert_eq!((log.segment_count(), log.cleaned_up_to()), (1, None));
    clean(&mut worker, now_at(10_000));
    assert_eq!(log.cleaned_up_to(), Some(log.log_end_offset()));
    history.check(&all_seen(&log, 900), log.log_end_offset().get(), "overdue");
}

#[test]
fn an_aborted_record_replaces_nothing_and_its_marker_goes_in_the_end() {
    let node = filed(LogConfig { delete_retention_ms: 1_000, ..config() });
    let log = node.log();
    let put = |key: &[u8], value: &[u8], producer: Option<i64>| {
        let options = BatchOptions {
            producer_id: ProducerId(producer.unwrap_or(-1)),
            producer_epoch: ProducerEpoch(if producer.is_some() { 0 } else { -1 }),
            base_sequence: if producer.is_some() { 0 } else { -1 },
            is_transactional: producer.is_some(),
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        builder.append(TimestampMs(BASE_MS), Some(key), Some(value), &[]).unwrap();
        log.append(now_at(0), builder.finish().unwrap(), AppendOrigin::Coordinator, LeaderEpoch(0)).unwrap();
    };
    let end = |producer: i64, commit: bool| {
        let options = BatchOptions {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            ..BatchOptions::default()
        };
        let batch = control_batch(options, BASE_MS, commit);
        log.append(now_at(0), batch, AppendOrigin::Coordinator, LeaderEpoch(0)).unwrap();
    };
    let fill = |tag: u8| {
        for at in 0..12 {
            put(&[tag, at % 2], &[0; 300], None);
        }
        log.set_high_watermark(log.log_end_offset());
    };
    let data = || -> BTreeMap<Vec<u8>, Vec<u8>> {
        all_batches(&log, 4_000)
            .iter()
            .filter(|batch| {
                !chronik_protocol::records::BatchHeader::parse(batch).unwrap().attributes.is_control()
            })
            .flat_map(|batch| {
                let mut records = chronik_protocol::records::RecordIter::new(batch, 1 << 20).unwrap();
                let mut found = Vec::new();
                while let Some(record) = records.next_record().unwrap() {
                    found.push((record.key.unwrap().to_vec(), record.value.unwrap().to_vec()));
                }
                found
            })
            .collect()
    };
    let markers = || {
        let headers = all_batches(&log, 4_000);
        headers
            .iter()
            .map(|batch| chronik_protocol::records::BatchHeader::parse(batch).unwrap())
            .filter(|header| header.attributes.is_control() && header.record_count > 0)
            .map(|header| header.producer_id.get())
            .collect::<Vec<_>>()
    };
    put(b"a", b"old", None);
    put(b"c", b"old", None);
    put(b"a", b"aborted", Some(1));
    put(b"c", b"new", Some(2));
    end(1, false);
    end(2, true);
    put(b"o", b"open", Some(3));
    fill(b'x');
    let mut worker = worker(&node.manager, small_steps());
    clean(&mut worker, now_at(10_000));
    assert_eq!(log.cleaned_up_to(), None, "the first segment reaches into an open transaction");
    end(3, true);
    fill(b'y');
    clean(&mut worker, now_at(20_000));
    let seen = data();
    assert_eq!((&seen[&b"a"[..]][..], &seen[&b"c"[..]][..]), (&b"old"[..], &b"new"[..]));
    assert_eq!(markers(), [1, 2, 3], "a marker outlives what it ended by one clean at least");
    // A producer's last batch keeps its marker, even without records, until the producer is forgotten.
    fill(b'z');
    let later = 200_000_000;
    node.manager.maintain(now_at(later));
    clean(&mut worker, now_at(later + 1));
    assert_eq!(markers(), [1, 2, 3]);
    fill(b'v');
    clean(&mut worker, now_at(later + 10_000));
    assert_eq!(markers(), [1, 2, 3], "it has delete.retention.ms from when nothing is left");
    fill(b'w');
    clean(&mut worker, now_at(later + 20_000));
    assert_eq!(markers(), [2, 3], "what a transaction has left keeps its marker");
}
