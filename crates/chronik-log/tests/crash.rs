//! A process that dies, and a machine that stops, at every operation of the disk.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::collections::BTreeMap;

use chronik_disk::{Crash, Disk, SimDisk};
use chronik_log::{AppendOrigin, LogConfig, ManagerOptions, UNKNOWN_OFFSET};
use chronik_types::{LeaderEpoch, Offset};
use common::*;

fn config() -> LogConfig {
    LogConfig { segment_bytes: 700, index_interval_bytes: 100, ..LogConfig::default() }
}

/// What a client was told.
#[derive(Default)]
struct Told {
    /// Acknowledged records by offset.
    acknowledged: BTreeMap<i64, Vec<u8>>,
    /// Records below this were acknowledged as synced.
    synced: i64,
    /// The start that `DeleteRecords` answered.
    start: i64,
    /// A cut that was begun; records from here on may be gone.
    cut: Option<i64>,
}

/// Appends, rolls, syncs, checkpoints, deletes and cuts until something fails.
fn work(node: &Node, told: &mut Told) -> Option<()> {
    let log = node.manager.get_or_create(&partition(), TOPIC_ID, std::sync::Arc::clone(&node.config)).ok()?;
    let mut now_ms = 0;
    for round in 0..24_i32 {
        now_ms += 2_000;
        let now = now_at(now_ms);
        let value = format!("value {round}");
        let batch = idempotent(7, 0, round * 2, &[value.as_bytes(), b"second"]);
        let epoch = LeaderEpoch(round / 10);
        let appended = log.append(now, batch, AppendOrigin::Client, epoch).ok()?;
        let first = appended.first_offset.get();
        told.acknowledged.insert(first, value.into_bytes());
        told.acknowledged.insert(first + 1, b"second".to_vec());
        log.set_high_watermark(log.log_end_offset());
        match round {
            5 | 11 | 20 => told.synced = log.sync().ok()?.get(),
            8 => {
                // Both outcomes are right until it has answered.
                told.start = told.start.max(0);
                told.start = log.delete_records(Offset(5)).ok()?.get();
            }
            15 => {
                let cut = log.log_end_offset().get() - 4;
                told.cut = Some(cut);
                told.synced = told.synced.min(cut);
                log.truncate_to(now, Offset(cut)).ok()?;
                told.acknowledged.retain(|&offset, _| offset < cut);
                told.cut = None;
                return_sequences(&log, now, told)?;
            }
            _ => {}
        }
        node.manager.maintain(now);
        node.manager.flush_queue().sync_batch();
    }
    node.manager.shutdown(now_at(now_ms)).ok()?;
    told.synced = log.log_end_offset().get();
    Some(())
}

/// The cut took the producer's last batches with it; it sends them again.
fn return_sequences(log: &chronik_log::Log, now: chronik_types::Now, told: &mut Told) -> Option<()> {
    for round in 14..16_i32 {
        let value = format!("again {round}");
        let batch = idempotent(7, 0, round * 2, &[value.as_bytes(), b"second"]);
        let appended = log.append(now, batch, AppendOrigin::Client, LeaderEpoch(1)).ok()?;
        let first = appended.first_offset.get();
        told.acknowledged.insert(first, value.into_bytes());
        told.acknowledged.insert(first + 1, b"second".to_vec());
    }
    Some(())
}

fn fresh(disk: &SimDisk) -> Node {
    let options = ManagerOptions { checkpoint_interval_ms: 5_000, ..options("boot-1") };
    Node::with_options(disk.clone(), config(), options)
}

fn operations_of_the_work() -> u64 {
    let disk = SimDisk::new();
    let node = fresh(&disk);
    let mut told = Told::default();
    work(&node, &mut told).expect("without faults the work is done");
    assert!(node.disk.operation_count() > 150);
    disk.operation_count()
}

/// The log after the restart holds what was promised, and goes on.
fn check(node: &Node, told: &Told, promised_below: i64, at: &str) {
    let log = node.log();
    let (start, end) = (log.log_start_offset().get(), log.log_end_offset().get());
    assert!(told.start <= start && start <= 48, "{at}: start {start}");
    let promised_below = told.cut.map_or(promised_below, |cut| promised_below.min(cut));
    let last = told.acknowledged.range(..promised_below).next_back().map_or(0, |(offset, _)| offset + 1);
    assert!(last <= end, "{at}: the log ends at {end} and {last} was promised");
    let found = all_records(&log, start, 300);
    assert_eq!(i64::try_from(found.len()).unwrap(), end - start, "{at}: a gap");
    for offset in told.acknowledged.range(start..promised_below.max(start)).map(|(offset, _)| offset) {
        assert!(found.iter().any(|(at, _)| at == offset), "{at}: offset {offset} is gone");
    }
    for (offset, value) in &found {
        if *offset < promised_below
            && let Some(expected) = told.acknowledged.get(offset)
        {
            assert_eq!(value, expected, "{at}: offset {offset}");
        }
    }
    let epoch = log.latest_epoch().unwrap_or(LeaderEpoch(0));
    let after = batch(BASE_MS, &[b"after"]);
    let appended = log.append(now_at(0), after, AppendOrigin::Client, epoch).unwrap();
    assert_eq!(appended.first_offset.get(), end, "{at}");
}

#[test]
fn a_process_that_dies_anywhere_loses_nothing_that_was_acknowledged() {
    let operations = operations_of_the_work();
    for stop in 0..operations {
        let disk = SimDisk::new();
        let mut told = Told::default();
        disk.stop_after(stop);
        let as_disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(disk.clone());
        let config_arc = std::sync::Arc::new(config());
        // The start itself may be what dies.
        if let Ok(manager) = open_manager(&as_disk, &dir(), options("boot-1"), &config_arc, now_at(0)) {
            let node = Node { disk: disk.clone(), manager, config: config_arc };
            work(&node, &mut told);
        }
        disk.crash(Crash::Process);
        let node = fresh(&disk);
        check(&node, &told, i64::MAX, &format!("stopped after {stop} operations"));
        // Or brokers that are killed would have to catch up as if their disks had been lost (KIP-966).
        assert!(!node.manager.has_lost_records(), "stopped after {stop} operations");
        // A second restart finds the same.
        let end = node.log().log_end_offset();
        let node = node.restart(Crash::Process, "boot-1");
        assert!(!node.manager.has_lost_records(), "stopped after {stop} operations, started twice");
        assert_eq!(node.log().log_end_offset(), end, "stopped after {stop} operations, started twice");
    }
}

#[test]
fn a_machine_that_stops_anywhere_loses_nothing_that_was_synced() {
    let operations = operations_of_the_work();
    for stop in 0..operations {
        let disk = SimDisk::new();
        let mut told = Told::default();
        disk.stop_after(stop);
        let as_disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(disk.clone());
        let config_arc = std::sync::Arc::new(config());
        if let Ok(manager) = open_manager(&as_disk, &dir(), options("boot-1"), &config_arc, now_at(0)) {
            let node = Node { disk: disk.clone(), manager, config: config_arc };
            work(&node, &mut told);
        }
        disk.crash(Crash::PowerLoss { seed: stop });
        // `DeleteRecords` is not synced; its records may come back after a power loss, as in Kafka.
        told.start = 0;
        let synced = told.synced;
        let node = Node::on(disk, config(), "boot-2");
        check(&node, &told, synced, &format!("power lost after {stop} operations"));
    }
}

#[test]
fn a_producers_last_five_batches_are_known_after_the_process_died() {
    for checkpoint in [false, true] {
        let node = Node::new(LogConfig::default());
        let log = node.log();
        for sequence in 0..8 {
            append(&log, idempotent(1, 0, sequence, &[b"x"])).unwrap();
        }
        if checkpoint {
            node.manager.maintain(now_at(10_000));
        }
        drop(log);
        let node = node.restart(Crash::Process, "boot-1");
        let log = node.log();
        for sequence in 3..8 {
            let again = append(&log, idempotent(1, 0, sequence, &[b"x"])).unwrap();
            assert!(again.is_duplicate, "sequence {sequence}");
            assert_eq!(again.first_offset, Offset(i64::from(sequence)));
        }
        // What is read from a snapshot is known from the batches in it on, and from the log itself all of it is (ADR 12).
        let older = append(&log, idempotent(1, 0, 2, &[b"x"]));
        assert_eq!(older.map(|older| older.first_offset).ok(), (!checkpoint).then_some(UNKNOWN_OFFSET));
        assert!(!append(&log, idempotent(1, 0, 8, &[b"x"])).unwrap().is_duplicate);
    }
}

/// The last sequence of the one producer that is known, if it is known.
fn last_sequence(node: &Node) -> Option<i32> {
    node.log().active_producers().first().map(|producer| producer.last_sequence)
}

/// A producer's records are deleted with their segments after the last checkpoint, and what is left of the log is of
/// others. What is known of the producer from before that is out of date: its next record would be refused.
#[test]
fn the_producers_of_before_deleted_records_are_not_those_of_what_is_left() {
    let config = LogConfig { segment_bytes: 100, file_delete_delay_ms: 0, ..LogConfig::default() };
    let snapshot = |offset: i64| partition_dir().join(format!("{offset:020}.snapshot"));
    let deleted = |is_synced: bool| {
        let node = Node::new(config.clone());
        append(&node.log(), idempotent(1, 0, 0, &[b"v"])).unwrap();
        node.manager.maintain(now_at(10_000));
        for sequence in 1..10 {
            append(&node.log(), idempotent(1, 0, sequence, &[b"v"])).unwrap();
        }
        let old_snapshot = node.disk.read_file(&snapshot(5)).unwrap();
        for _ in 10..16 {
            append(&node.log(), batch(BASE_MS, &[b"v"])).unwrap();
        }
        node.log().set_high_watermark(Offset(16));
        node.log().delete_records(Offset(12)).unwrap();
        node.manager.maintain(now_at(10_001));
        assert_eq!(node.log().segment_count(), 4);
        if is_synced {
            node.log().sync().unwrap();
        }
        (node, old_snapshot)
    };
    let check = |node: &Node, known: Option<i32>, at: &str| {
        assert_eq!(last_sequence(node), known, "{at}");
        assert!(!append(&node.log(), idempotent(1, 0, 10, &[b"v"])).unwrap().is_duplicate, "{at}");
    };

    // The segment that the log begins with has its snapshot.
    check(&deleted(false).0.restart(Crash::Process, "boot-1"), Some(9), "the process died");
    for seed in 0..40 {
        let node = deleted(true).0.restart(Crash::PowerLoss { seed }, "boot-2");
        check(&node, Some(9), &format!("power lost, seed {seed}"));
    }
    // Without it nothing is known, and any sequence is taken. A power loss may bring one back that went with its segment.
    for is_old_one_back in [false, true] {
        let (node, old_snapshot) = deleted(true);
        for offset in 12..16 {
            node.disk.remove_file(&snapshot(offset)).unwrap();
        }
        if is_old_one_back {
            node.disk.replace_file(&snapshot(5), &old_snapshot).unwrap();
        }
        let node = node.restart(Crash::Process, "boot-1");
        check(&node, None, &format!("no snapshot, the old one is back: {is_old_one_back}"));
    }
}

/// The checkpoint that knew of the new start is lost with the power, and an older one says that the log begins at 0.
#[test]
fn what_was_deleted_from_the_start_is_not_taken_for_lost() {
    let config = LogConfig { segment_bytes: 300, file_delete_delay_ms: 0, ..LogConfig::default() };
    let mut deleted_count = 0;
    // The power goes after so many operations of the deletion and the checkpoint behind it.
    for stop in (0..60).step_by(4) {
        for seed in 0..100 {
            let node = Node::new(config.clone());
            append(&node.log(), batch(BASE_MS, &[b"first"])).unwrap();
            node.manager.maintain(now_at(10_000));
            for _ in 0..20 {
                append(&node.log(), batch(BASE_MS, &[&[b'v'; 90]])).unwrap();
            }
            assert_eq!(node.log().sync().unwrap(), Offset(21));
            node.log().set_high_watermark(Offset(21));
            node.log().delete_records(Offset(10)).unwrap();
            let segment_count = node.log().segment_count();
            node.disk.stop_after(stop);
            node.manager.maintain(now_at(20_000));
            deleted_count += segment_count - node.log().segment_count();
            let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
            let log = node.log();
            let at = format!("stopped after {stop}, seed {seed}");
            assert!(log.log_start_offset() <= Offset(10), "{at}: {}", log.log_start_offset());
            assert_eq!(all_records(&log, 10, 100).len(), 11, "{at}");
        }
    }
    assert!(deleted_count > 1_000);
}

/// A process that ended before a sync was due leaves records in the page cache, which its successor acknowledges.
#[test]
fn what_is_found_after_a_restart_is_synced_where_records_are_synced_before_they_count() {
    for (flush_messages, synced) in [(Some(1), 3), (Some(1_000), 3), (None, 0)] {
        let node = Node::new(LogConfig { flush_messages, ..LogConfig::default() });
        for _ in 0..3 {
            append(&node.log(), batch(BASE_MS, &[b"v"])).unwrap();
        }
        let node = node.restart(Crash::Process, "boot-1");
        assert_eq!(node.log().recovery_point(), Offset(synced), "{flush_messages:?}");
        let node = node.restart(Crash::PowerLoss { seed: 3 }, "boot-2");
        assert!(Offset(synced) <= node.log().log_end_offset());
    }
}

/// Sectors in the middle of a segment that was closed and not synced yet may be gone while its end is there.
#[test]
fn closed_segments_are_read_where_no_checkpoint_vouches_for_them() {
    let config = LogConfig { segment_bytes: 4_000, index_interval_bytes: 100, ..LogConfig::default() };
    for seed in 0..400 {
        let node = Node::new(config.clone());
        for at in 0..60 {
            append(&node.log(), batch(BASE_MS + at, &[&[b'v'; 90]])).unwrap();
        }
        assert!(node.log().segment_count() > 2);
        node.disk.sync_dir(&dir()).unwrap();
        node.disk.sync_dir(&partition_dir()).unwrap();
        let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
        let log = node.log();
        let end = log.log_end_offset().get();
        assert_eq!(i64::try_from(all_records(&log, 0, 1_000).len()).unwrap(), end, "seed {seed}");
        // What the recovery has removed may be half there after another power loss.
        drop(log);
        let node = node.restart(Crash::PowerLoss { seed: !seed }, "boot-3");
        let log = node.log();
        let end = log.log_end_offset().get();
        assert_eq!(log.log_start_offset(), Offset(0), "seed {seed}");
        assert_eq!(i64::try_from(all_records(&log, 0, 1_000).len()).unwrap(), end, "seed {seed}, again");
    }
}

/// The older of two checkpoints speaks of what was cut off since; the newer one is not synced and may be lost with the
/// power, and the journal that told of the cut went when it was written.
#[test]
fn what_was_cut_is_not_believed_by_an_older_checkpoint() {
    let (long, short) = ([b'l'; 900], [b's'; 90]);
    // What is appended after the cut fills the segment, so that it is closed and believed by its size.
    let config = LogConfig { segment_bytes: 2_500, ..LogConfig::default() };
    for dies_after_the_cut in [false, true] {
        for seed in 0..40 {
            let node = Node::new(config.clone());
            append(&node.log(), batch(BASE_MS, &[b"stays"])).unwrap();
            append(&node.log(), batch(BASE_MS, &[&long, &long])).unwrap();
            node.log().sync().unwrap();
            node.manager.maintain(now_at(10_000));
            node.log().truncate_to(now_at(10_000), Offset(1)).unwrap();
            let node = if dies_after_the_cut { node.restart(Crash::Process, "boot-1") } else { node };
            append(&node.log(), batch(BASE_MS, &[&short])).unwrap();
            node.manager.maintain(now_at(20_000));
            for _ in 0..20 {
                append(&node.log(), batch(BASE_MS, &[&short])).unwrap();
            }
            assert_eq!(node.log().sync().unwrap(), Offset(22));
            let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
            let found = all_records(&node.log(), 0, 100);
            assert_eq!(found.len(), 22, "died after the cut: {dies_after_the_cut}, seed {seed}");
        }
    }
}

/// Replication point 2.
#[test]
fn an_epoch_is_in_its_file_before_a_record_of_it_is_in_the_log() {
    for follows in [false, true] {
        for stop in 0.. {
            let node = fresh(&SimDisk::new());
            let log = node.log();
            append_values(&log, 3);
            let length = || node.disk.read_file(&segment(0, "log")).unwrap().len();
            let before = length();
            node.disk.stop_after(stop);
            let next = idempotent(5, 0, 3, &[b"of the next leader"]);
            let epoch = LeaderEpoch(1);
            let is_appended = if follows {
                log.append_as_follower(now_at(0), copied(next, 3, 1), epoch).is_ok()
            } else {
                log.append(now_at(0), next, AppendOrigin::Client, epoch).is_ok()
            };
            node.disk.crash(Crash::Process);
            let epochs = node.disk.read_file(&file("leader-epoch-checkpoint")).unwrap();
            let is_noted = epochs.ends_with(b"\n1 3\n");
            assert!(is_noted || length() == before, "follows: {follows}, stopped after {stop}");
            if is_appended {
                assert!(before < length() && 1 < stop, "it is stopped in between too");
                break;
            }
        }
    }
}

/// A closed segment is believed with its indexes after a loss of power, also where all of it was synced before it was closed.
#[test]
fn the_indexes_of_a_segment_that_was_synced_before_it_was_closed_outlast_the_power() {
    for seed in 0..20 {
        let node = fresh(&SimDisk::new());
        let log = node.log();
        let mut end = 0;
        while !node.disk.exists(&segment(0, "index")).unwrap() {
            end += 1;
            append_values(&log, end);
            log.sync().unwrap();
        }
        let indexes =
            |disk: &SimDisk| ["index", "timeindex"].map(|it| disk.read_file(&segment(0, it)).unwrap());
        let before = indexes(&node.disk);
        assert!(before.iter().all(|bytes| !bytes.is_empty()));
        node.disk.crash(Crash::PowerLoss { seed });
        assert_eq!(indexes(&node.disk), before, "seed {seed}");
    }
}
