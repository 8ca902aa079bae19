//! Compaction against a model: whatever is appended, and however it is cleaned, what can be read is what must be.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use chronik_disk::{Crash, Disk, SimDisk};
use chronik_log::{AppendOrigin, CleanerOptions, CleanupPolicy, LogConfig, OffsetQuery};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_types::{LeaderEpoch, Offset, TimestampMs};
use common::compaction::*;
use common::*;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 3_000,
        index_interval_bytes: 200,
        cleanup_policy: CleanupPolicy::COMPACT,
        min_cleanable_dirty_ratio: 0.0,
        retention_ms: None,
        message_timestamp_after_max_ms: None,
        ..LogConfig::default()
    }
}

const SHAPE: Shape = Shape {
    key_count: 40,
    producer_count: 4,
    records_max: 8,
    value_bytes_max: 60,
    without_key: true,
    codec_count: 5,
};

/// Where a record with a timestamp is found must be where it is read.
fn check_lookups(log: &chronik_log::Log, found: &[(i64, Seen)], at: &str) {
    for timestamp in found.iter().step_by(17).map(|(_, record)| record.timestamp) {
        let expected =
            found.iter().find(|(_, record)| timestamp <= record.timestamp).map(|(offset, _)| *offset);
        let looked_up = log.offset_for(OffsetQuery::Timestamp(TimestampMs(timestamp))).unwrap();
        assert_eq!(
            looked_up.map(|found| found.offset.get()),
            expected,
            "{at}: first at or after {timestamp}"
        );
    }
}

#[test]
fn random_logs_hold_what_the_model_says() {
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let config = LogConfig {
            segment_bytes: 1_500 + rng.below(6_000),
            index_interval_bytes: rng.below(600),
            delete_retention_ms: [0, 5_000, 1 << 40][rng.index(3)],
            min_compaction_lag_ms: [0, 0, 3_000][rng.index(3)],
            min_cleanable_dirty_ratio: [0.0, 0.3][rng.index(2)],
            ..config()
        };
        let shape = Shape { key_count: 2 + rng.below(60), ..SHAPE };
        let options = CleanerOptions {
            // From a handful of keys at a time to all of them.
            dedupe_buffer_bytes: [24 * 8, 24 * 30, 1 << 20][rng.index(3)],
            ..small_steps()
        };
        let mut node = filed(config);
        let mut history = History::default();
        let mut now_ms = 0;
        for round in 0..5 {
            let at = format!("seed {seed} round {round}");
            let log = node.log();
            for _ in 0..rng.below(60) {
                now_ms += rng.below(200);
                let epoch = LeaderEpoch(round / 2);
                history.append(&log, &mut rng, shape, now_at(now_ms), epoch).unwrap();
            }
            log.set_high_watermark(log.log_end_offset());
            now_ms += rng.below(10_000);
            clean(&mut worker(&node.manager, options.clone()), now_at(now_ms));
            let cleaned_up_to = log.cleaned_up_to().map_or(0, Offset::get);
            let found = all_seen(&log, 700);
            history.check(&found, cleaned_up_to, &at);
            check_lookups(&log, &found, &at);
            let producers = log.active_producers();
            if rng.one_in(2) {
                drop(log);
                let boot = format!("boot {}", rng.below(2));
                node = restart(node, Crash::Process, &boot);
                let log = node.log();
                assert_eq!(all_seen(&log, 900), found, "{at}: after a restart");
                assert_eq!(log.active_producers(), producers, "{at}");
                assert_eq!(log.cleaned_up_to().map_or(0, Offset::get), cleaned_up_to, "{at}");
            }
        }
        node.manager.shutdown(now_at(now_ms)).unwrap();
    }
}

#[test]
fn a_log_says_by_itself_what_its_producers_sent_last() {
    for seed in 0..10 {
        let mut rng = Rng(1_000 + seed);
        let node = filed(LogConfig { delete_retention_ms: 0, ..config() });
        let log = node.log();
        let mut history = History::default();
        // Few keys, so that most producers lose all of their records.
        let shape = Shape { key_count: 3, producer_count: 9, without_key: false, ..SHAPE };
        for at in 0..80 {
            history.append(&log, &mut rng, shape, now_at(at), LeaderEpoch(0)).unwrap();
        }
        for at in 0..60 {
            let shape = Shape { producer_count: 1, ..shape };
            history.append(&log, &mut rng, shape, now_at(100 + at), LeaderEpoch(0)).unwrap();
        }
        log.set_high_watermark(log.log_end_offset());
        clean(&mut worker(&node.manager, small_steps()), now_at(1_000));
        assert!(log.cleaned_up_to().unwrap().get() > 100);
        let told = |log: &chronik_log::Log| -> Vec<(i64, i32)> {
            log.active_producers().iter().map(|p| (p.producer_id.get(), p.last_sequence)).collect()
        };
        let before = told(&log);
        assert!(before.len() > 3);
        node.manager.maintain(now_at(100_000));
        drop(log);
        node.disk.crash(Crash::Process);
        // Without checkpoint, journal and snapshots there is only the log to tell.
        for entry in node.disk.read_dir(&dir()).unwrap().iter().filter(|entry| !entry.is_dir) {
            if entry.name.starts_with("chronik-") {
                node.disk.remove_file(&dir().join(&entry.name)).unwrap();
            }
        }
        for entry in node.disk.read_dir(&partition_dir()).unwrap() {
            if entry.name.ends_with(".snapshot") {
                node.disk.remove_file(&partition_dir().join(&entry.name)).unwrap();
            }
        }
        let node = filed_on(node.disk.clone(), (*node.config).clone(), "boot-1");
        assert_eq!(told(&node.log()), before, "seed {seed}");
    }
}

#[test]
fn a_second_clean_changes_nothing() {
    let mut rng = Rng(7);
    let node = filed(LogConfig { delete_retention_ms: 1 << 40, ..config() });
    let log = node.log();
    let mut history = History::default();
    for at in 0..200 {
        history.append(&log, &mut rng, SHAPE, now_at(at), LeaderEpoch(0)).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
    clean(&mut worker(&node.manager, small_steps()), now_at(1_000));
    let batches = all_batches(&log, 5_000);
    let segments = log.segment_count();
    // The same once more, of all of it: as if nobody had noted the first.
    let written = node.disk.operation_count();
    node.disk.remove_file(&dir().join("cleaner-offset-checkpoint")).unwrap();
    drop(log);
    let node = restart(node, Crash::Process, "boot-1");
    let log = node.log();
    assert_eq!(log.cleaned_up_to(), None);
    log.set_high_watermark(log.log_end_offset());
    clean(&mut worker(&node.manager, small_steps()), now_at(2_000));
    assert!(log.cleaned_up_to().is_some() && node.disk.operation_count() > written);
    assert_eq!(all_batches(&log, 5_000), batches);
    assert!(log.segment_count() <= segments);
}

#[test]
fn what_was_cleaned_is_not_read_from_memory() {
    let mut rng = Rng(5);
    // The tail ring holds all of it.
    let node = Node::with_options(SimDisk::new(), config(), options("boot"));
    let log = node.log();
    let mut history = History::default();
    for at in 0..200 {
        history.append(&log, &mut rng, SHAPE, now_at(at), LeaderEpoch(0)).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
    clean(&mut worker(&node.manager, small_steps()), now_at(1_000));
    let cleaned_up_to = log.cleaned_up_to().unwrap().get();
    assert!(cleaned_up_to > history.records.len().try_into().unwrap_or(i64::MAX) / 2);
    history.check(&all_seen(&log, 5_000), cleaned_up_to, "from memory and file");
}

/// A topic may be compacted no more by now, which a node that has just started does not know yet.
#[test]
fn nothing_is_cleaned_while_deletions_are_held() {
    let mut rng = Rng(5);
    let node = filed(config());
    let log = node.log();
    let mut history = History::default();
    for at in 0..200 {
        history.append(&log, &mut rng, SHAPE, now_at(at), LeaderEpoch(0)).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
    node.manager.hold_deletions();
    clean(&mut worker(&node.manager, small_steps()), now_at(1_000));
    assert_eq!(log.cleaned_up_to(), None);
    node.manager.allow_deletions();
    clean(&mut worker(&node.manager, small_steps()), now_at(1_000));
    assert!(log.cleaned_up_to().is_some());
}

#[test]
fn what_is_kept_whole_is_kept_byte_for_byte() {
    let node = filed(LogConfig { segment_bytes: 600, ..config() });
    let log = node.log();
    let mut history = History::default();
    let mut rng = Rng(3);
    // Every key once.
    for at in 0..40_i64 {
        let mut builder = BatchBuilder::new(BatchOptions {
            compression: CODECS[rng.index(CODECS.len())],
            ..BatchOptions::default()
        });
        for record in 0..3 {
            builder
                .append(
                    TimestampMs(BASE_MS + at),
                    Some(&[u8::try_from(at).unwrap(), record]),
                    Some(&[7; 20]),
                    &[],
                )
                .unwrap();
        }
        log.append(now_at(0), builder.finish().unwrap(), AppendOrigin::Client, LeaderEpoch(2)).unwrap();
    }
    history.records = all_seen(&log, 10_000).into_iter().collect();
    let before = all_batches(&log, 10_000);
    log.set_high_watermark(log.log_end_offset());
    clean(&mut worker(&node.manager, small_steps()), now_at(1_000));
    assert!(log.cleaned_up_to().unwrap().get() > 60);
    assert_eq!(all_batches(&log, 10_000), before);
}

#[test]
fn nothing_above_the_high_watermark_nor_young_nor_active_is_touched() {
    let node = filed(LogConfig { min_compaction_lag_ms: 10_000, segment_bytes: 700, ..config() });
    let log = node.log();
    let mut history = History::default();
    let mut rng = Rng(11);
    let shape = Shape { key_count: 2, ..SHAPE };
    for at in 0..60 {
        history.append(&log, &mut rng, shape, now_at(at), LeaderEpoch(0)).unwrap();
    }
    let mut worker = worker(&node.manager, small_steps());
    let untouched = |history: &History| assert_eq!(all_seen(&log, 900).len(), history.records.len());
    clean(&mut worker, now_at(100_000));
    untouched(&history);
    log.set_high_watermark(log.log_end_offset());
    clean(&mut worker, now_at(5_000));
    untouched(&history);
    log.set_high_watermark(Offset(40));
    clean(&mut worker, now_at(100_000));
    assert!(log.cleaned_up_to().unwrap().get() <= 40);
    history.check(&all_seen(&log, 900), log.cleaned_up_to().unwrap().get(), "low high watermark");
    log.set_high_watermark(log.log_end_offset());
    clean(&mut worker, now_at(100_000));
    assert!(log.cleaned_up_to().unwrap().get() > 40);
    history.check(&all_seen(&log, 900), log.cleaned_up_to().unwrap().get(), "all");
}

#[test]
fn tombstones_go_when_their_time_has_come() {
    let node = filed(LogConfig { delete_retention_ms: 1_000, ..config() });
    let log = node.log();
    let put = |key: &[u8], value: Option<&[u8]>| {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(TimestampMs(BASE_MS), Some(key), value, &[]).unwrap();
        builder.append(TimestampMs(BASE_MS + 5), Some(b"with it"), Some(b"v"), &[]).unwrap();
        log.append(now_at(0), builder.finish().unwrap(), AppendOrigin::Client, LeaderEpoch(0)).unwrap();
    };
    let fill = |count: u8| {
        for at in 0..count {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.append(TimestampMs(BASE_MS), Some(&[b'f', at % 3]), Some(&[0; 400]), &[]).unwrap();
            log.append(now_at(0), builder.finish().unwrap(), AppendOrigin::Client, LeaderEpoch(0)).unwrap();
        }
        log.set_high_watermark(log.log_end_offset());
    };
    let has = |key: &[u8]| -> Vec<Option<Vec<u8>>> {
        all_seen(&log, 4_000)
            .into_iter()
            .filter(|(_, record)| record.key.as_deref() == Some(key))
            .map(|(_, record)| record.value)
            .collect()
    };
    let mut worker = worker(&node.manager, small_steps());
    put(b"gone", Some(b"value"));
    put(b"gone", None);
    fill(20);
    clean(&mut worker, now_at(10_000));
    // The value goes at once, the tombstone stays and says until when.
    assert_eq!(has(b"gone"), [None]);
    let horizon = all_batches(&log, 4_000).iter().find_map(|batch| {
        let header = chronik_protocol::records::BatchHeader::parse(batch).unwrap();
        header.attributes.has_delete_horizon().then_some(header.base_timestamp)
    });
    assert_eq!(horizon, Some(TimestampMs(BASE_MS + 11_000)));
    assert!(
        all_seen(&log, 4_000).iter().any(|(offset, record)| *offset == 3 && record.timestamp == BASE_MS + 5)
    );
    fill(20);
    clean(&mut worker, now_at(10_999));
    assert_eq!(has(b"gone"), [None]);
    fill(20);
    clean(&mut worker, now_at(11_000));
    assert_eq!(has(b"gone"), []);
    assert_eq!(has(b"with it"), [Some(b"v".to_vec())]);
}

#[test]
fn memory_is_bounded_and_many_keys_take_many_passes() {
    let node = filed(LogConfig { segment_bytes: 20_000, ..config() });
    let log = node.log();
    let mut history = History::default();
    let mut rng = Rng(5);
    let shape = Shape { key_count: 2_000, value_bytes_max: 20, records_max: 20, ..SHAPE };
    for at in 0..300 {
        history.append(&log, &mut rng, shape, now_at(at), LeaderEpoch(0)).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
    let dedupe_buffer_bytes = 24 * 300;
    let mut worker = worker(&node.manager, CleanerOptions { dedupe_buffer_bytes, ..small_steps() });
    for _ in 0..1_000_000 {
        let next = worker.step(now_at(1_000));
        assert!(worker.map_bytes() <= dedupe_buffer_bytes);
        if next > now_at(1_000).monotonic && !worker.is_busy() {
            break;
        }
    }
    let cleaned_up_to = log.cleaned_up_to().unwrap().get();
    assert!(node.manager.stats().clean_count > 3);
    history.check(&all_seen(&log, 4_000), cleaned_up_to, "after all passes");
    assert!(cleaned_up_to > 2_000, "{cleaned_up_to}");
}

#[test]
fn a_broken_batch_stops_its_own_log_only() {
    let node = filed(config());
    let broken = node.log();
    let other_name = chronik_types::TopicPartition::new("whole", 0);
    let other = node
        .manager
        .get_or_create(&other_name, chronik_types::TopicId(99), std::sync::Arc::clone(&node.config))
        .unwrap();
    let mut rng = Rng(5);
    let mut history = History::default();
    for log in [&broken, &other] {
        history = History::default();
        for at in 0..80 {
            history.append(log, &mut rng, SHAPE, now_at(at), LeaderEpoch(0)).unwrap();
        }
        log.set_high_watermark(log.log_end_offset());
    }
    node.disk.corrupt(&partition_dir().join("00000000000000000000.log"), 500, 0x10).unwrap();
    let cleaner = chronik_log::Cleaner::new(std::sync::Arc::clone(&node.manager), small_steps());
    let mut worker = cleaner.worker();
    clean(&mut worker, now_at(1_000));
    assert_eq!(cleaner.uncleanable(), [partition()]);
    assert_eq!((broken.cleaned_up_to(), node.manager.stats().uncleanable_count), (None, 1));
    history.check(&all_seen(&other, 900), other.cleaned_up_to().unwrap().get(), "the other");
    assert!(node.disk.read_dir(&partition_dir()).unwrap().iter().all(|e| !e.name.ends_with(".cleaned")));
    // A log of that name which is made anew is cleaned again.
    node.manager.delete(now_at(2_000), &partition()).unwrap();
    clean(&mut worker, now_at(3_000));
    assert_eq!(cleaner.uncleanable(), []);
}
