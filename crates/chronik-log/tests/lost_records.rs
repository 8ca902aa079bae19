//! Recoveries after which nothing may be missing that was acknowledged: what a log's start, its leader epochs and the places
//! where it lacks records are taken from when one of their sources is damaged, older than the log, or gone.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::path::PathBuf;

use chronik_disk::{Crash, Disk};
use chronik_log::{AppendOrigin, Log, LogConfig};
use chronik_types::{LeaderEpoch, Offset};
use common::*;

/// After this a retention pass is due, whatever ran before.
const RETENTION_MS: u64 = 700_000;

fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 1000, index_interval_bytes: 150, ..LogConfig::default() }
}

fn file(name: &str) -> PathBuf {
    partition_dir().join(name)
}

/// Appends records under a leader epoch until the log ends at `end`.
fn append_up_to(log: &Log, end: i64, epoch: i32) {
    while log.log_end_offset().get() < end {
        let at = i32::try_from(log.log_end_offset().get()).unwrap();
        let batch = idempotent(5, 0, at, &[format!("value {at}").as_bytes()]);
        log.append(now_at(0), batch, AppendOrigin::Client, LeaderEpoch(epoch)).unwrap();
    }
}

const EPOCHS: &str = "leader-epoch-checkpoint";

/// A synced log of some segments that a checkpoint knows, of epoch 3; what it had of epoch 4 was cut off since, which wrote
/// the file of the epochs anew. Gives where it ends.
fn cut_since_the_checkpoint() -> (Node, i64) {
    let node = Node::new(small_segments());
    let log = node.log();
    while log.segment_count() < 4 {
        append_up_to(&log, log.log_end_offset().get() + 1, 3);
    }
    let end = log.log_end_offset().get() + 2;
    append_up_to(&log, end, 3);
    append_up_to(&log, end + 2, 4);
    log.set_high_watermark(Offset(end));
    log.sync().unwrap();
    node.manager.maintain(now_at(10_000));
    assert!(log.truncate_to(now_at(11_000), Offset(end)).unwrap());
    assert_eq!(node.disk.read_file(&file(EPOCHS)).unwrap(), b"0\n1\n3 0\n");
    (node, end)
}

/// Nothing of a log from 0 to `end` is missing, also once retention has had its turn.
fn check_whole(node: &Node, end: i64, what: &str) {
    for life in ["before", "after"] {
        let log = node.log();
        let range = (log.log_start_offset(), log.log_end_offset(), log.hole());
        assert_eq!(range, (Offset(0), Offset(end), None), "{what}, {life} retention");
        let found = all_records(&log, 0, 500).into_iter().map(|(offset, _)| offset);
        assert!(found.eq(0..end), "{what}, {life} retention");
        log.set_high_watermark(Offset(end));
        node.manager.maintain(now_at(RETENTION_MS));
    }
}

/// The file of the leader epochs is not synced when the log is cut, and has no checksum. What a loss of power leaves of it
/// says nothing of where the log begins.
#[test]
fn the_records_before_a_cut_stay_whatever_is_left_of_the_file_of_the_epochs() {
    let damages: [(&str, Option<&[u8]>); 6] = [
        ("gone", None),
        ("empty", Some(b"")),
        ("torn", Some(b"0\n1\n3 ")),
        ("not to be read", Some(b"\xff\xff\n")),
        ("another start", Some(b"0\n1\n3 20\n")),
        ("from before the cut", Some(b"0\n2\n3 0\n4 42\n")),
    ];
    for (what, contents) in damages {
        for is_killed_before in [false, true] {
            let what = format!("{what}, killed before {is_killed_before}");
            let (mut node, end) = cut_since_the_checkpoint();
            match contents {
                Some(contents) => node.disk.replace_file(&file(EPOCHS), contents).unwrap(),
                None => node.disk.remove_file(&file(EPOCHS)).unwrap(),
            }
            node.disk.sync_dir(&partition_dir()).unwrap();
            if is_killed_before {
                node = node.restart(Crash::Process, "boot-1");
                node.log().sync().unwrap();
                node.manager.maintain(now_at(20_000));
            }
            let node = node.restart(Crash::PowerLoss { seed: 1 }, "boot-2");
            check_whole(&node, end, &what);
            let log = node.log();
            assert_eq!(log.epoch_before(Offset(1)), Some(LeaderEpoch(3)), "{what}");
            assert_eq!(log.end_offset_for_epoch(LeaderEpoch(3)).unwrap().end_offset, Offset(end), "{what}");
            assert_eq!(log.latest_epoch(), Some(LeaderEpoch(3)), "{what}");
            if !is_killed_before {
                assert_eq!(node.disk.read_file(&file(EPOCHS)).unwrap(), b"0\n1\n3 0\n", "{what}");
            }
        }
    }
}

/// Earlier versions could write a list of epochs to the file and the checkpoint that lacked its beginning.
#[test]
fn epochs_that_a_list_lacks_are_read_from_the_batches() {
    for is_in_checkpoint in [false, true] {
        let node = Node::new(small_segments());
        let log = node.log();
        for (epoch, end) in [(0, 15), (2, 30), (3, 40)] {
            append_up_to(&log, end, epoch);
        }
        log.set_high_watermark(Offset(40));
        log.sync().unwrap();
        node.manager.maintain(now_at(10_000));
        drop(log);
        let disk = node.disk.clone();
        drop(node);
        disk.crash(Crash::Process);
        disk.replace_file(&file(EPOCHS), b"0\n1\n3 30\n").unwrap();
        let checkpoint = dir().join("chronik-checkpoint");
        if is_in_checkpoint {
            let contents = disk.read_file(&checkpoint).unwrap();
            disk.replace_file(&checkpoint, &with_epochs(&contents, &[(0, 0), (2, 15), (3, 30)], &[(3, 30)]))
                .unwrap();
        } else {
            disk.remove_file(&checkpoint).unwrap();
        }
        for boot in ["boot-1", "boot-2"] {
            let node = Node::on(disk.clone(), small_segments(), boot);
            check_whole(&node, 40, &format!("{is_in_checkpoint}, {boot}"));
            for (epoch, end) in [(0, 15), (1, 15), (2, 30), (3, 40)] {
                let found = node.log().end_offset_for_epoch(LeaderEpoch(epoch)).unwrap();
                assert_eq!(found.end_offset, Offset(end), "{is_in_checkpoint}, {boot}, epoch {epoch}");
            }
            drop(node);
            disk.crash(Crash::Process);
        }
    }
}

/// A checkpoint with other leader epochs in it.
fn with_epochs(checkpoint: &[u8], from: &[(i32, i64)], to: &[(i32, i64)]) -> Vec<u8> {
    let encode = |epochs: &[(i32, i64)]| {
        let mut bytes = u32::try_from(epochs.len()).unwrap().to_be_bytes().to_vec();
        for (epoch, start) in epochs {
            bytes.extend(epoch.to_be_bytes());
            bytes.extend(start.to_be_bytes());
        }
        bytes
    };
    let (from, to) = (encode(from), encode(to));
    let at = checkpoint.windows(from.len()).position(|window| window == from).expect("it is there");
    let mut changed = [&checkpoint[..at], &to, &checkpoint[at + from.len()..checkpoint.len() - 4]].concat();
    changed.extend(crc32c::crc32c(&changed).to_be_bytes());
    changed
}
