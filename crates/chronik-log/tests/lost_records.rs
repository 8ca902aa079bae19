//! Recoveries after which nothing may be missing that was acknowledged: what a log's start, its leader epochs and the places
//! where it lacks records are taken from when one of their sources is damaged, older than the log, or gone.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::sync::Arc;

use chronik_disk::{Crash, Disk, Fault, FaultRule, OpenMode, Operation, SimDisk};
use chronik_log::{AppendOrigin, CleanupPolicy, Log, LogConfig};
use chronik_types::{LeaderEpoch, Offset, TopicId, TopicPartition};
use common::*;

/// After this a retention pass is due, whatever ran before.
const RETENTION_MS: u64 = 700_000;

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

/// Replication point 2, LOG-3. A replica that led without getting a record forgets that epoch when it follows a leader of
/// another history. The checkpoint was made before.
#[test]
fn an_epoch_without_records_that_a_checkpoint_saw_takes_no_records() {
    let crashes = (0..50).map(|seed| Crash::PowerLoss { seed });
    for crash in crashes.chain([Crash::Process]) {
        for is_cut in [false, true] {
            let node = Node::new(LogConfig::default());
            let log = node.log();
            let follow_up_to = |end: i64| {
                while log.log_end_offset().get() < end {
                    let records = copied(batch(BASE_MS, &[b"value"]), log.log_end_offset().get(), 0);
                    log.append_as_follower(now_at(0), records, LeaderEpoch(2)).unwrap();
                }
            };
            follow_up_to(10);
            log.sync().unwrap();
            log.begin_epoch(LeaderEpoch(1)).unwrap();
            node.manager.maintain(now_at(60_000));
            if is_cut {
                assert!(!log.truncate_to(now_at(61_000), Offset(10)).unwrap());
            }
            follow_up_to(20);
            log.sync().unwrap();
            let what = format!("{crash:?}, cut: {is_cut}");
            drop(log);
            let boot_id = if matches!(crash, Crash::Process) { "boot-1" } else { "boot-2" };
            let node = node.restart(crash, boot_id);
            assert!(!node.manager.has_lost_records(), "{what}");
            check_whole(&node, 20, &what);
        }
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

/// What a leader has at an offset, as its follower appends it.
fn follow(log: &Log, offset: i64) {
    let records = batch(BASE_MS, &[format!("value {offset}").as_bytes()]);
    log.append_as_follower(now_at(0), copied(records, offset, 0), LeaderEpoch(0)).unwrap();
}

/// The offsets of the records from an offset on, with gaps between them.
fn offsets_of(log: &Log, from: i64) -> Vec<i64> {
    let mut found: Vec<i64> = Vec::new();
    let mut next = from;
    while next < log.log_end_offset().get() {
        let result = read_from(log, next, 500);
        found.extend(records_of(&bytes_of(&result)).into_iter().map(|(offset, _)| offset));
        assert!(next < result.next_offset.get(), "no progress at {next}");
        next = result.next_offset.get();
    }
    found
}

/// The system has written everything to the disk by itself; the log does not know.
fn written_by_the_system(disk: &SimDisk) {
    for entry in disk.read_dir(&partition_dir()).unwrap() {
        disk.open(&file(&entry.name), OpenMode::ReadWrite).unwrap().sync_data().unwrap();
    }
    disk.sync_dir(&partition_dir()).unwrap();
    disk.sync_dir(&dir()).unwrap();
}

/// Cleaning leaves logs that begin behind their start, and gaps between segments in what follows them from there. A replica
/// that the checkpoint knows to begin so has lost nothing.
#[test]
fn a_replica_of_a_compacted_log_begins_where_it_did_after_a_loss_of_power() {
    let config = |cleanup_policy| LogConfig { cleanup_policy, ..small_segments() };
    for (policy, later, gap) in [
        (CleanupPolicy::COMPACT, CleanupPolicy::COMPACT, 3),
        (CleanupPolicy::COMPACT, CleanupPolicy::DELETE, 0),
    ] {
        for (start, first) in [(0, 7), (500, 507)] {
            for (count, is_synced) in [(3, false), (30, false), (3, true), (30, true)] {
                let what = format!("{later:?}, {first}, {count} batches, synced {is_synced}");
                let node = Node::new(config(policy));
                let log = node.log();
                if start > 0 {
                    log.truncate_fully_and_start_at(now_at(0), Offset(start)).unwrap();
                }
                let expected: Vec<i64> = (0..count).map(|at| first + at * (1 + gap)).collect();
                for &offset in &expected {
                    follow(&log, offset);
                }
                if is_synced {
                    log.sync().unwrap();
                }
                node.manager.maintain(now_at(10_000));
                written_by_the_system(&node.disk);
                drop(log);
                let disk = node.disk.clone();
                drop(node);
                disk.crash(Crash::PowerLoss { seed: 1 });
                for boot in ["boot-2", "boot-3"] {
                    let node = Node::on(disk.clone(), config(later), boot);
                    let log = node.log();
                    assert_eq!(offsets_of(&log, first), expected, "{what}, {boot}");
                    assert_eq!(log.hole(), None, "{what}, {boot}");
                    drop((log, node));
                    disk.crash(Crash::Process);
                }
            }
        }
    }
}

/// Before a checkpoint knows how such a log begins, nobody can tell whether something was there before. Then what is there
/// stays, and a follower asks its leader what the log begins with.
#[test]
fn a_log_that_begins_behind_its_start_is_kept_and_asks_where_no_checkpoint_knows_why() {
    let check = |policy: CleanupPolicy, start: i64, has_checkpoint: bool| {
        let what = format!("{policy:?}, {start}, checkpoint {has_checkpoint}");
        let node = Node::new(LogConfig { cleanup_policy: policy, ..small_segments() });
        let log = node.log();
        if has_checkpoint {
            node.manager.maintain(now_at(10_000));
        }
        if start > 0 {
            log.truncate_fully_and_start_at(now_at(11_000), Offset(start)).unwrap();
        }
        for offset in start + 7..start + 37 {
            follow(&log, offset);
        }
        written_by_the_system(&node.disk);
        drop(log);
        let node = node.restart(Crash::PowerLoss { seed: 1 }, "boot-2");
        let log = node.log();
        let range = (log.log_start_offset(), log.log_end_offset());
        assert_eq!(range, (Offset(start + 7), Offset(start + 37)), "{what}");
        assert_eq!(log.hole(), Some(Offset(start)), "{what}");
    };
    for policy in [CleanupPolicy::COMPACT, CleanupPolicy::DELETE] {
        for start in [0, 500] {
            for has_checkpoint in [false, true] {
                check(policy, start, has_checkpoint);
            }
        }
    }
}

/// On a full disk the journal may not take the note of a new start, and the segments' files that wait for their removal are
/// all that tells of it. They tell it until something else does.
#[test]
fn what_was_deleted_on_a_full_disk_is_not_taken_for_lost_by_any_later_start() {
    let deleted_on_a_full_disk = || {
        let node = Node::new(small_segments());
        append_up_to(&node.log(), 40, 0);
        node.log().set_high_watermark(Offset(40));
        node.log().sync().unwrap();
        node.manager.maintain(now_at(10_000));
        let bases = bases(&node.disk);
        node.disk.set_capacity_bytes(Some(node.disk.used_bytes()));
        node.log().delete_records(Offset(bases[2])).unwrap();
        node.manager.maintain(now_at(11_000));
        let disk = node.disk.clone();
        disk.crash(Crash::Process);
        for base in &bases[..2] {
            assert!(disk.exists(&segment(*base, "log.deleted")).unwrap());
        }
        (disk, bases[2])
    };
    let check = |node: &Node, start: i64, what: &str| {
        assert!(!node.manager.has_lost_records(), "{what}");
        let log = node.log();
        let range = (log.hole(), log.log_start_offset(), log.log_end_offset());
        assert_eq!(range, (None, Offset(start), Offset(40)), "{what}");
    };
    // The recovery has no room itself, and is done again; processes end before a checkpoint.
    for kill_count in [0, 1, 2] {
        let (disk, start) = deleted_on_a_full_disk();
        disk.remove_file(&file("leader-epoch-checkpoint")).unwrap();
        disk.inject(FaultRule::once(Operation::Write, "leader-epoch-checkpoint", Fault::NoSpace));
        let mut node = Node::on(disk, small_segments(), "boot-1");
        assert!(node.manager.waits_for_room() && !node.manager.has_lost_records());
        if kill_count == 2 {
            node = node.restart(Crash::Process, "boot-1");
        }
        node.disk.set_capacity_bytes(None);
        node.manager.maintain(now_at(1_000));
        check(&node, start, &format!("after a failure, {kill_count} kills"));
        if kill_count >= 1 {
            node = node.restart(Crash::Process, "boot-1");
            check(&node, start, &format!("after a failure and {kill_count} kills"));
        }
    }
    for has_room in [false, true] {
        let (disk, start) = deleted_on_a_full_disk();
        if has_room {
            disk.set_capacity_bytes(None);
        }
        let before = disk.used_bytes();
        let mut node = Node::on(disk, small_segments(), "boot-1");
        assert!(node.disk.used_bytes() < before, "what was deleted gives its room back");
        for kill in 0..3 {
            check(&node, start, &format!("room {has_room}, kill {kill}"));
            node = node.restart(Crash::Process, "boot-1");
        }
        node.disk.set_capacity_bytes(None);
        node.manager.maintain(now_at(10_000));
        node.manager.maintain(now_at(100_000));
        let node = node.restart(Crash::Process, "boot-1");
        check(&node, start, "after a checkpoint");
        let left = node.disk.read_dir(&partition_dir()).unwrap();
        assert!(!left.iter().any(|entry| entry.name.ends_with(".deleted")), "{left:?}");
    }
}

/// The leader's start may tell that nothing is missing at the beginning. It says nothing of what is missing further on.
#[test]
fn a_log_that_lacks_its_beginning_says_too_what_it_lacks_further_on() {
    let synced = || {
        let node = Node::new(small_segments());
        append_up_to(&node.log(), 70, 0);
        node.log().set_high_watermark(Offset(70));
        node.log().sync().unwrap();
        node.manager.maintain(now_at(10_000));
        let bases = bases(&node.disk);
        assert!(bases.len() >= 6);
        (node, bases)
    };
    let lose = |disk: &SimDisk, base: i64| disk.remove_file(&segment(base, "log")).unwrap();
    let damage = |disk: &SimDisk, base: i64| {
        disk.open(&segment(base, "log"), OpenMode::ReadWrite).unwrap().truncate(0).unwrap();
    };
    for what in ["gone", "without its contents"] {
        let lose_second =
            |disk: &SimDisk, base: i64| if what == "gone" { lose(disk, base) } else { damage(disk, base) };
        let (node, bases) = synced();
        lose(&node.disk, bases[0]);
        lose_second(&node.disk, bases[2]);
        lose(&node.disk, bases[4]);
        written_by_the_system(&node.disk);
        let mut node = node.restart(Crash::PowerLoss { seed: 1 }, "boot-2");
        let (second, third) = (Offset(bases[2]), Offset(bases[4]));
        for boot in ["boot-2", "boot-3"] {
            let log = node.log();
            assert_eq!(
                (log.log_start_offset(), log.log_end_offset()),
                (Offset(bases[1]), Offset(70)),
                "{what}"
            );
            assert_eq!((log.hole(), log.hole_within()), (Some(Offset(0)), Some(second)), "{what}");
            node.manager.maintain(now_at(20_000));
            drop(log);
            node = node.restart(Crash::Process, boot);
        }
        let log = node.log();
        log.forget_late_beginning().unwrap();
        assert_eq!((log.hole(), log.hole_within()), (Some(second), Some(second)), "{what}");
        drop(log);
        let node = node.restart(Crash::Process, "boot-3");
        let log = node.log();
        assert_eq!((log.hole(), log.hole_within()), (Some(second), Some(second)), "{what}");
        // The start moves past it; what is missing behind it is missing still.
        log.delete_records(Offset(bases[3])).unwrap();
        assert_eq!((log.hole(), log.hole_within()), (Some(second), Some(third)), "{what}");
        log.truncate_to(now_at(30_000), third).unwrap();
        assert_eq!((log.hole(), log.hole_within()), (Some(second), None), "{what}");
        log.forget_late_beginning().unwrap();
        assert_eq!(log.hole(), None, "{what}");
        assert!(!node.disk.exists(&file("hole")).unwrap(), "{what}");
    }
}

/// The file of one offset is that of earlier versions. One that is damaged may have said anything.
#[test]
fn the_file_of_holes_is_read_in_its_old_form_and_believed_in_none_that_is_damaged() {
    for (contents, hole, within) in [
        ("15\n", Some(15), Some(15)),
        ("3\n", Some(3), None),
        ("3\n15\n", Some(3), Some(15)),
        ("1", Some(0), Some(10)),
        ("", Some(0), Some(10)),
        ("3\nx\n", Some(0), Some(10)),
        ("90\n", None, None),
    ] {
        let node = Node::new(small_segments());
        let log = node.log();
        append_up_to(&log, 40, 0);
        log.set_high_watermark(Offset(40));
        log.delete_records(Offset(10)).unwrap();
        drop(log);
        node.manager.shutdown(now_at(10_000)).unwrap();
        node.disk.replace_file(&file("hole"), contents.as_bytes()).unwrap();
        let node = node.restart(Crash::Process, "boot-1");
        let log = node.log();
        assert_eq!((log.hole(), log.hole_within()), (hole.map(Offset), within.map(Offset)), "{contents:?}");
    }
}

/// How a segment is damaged that holds the log's start, which lies behind the fourth of its batches.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    /// It ends with its fourth batch.
    EndsAtBatch,
    /// It ends within its fifth batch.
    EndsInBatch,
    /// A byte of its fifth batch is another one.
    Byte,
    /// Nothing is left of it.
    Empty,
}

impl Damage {
    fn strike(self, disk: &SimDisk, base: i64) {
        let path = segment(base, "log");
        let header = disk.read_file(&path).unwrap()[8..12].try_into().unwrap();
        let fourth_end = 4 * (12 + u64::from(u32::from_be_bytes(header)));
        let shorten = |len| {
            let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
            file.truncate(len).unwrap();
            file.sync_data().unwrap();
        };
        match self {
            Self::EndsAtBatch => shorten(fourth_end),
            Self::EndsInBatch => shorten(fourth_end + 30),
            Self::Byte => disk.corrupt(&path, fourth_end + 65, 0xff).unwrap(),
            Self::Empty => shorten(0),
        }
    }
}

/// The log's start may lie within a segment. Where that is damaged before the start, the records from the start on are
/// missing too, and a leader that begins with the same start has them.
#[test]
fn damage_before_the_logs_start_is_a_hole_from_the_start_on() {
    let power_loss = Crash::PowerLoss { seed: 1 };
    for (damage, crash, has_checkpoint) in [
        (Damage::EndsAtBatch, Crash::Process, true),
        (Damage::EndsAtBatch, power_loss, true),
        (Damage::EndsInBatch, Crash::Process, true),
        (Damage::EndsInBatch, power_loss, true),
        (Damage::EndsInBatch, Crash::Process, false),
        (Damage::Byte, Crash::Process, false),
        (Damage::Empty, Crash::Process, true),
        (Damage::Empty, power_loss, true),
    ] {
        let what = format!("{damage:?}, {crash:?}, checkpoint {has_checkpoint}");
        let node = Node::new(small_segments());
        let log = node.log();
        append_up_to(&log, 60, 0);
        log.set_high_watermark(Offset(60));
        log.delete_records(Offset(6)).unwrap();
        log.sync().unwrap();
        if has_checkpoint {
            node.manager.maintain(now_at(10_000));
        }
        let next = bases(&node.disk)[1];
        drop(log);
        let disk = node.disk.clone();
        drop(node);
        damage.strike(&disk, 0);
        disk.crash(crash);
        let boot = if crash == Crash::Process { "boot-1" } else { "boot-2" };
        // Of a compacted log, what lies behind the damage is kept whatever the checkpoint knows.
        let config = LogConfig { cleanup_policy: CleanupPolicy::COMPACT, ..small_segments() };
        let node = Node::on(disk, config, boot);
        let log = node.log();
        let start = if damage == Damage::Empty { next } else { 6 };
        let range = (log.log_start_offset(), log.log_end_offset());
        assert_eq!(range, (Offset(start), Offset(60)), "{what}");
        assert_eq!(log.hole(), Some(Offset(6)), "{what}");
        if damage != Damage::Empty {
            // What a follower does whose leader has told it that nothing is missing at the beginning.
            log.forget_late_beginning().unwrap();
            assert_eq!(log.hole_within(), Some(Offset(6)), "{what}");
        }
        log.truncate_to(now_at(1_000), Offset(6)).unwrap();
        let range = (log.hole(), log.log_start_offset(), log.log_end_offset());
        assert_eq!(range, (None, Offset(6), Offset(6)), "{what}");
    }
}

/// What was deleted is not missing, however damaged it is.
#[test]
fn damage_in_a_segment_of_deleted_records_is_no_hole() {
    for damage in [Damage::EndsAtBatch, Damage::EndsInBatch, Damage::Byte] {
        let node = Node::new(small_segments());
        let log = node.log();
        append_up_to(&log, 60, 0);
        log.set_high_watermark(Offset(60));
        let start = Offset(bases(&node.disk)[1] + 2);
        log.delete_records(start).unwrap();
        drop(log);
        let disk = node.disk.clone();
        drop(node);
        damage.strike(&disk, 0);
        disk.crash(Crash::Process);
        let config = LogConfig { cleanup_policy: CleanupPolicy::COMPACT, ..small_segments() };
        let node = Node::on(disk, config, "boot-1");
        let log = node.log();
        let range = (log.hole(), log.log_start_offset(), log.log_end_offset());
        assert_eq!(range, (None, start, Offset(60)), "{damage:?}");
    }
}

/// A log that led with a gap, whose records before offset 5 are deleted, and which has grown since its checkpoint. Gives
/// where its first segment ends, and the gap behind it.
fn with_a_gap_and_a_start() -> (SimDisk, i64, i64) {
    let node = Node::new(small_segments());
    append_up_to(&node.log(), 60, 0);
    node.log().set_high_watermark(Offset(60));
    node.log().sync().unwrap();
    node.manager.maintain(now_at(10_000));
    let (gap, behind) = (bases(&node.disk)[1], bases(&node.disk)[2]);
    node.disk.crash(Crash::Process);
    let disk = node.disk.clone();
    drop(node);
    disk.remove_file(&segment(gap, "log")).unwrap();
    let node = Node::on(disk, small_segments(), "boot-1");
    let log = node.log();
    assert_eq!(log.hole(), Some(Offset(gap)));
    log.forget_hole().unwrap();
    append_up_to(&log, 70, 0);
    log.sync().unwrap();
    node.manager.maintain(now_at(20_000));
    log.set_high_watermark(Offset(70));
    log.delete_records(Offset(5)).unwrap();
    append_up_to(&log, 100, 0);
    log.sync().unwrap();
    let disk = node.disk.clone();
    drop((log, node));
    disk.crash(Crash::Process);
    (disk, gap, behind)
}

/// A recovery that has failed is done again with what was known the first time: by this process once there is room, or by
/// the next one, however many checkpoints others have made meanwhile.
#[test]
fn a_log_that_could_not_be_recovered_is_recovered_later_as_it_would_have_been() {
    for (fault, retried_here, is_shut_down) in [
        (Fault::NoSpace, true, false),
        (Fault::NoSpace, false, false),
        (Fault::Io, false, false),
        (Fault::Io, false, true),
    ] {
        for life_count in if retried_here { 1..=1 } else { 1..=2 } {
            let what =
                format!("{fault:?}, here {retried_here}, shut down {is_shut_down}, {life_count} lives");
            let (disk, gap, behind) = with_a_gap_and_a_start();
            let mut node = None;
            for _ in 0..life_count {
                let operation = if fault == Fault::Io { Operation::Open } else { Operation::Write };
                let path = if fault == Fault::Io { ".log" } else { ".index" };
                disk.inject(FaultRule::once(operation, path, fault));
                let failing = Node::on(disk.clone(), small_segments(), "boot-1");
                assert!(failing.manager.is_failed(&partition()), "{what}");
                assert!(!failing.manager.waits_for_room(), "{what}");
                let other = TopicPartition::new("other", 0);
                let other = failing.manager.get_or_create(&other, TopicId(9), Arc::clone(&failing.config));
                append(&other.unwrap(), batch(BASE_MS, &[b"goes on"])).unwrap();
                for ms in [1_000, 10_000, 20_000] {
                    failing.manager.maintain(now_at(ms));
                }
                if retried_here {
                    failing.manager.maintain(now_at(40_000));
                } else {
                    assert!(failing.manager.is_failed(&partition()), "{what}");
                    if is_shut_down {
                        failing.manager.shutdown(now_at(30_000)).unwrap();
                    }
                }
                if retried_here {
                    node = Some(failing);
                } else {
                    disk.crash(Crash::Process);
                }
            }
            let node = node.unwrap_or_else(|| Node::on(disk, small_segments(), "boot-1"));
            let log = node.log();
            let range = (log.log_start_offset(), log.log_end_offset(), log.hole());
            assert_eq!(range, (Offset(5), Offset(100), None), "{what}");
            let expected: Vec<i64> = (5..gap).chain(behind..100).collect();
            assert_eq!(offsets_of(&log, 5), expected, "{what}");
        }
    }
}

/// A process that could not recover a log ends, and the next one on the same boot has to know that the machine had stopped.
#[test]
fn a_log_that_could_not_be_recovered_after_a_loss_of_power_is_not_believed_by_the_next_process() {
    let config = || LogConfig { flush_messages: None, ..small_segments() };
    for is_shut_down in [false, true] {
        let node = Node::new(config());
        let log = node.log();
        append_up_to(&log, 40, 0);
        log.sync().unwrap();
        let synced = log.recovery_point();
        append_up_to(&log, 70, 0);
        node.manager.maintain(now_at(10_000));
        let bases = bases(&node.disk);
        drop(log);
        let disk = node.disk.clone();
        drop(node);
        written_by_the_system(&disk);
        disk.crash(Crash::PowerLoss { seed: 1 });
        // What was not synced is not what it was, though it is as long.
        let lost = bases.iter().copied().find(|&base| synced.get() < base).unwrap();
        disk.corrupt(&segment(lost, "log"), 100, 0xff).unwrap();
        disk.inject(FaultRule::once(Operation::Open, ".log", Fault::Io));
        let node = Node::on(disk.clone(), config(), "boot-2");
        assert!(node.manager.is_failed(&partition()));
        let other = TopicPartition::new("other", 0);
        let other = node.manager.get_or_create(&other, TopicId(9), Arc::clone(&node.config)).unwrap();
        append(&other, batch(BASE_MS, &[b"goes on"])).unwrap();
        node.manager.maintain(now_at(10_000));
        if is_shut_down {
            node.manager.shutdown(now_at(20_000)).unwrap();
        }
        drop(node);
        disk.crash(Crash::Process);
        let node = Node::on(disk, config(), "boot-2");
        let log = node.log();
        let end = log.log_end_offset();
        assert!(synced <= end && end.get() < lost + 5, "{is_shut_down}: it ends at {end}");
        assert_eq!(all_records(&log, 0, 500).len(), usize::try_from(end.get()).unwrap(), "{is_shut_down}");
    }
}

/// A recovery cuts a damaged segment, and may not come to its end. The next one finds nothing wrong with that segment.
#[test]
fn a_recovery_that_is_interrupted_keeps_the_hole_that_it_has_made() {
    let config = LogConfig { cleanup_policy: CleanupPolicy::COMPACT, ..small_segments() };
    for base_at in [0, 1] {
        let mut stop = 0;
        loop {
            let node = Node::new(small_segments());
            append_up_to(&node.log(), 60, 0);
            let base = bases(&node.disk)[base_at];
            let disk = node.disk.clone();
            drop(node);
            Damage::Byte.strike(&disk, base);
            disk.crash(Crash::Process);
            disk.stop_after(stop);
            let source_config = Arc::new(config.clone());
            let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
            let first = open_manager(&as_disk, &dir(), options("boot-1"), &source_config, now_at(0));
            let is_whole = first.is_ok_and(|manager| manager.failed().is_empty());
            disk.crash(Crash::Process);
            let node = Node::on(disk, config.clone(), "boot-1");
            let log = node.log();
            let range = (log.hole(), log.log_end_offset());
            assert_eq!(range, (Some(Offset(base + 4)), Offset(60)), "{base}, stopped after {stop}");
            if is_whole {
                break;
            }
            stop += 1;
        }
        assert!(stop > 3, "it was stopped within the recovery");
    }
}

/// A segment is begun, and the disk has no room for its first batch. What the next process syncs in it has to have a name.
#[test]
fn the_name_of_a_segment_that_the_last_process_began_is_synced_with_what_is_in_it() {
    let node = Node::new(small_segments());
    append_up_to(&node.log(), 40, 0);
    let third = bases(&node.disk)[2];
    for is_shut_down in [false, true] {
        for seed in 0..20 {
            let what = format!("shut down {is_shut_down}, seed {seed}");
            let node = Node::new(small_segments());
            let log = node.log();
            append_up_to(&log, third, 0);
            log.sync().unwrap();
            let name = segment(third, "log").to_str().unwrap().to_owned();
            node.disk.inject(FaultRule::once(Operation::Write, name, Fault::NoSpace));
            append(&log, batch(BASE_MS, &[b"no room"])).unwrap_err();
            assert_eq!(log.segment_count(), 3);
            node.manager.maintain(now_at(10_000));
            if is_shut_down {
                node.manager.shutdown(now_at(11_000)).unwrap();
            }
            drop(log);
            let node = node.restart(Crash::Process, "boot-1");
            let log = node.log();
            append_up_to(&log, third + 1, 0);
            log.sync().unwrap();
            drop(log);
            let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
            assert_eq!(node.log().log_end_offset(), Offset(third + 1), "{what}");
        }
    }
}

/// The checkpoint's size of a segment is that of a file which is not there any more, however long the next one becomes.
#[test]
fn a_log_that_was_found_shorter_is_not_believed_by_its_old_size() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append_up_to(&log, 20, 3);
    log.set_high_watermark(Offset(20));
    log.sync().unwrap();
    node.manager.maintain(now_at(10_000));
    let len_bytes = node.disk.read_file(&segment(0, "log")).unwrap().len() as u64;
    node.disk.open(&segment(0, "log"), OpenMode::ReadWrite).unwrap().truncate(len_bytes / 2).unwrap();
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    let cut = log.log_end_offset().get();
    assert!(node.manager.has_lost_records() && 0 < cut && cut < 20);
    // Batches of another size, so that none begins where the checkpoint says that the segment ends.
    while log.log_end_offset().get() < 40 {
        let another = batch(BASE_MS, &[b"another value"]);
        log.append(now_at(0), another, AppendOrigin::Client, LeaderEpoch(3)).unwrap();
    }
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.log();
    let found: Vec<i64> = all_records(&log, 0, 500).into_iter().map(|(offset, _)| offset).collect();
    assert!(found.iter().copied().eq(0..40), "{found:?}");
}
