//! A process that dies, and a machine that stops, at every operation of the disk while logs are cleaned.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::sync::Arc;

use chronik_disk::{Crash, Disk, SimDisk};
use chronik_log::{CleanupPolicy, LogConfig, ManagerOptions};
use chronik_types::{LeaderEpoch, Offset};
use common::compaction::*;
use common::*;

const SHAPE: Shape = Shape {
    key_count: 12,
    producer_count: 3,
    records_max: 5,
    value_bytes_max: 50,
    without_key: false,
    codec_count: 2,
};

/// The first offsets are 0, and the times of the rounds are far apart, so that tombstones of one round are due in the
/// next.
const ROUND_MS: u64 = 100_000;
const ROUNDS: u64 = 2;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 900,
        index_interval_bytes: 150,
        cleanup_policy: CleanupPolicy::COMPACT,
        min_cleanable_dirty_ratio: 0.0,
        retention_ms: None,
        delete_retention_ms: 1_000,
        message_timestamp_after_max_ms: None,
        ..LogConfig::default()
    }
}

/// What was done before everything stopped.
#[derive(Default)]
struct Done {
    history: History,
    /// Appends below this were told to be durable.
    synced: i64,
}

fn open(disk: &SimDisk, boot_id: &str, now_ms: u64) -> Option<Node> {
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = Arc::new(config());
    let options = ManagerOptions { tail_ring_bytes_max: 0, ..options(boot_id) };
    let manager = open_manager(&as_disk, &dir(), options, &config, now_at(now_ms)).ok()?;
    Some(Node { disk: disk.clone(), manager, config })
}

/// Appends, cleans, deletes old files and writes checkpoints until something fails. `checkpoints` says whether between
/// the rounds a checkpoint is written, or only one that is not synced, or none.
fn work(node: &Node, done: &mut Done, rounds: std::ops::Range<u64>) -> Option<()> {
    let log = node.manager.get_or_create(&partition(), TOPIC_ID, Arc::clone(&node.config)).ok()?;
    for round in rounds {
        let mut rng = Rng(round);
        for at in 0..16 {
            let now = now_at(round * ROUND_MS + at);
            let epoch = LeaderEpoch(i32::try_from(round).unwrap());
            done.history.append(&log, &mut rng, SHAPE, now, epoch)?;
        }
        log.set_high_watermark(log.log_end_offset());
        done.synced = log.sync().ok()?.get();
        // Not before each round, so that the restart finds checkpoints of different ages.
        if round != 0 {
            node.manager.maintain(now_at(round * ROUND_MS + 6_000));
        }
        let options = chronik_log::CleanerOptions {
            dedupe_buffer_bytes: 24 * 9,
            io_buffer_bytes: 600,
            ..small_steps()
        };
        let mut worker = worker(&node.manager, options);
        let now = now_at(round * ROUND_MS + 10_000);
        for step in 0..100_000_u64 {
            let next = worker.step(now);
            // The disk has stopped.
            node.disk.exists(&dir()).ok()?;
            if next > now.monotonic && !worker.is_busy() {
                break;
            }
            if step % 7 == 6 {
                // Checkpoints are written between any two steps.
                node.manager.maintain(now_at(round * ROUND_MS + 10_000 + step * 1_000));
            }
        }
        node.disk.exists(&dir()).ok()?;
    }
    Some(())
}

fn check(node: &Node, done: &Done, promised_below: i64, at: &str) {
    let log = node.log();
    let end = log.log_end_offset().get();
    assert!(promised_below <= end, "{at}: the log ends at {end}");
    // What was not promised may be gone, from the end.
    let mut history = done.history.clone();
    history.records.retain(|&offset, _| offset < end);
    let found = all_seen(&log, 700);
    history.check_true(&found, at);
    let cleaned_up_to = log.cleaned_up_to().map_or(0, Offset::get);
    // What the log says to be clean is.
    history.check_clean_below(&found, cleaned_up_to, at);
}

/// A restart leaves no file of a clean that did not come to its end.
fn check_files(node: &Node, at: &str) {
    let leftovers: Vec<String> = node
        .disk
        .read_dir(&partition_dir())
        .unwrap_or_default()
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| [".swap", ".cleaned", ".deleted"].iter().any(|suffix| name.ends_with(suffix)))
        .collect();
    assert_eq!(leftovers, Vec::<String>::new(), "{at}");
}

/// What follows goes on as if nothing had happened.
fn go_on(node: &Node, done: &mut Done, at: &str) {
    let end = node.log().log_end_offset().get();
    done.history.records.retain(|&offset, _| offset < end);
    // The producers begin anew, as whoever waits for an answer does that never comes.
    let known: Vec<_> = node.log().active_producers();
    done.history.sequences = known.iter().map(|p| (p.producer_id.get(), p.last_sequence + 1)).collect();
    work(node, done, ROUNDS..ROUNDS + 1).unwrap_or_else(|| panic!("{at}: the log does not go on"));
    check(node, done, node.log().log_end_offset().get(), &format!("{at}, then went on"));
    assert!(node.log().cleaned_up_to().is_some(), "{at}: no clean after the restart");
}

fn operations() -> u64 {
    let disk = SimDisk::new();
    let node = open(&disk, "boot-1", 0).unwrap();
    let mut done = Done::default();
    work(&node, &mut done, 0..ROUNDS).expect("without faults the work is done");
    check(&node, &done, done.synced, "without faults");
    assert!(node.manager.stats().clean_count >= ROUNDS, "{:?}", node.manager.stats());
    disk.operation_count()
}

fn run_until(stop: u64) -> (SimDisk, Done) {
    let disk = SimDisk::new();
    let mut done = Done::default();
    disk.stop_after(stop);
    if let Some(node) = open(&disk, "boot-1", 0) {
        work(&node, &mut done, 0..ROUNDS);
    }
    (disk, done)
}

#[test]
fn a_process_that_dies_anywhere_in_a_clean_leaves_what_must_be_readable() {
    let operations = operations();
    for stop in 0..operations {
        let (disk, mut done) = run_until(stop);
        let at = format!("stopped after {stop} operations");
        disk.crash(Crash::Process);
        let node = open(&disk, "boot-1", ROUNDS * ROUND_MS).unwrap();
        assert!(!node.manager.has_lost_records(), "{at}");
        check(&node, &done, done.history.acknowledged, &at);
        check_files(&node, &at);
        let (found, producers) = (all_batches(&node.log(), 700), node.log().active_producers());
        let node = restart(node, Crash::Process, "boot-1");
        assert_eq!(all_batches(&node.log(), 700), found, "{at}, started twice");
        assert_eq!(node.log().active_producers(), producers, "{at}, started twice");
        if stop % 4 == 0 {
            go_on(&node, &mut done, &at);
        }
    }
}

#[test]
fn a_machine_that_stops_anywhere_in_a_clean_leaves_what_must_be_readable() {
    let operations = operations();
    for stop in 0..operations {
        for seed in 0..2 {
            let (disk, mut done) = run_until(stop);
            let at = format!("power lost after {stop} operations, seed {seed}");
            disk.crash(Crash::PowerLoss { seed: stop * 2 + seed });
            if !disk.exists(&dir().join("chronik-checkpoint")).unwrap() {
                // Before the first checkpoint a hole in what was never synced is not told from one that compaction left.
                continue;
            }
            let node = open(&disk, "boot-2", ROUNDS * ROUND_MS).unwrap();
            check(&node, &done, done.synced, &at);
            check_files(&node, &at);
            let found = all_batches(&node.log(), 700);
            let node = restart(node, Crash::PowerLoss { seed: stop }, "boot-3");
            assert_eq!(all_batches(&node.log(), 700), found, "{at}, started twice");
            if (stop + seed) % 8 == 0 {
                go_on(&node, &mut done, &at);
            }
        }
    }
}
