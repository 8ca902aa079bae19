//! What a loss of power takes of a log, and what the next start makes of what is left.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use chronik_disk::{Crash, Disk, Fault, FaultRule, OpenMode, Operation, SimDisk};
use chronik_log::{AppendOrigin, LogConfig};
use chronik_types::{LeaderEpoch, Offset, TopicId, TopicPartition};
use common::*;

/// Before the first checkpoint nothing but the segments behind it tells that a log's first one is gone.
#[test]
fn a_log_that_begins_further_on_after_a_loss_of_power_says_where_it_began() {
    let started = |damage: &dyn Fn(&SimDisk, &chronik_log::Log, &[i64])| {
        let node = Node::new(small_segments());
        let log = node.log();
        append_values(&log, 40);
        log.set_high_watermark(log.log_end_offset());
        log.sync().unwrap();
        let bases = bases(&node.disk);
        damage(&node.disk, &log, &bases);
        drop(log);
        (node, bases)
    };
    let lose_first = |disk: &SimDisk, _: &chronik_log::Log, _: &[i64]| {
        disk.remove_file(&segment(0, "log")).unwrap();
        disk.sync_dir(&partition_dir()).unwrap();
    };
    let (node, bases) = started(&lose_first);
    let mut node = node.restart(Crash::PowerLoss { seed: 1 }, "boot-2");
    for boot in ["boot-2", "boot-3"] {
        let log = node.log();
        let range = (log.log_start_offset(), log.log_end_offset());
        assert_eq!((log.hole(), range), (Some(Offset(0)), (Offset(bases[1]), Offset(40))), "{boot}");
        node.manager.maintain(now_at(20_000));
        drop(log);
        node = node.restart(Crash::Process, boot);
    }
    assert!(node.log().truncate_to(now_at(30_000), Offset(0)).unwrap());
    let node = node.restart(Crash::Process, "boot-3");
    let log = node.log();
    assert_eq!((log.hole(), log.log_start_offset(), log.log_end_offset()), (None, Offset(0), Offset(0)));

    // Whoever leads with it takes it for all there is.
    let (node, bases) = started(&lose_first);
    let node = node.restart(Crash::PowerLoss { seed: 1 }, "boot-2");
    node.log().forget_hole().unwrap();
    node.manager.maintain(now_at(20_000));
    let node = node.restart(Crash::Process, "boot-3");
    let log = node.log();
    assert_eq!(
        (log.hole(), log.log_start_offset()),
        (None, Offset(bases[1])),
        "the checkpoint has its start"
    );

    // What was deleted is not missing.
    let (node, bases) = started(&|_, log, bases| {
        log.delete_records(Offset(bases[2])).unwrap();
    });
    let node = node.restart(Crash::Process, "boot-2");
    let log = node.log();
    assert_eq!((log.hole(), log.log_start_offset()), (None, Offset(bases[2])));
}

/// What is appended where a power loss took synced records is not what the checkpoint says was synced, also where the log
/// was cut further on since.
#[test]
fn a_log_that_ends_below_its_recovery_point_is_read_again_after_the_next_loss() {
    for was_cut in [false, true] {
        let node = Node::new(small_segments());
        let log = node.log();
        append_values(&log, 40);
        log.set_high_watermark(log.log_end_offset());
        log.sync().unwrap();
        node.manager.maintain(now_at(10_000));
        let bases = bases(&node.disk);
        if was_cut {
            log.truncate_to(now_at(11_000), Offset(bases[2] + 1)).unwrap();
        }
        drop(log);
        for base in &bases[1..] {
            if node.disk.exists(&segment(*base, "log")).unwrap() {
                node.disk.remove_file(&segment(*base, "log")).unwrap();
            }
        }
        node.disk.sync_dir(&partition_dir()).unwrap();
        let node = node.restart(Crash::PowerLoss { seed: 1 }, "boot-2");
        assert!(node.manager.has_lost_records(), "cut {was_cut}");
        let log = node.log();
        assert_eq!(log.log_end_offset(), Offset(bases[1]), "cut {was_cut}");
        for at in bases[1]..40 {
            append(&log, idempotent(6, 0, i32::try_from(at).unwrap(), &[format!("other {at}").as_bytes()]))
                .unwrap();
        }
        drop(log);
        node.disk.crash(Crash::Process);
        node.disk.corrupt(&segment(bases[1], "log"), 70, 1).unwrap();
        let node = node.restart(Crash::Process, "boot-3");
        assert_eq!(node.log().log_end_offset(), Offset(bases[1]), "nobody has synced it, cut {was_cut}");
    }
}

/// A segment that is gone counts as gone though another that began at the same offset was cut off before.
#[test]
fn what_was_cut_off_before_is_not_taken_for_what_is_gone_now() {
    let node = Node::new(small_segments());
    let write = |node: &Node, producer: i64| {
        let log = node.log();
        for at in log.log_end_offset().get()..40 {
            append(&log, idempotent(producer, 0, i32::try_from(at).unwrap(), &[b"some value"])).unwrap();
        }
        log.set_high_watermark(log.log_end_offset());
    };
    write(&node, 5);
    let bases = bases(&node.disk);
    node.log().truncate_to(now_at(1_000), Offset(bases[1])).unwrap();
    write(&node, 6);
    node.log().sync().unwrap();
    node.manager.maintain(now_at(10_000));
    let waits = |entry: &chronik_disk::DirEntry| entry.name.ends_with(".deleted");
    assert!(node.disk.read_dir(&partition_dir()).unwrap().iter().any(waits));
    node.disk.remove_file(&segment(bases[2], "log")).unwrap();
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!(node.log().hole(), Some(Offset(bases[2])));
    assert!(node.manager.has_lost_records());
}

/// The leader epochs of deleted records are gone with them, and may stay away when a power loss brings the records back.
/// Without them a follower that has others there would not be cut.
#[test]
fn deleted_records_that_come_back_with_the_power_have_their_leader_epochs() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    for (epoch, at) in [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4)] {
        let batch = idempotent(5, 0, at, &[b"v"]);
        log.append(now_at(0), batch, AppendOrigin::Client, LeaderEpoch(epoch)).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
    log.sync().unwrap();
    drop(log);
    // The file of the epochs has outlived what said that the log begins at 3.
    let disk = node.disk.clone();
    disk.replace_file(&file("leader-epoch-checkpoint"), b"0\n1\n1 3\n").unwrap();
    drop(node);
    disk.crash(Crash::Process);
    for entry in disk.read_dir(&dir()).unwrap().iter().filter(|entry| entry.name.starts_with("chronik-")) {
        disk.remove_file(&dir().join(&entry.name)).unwrap();
    }
    let node = Node::on(disk, LogConfig::default(), "boot-2");
    let log = node.log();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(0), Offset(5)));
    assert_eq!(log.end_offset_for_epoch(LeaderEpoch(0)).unwrap().end_offset, Offset(2));
    assert_eq!(log.epoch_before(Offset(5)), Some(LeaderEpoch(1)));
}

/// What was made since the last checkpoint is as if it had never been written where a power loss took its beginning.
#[test]
fn a_log_does_not_begin_after_a_segment_whose_contents_a_power_loss_took() {
    let node = Node::new(small_segments());
    let log = node.log();
    append_values(&log, 40);
    assert!(log.segment_count() > 3);
    drop(log);
    node.disk.open(&segment(0, "log"), OpenMode::ReadWrite).unwrap().truncate(0).unwrap();
    let node = node.restart(Crash::Process, "boot-2");
    let log = node.log();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(0), Offset(0)));
    assert_eq!(append(&log, batch(BASE_MS, &[b"again"])).unwrap().first_offset, Offset(0));
}

/// A snapshot of what producers had sent before a cut must not come back with the power.
#[test]
fn what_producers_had_sent_before_a_cut_is_forgotten_for_good() {
    let mut whole_count = 0;
    for seed in 0..300 {
        let node = Node::new(LogConfig::default());
        let log = node.log();
        for at in 0..10 {
            append(&log, idempotent(5, 0, at, &[b"old"])).unwrap();
        }
        drop(log);
        node.manager.shutdown(now_at(5)).unwrap();
        node.disk.sync_dir(&partition_dir()).unwrap();
        node.disk.open(&segment(10, "snapshot"), OpenMode::ReadWrite).unwrap().sync_data().unwrap();
        let node = node.restart(Crash::Process, "boot-2");
        let log = node.log();
        // Its records from 5 on were never committed; the leader has another producer's there.
        if seed % 2 == 0 {
            log.truncate_fully_and_start_at(now_at(10), Offset(5)).unwrap();
        } else {
            log.truncate_to(now_at(10), Offset(5)).unwrap();
        }
        for at in 5..12 {
            let batch = copied(idempotent(6, 0, at - 5, &[b"new"]), at.into(), 1);
            log.append_as_follower(now_at(11), batch, LeaderEpoch(1)).unwrap();
        }
        drop(log);
        let node = node.restart(Crash::PowerLoss { seed }, "boot-3");
        let log = node.log();
        if log.log_end_offset() < Offset(10) {
            continue;
        }
        whole_count += 1;
        // It leads, and the other producer sends again what it has never been told of.
        let again =
            log.append(now_at(0), idempotent(5, 0, 9, &[b"old"]), AppendOrigin::Client, LeaderEpoch(2));
        assert!(!again.is_ok_and(|sent| sent.is_duplicate), "seed {seed}");
    }
    assert!(whole_count > 30, "{whole_count}");
}

/// What was noted of a log that could not be recovered is carried from checkpoint to checkpoint, and once more when it is.
#[test]
fn a_cut_of_a_log_that_is_recovered_later_outlasts_the_power() {
    for seed in 0..400 {
        let node = Node::new(LogConfig::default());
        let log = node.log();
        for _ in 0..60 {
            append(&log, batch(BASE_MS, &[&[b'v'; 300]])).unwrap();
        }
        log.set_high_watermark(Offset(40));
        log.sync().unwrap();
        node.manager.maintain(now_at(10_000));
        log.truncate_to(now_at(10_001), Offset(40)).unwrap();
        drop(log);
        for operation in [Operation::Write, Operation::Truncate] {
            node.disk.inject(FaultRule::always(operation, "orders-0", Fault::NoSpace));
        }
        let node = node.restart(Crash::Process, "boot-1");
        assert!(node.manager.is_failed(&partition()));
        let other = TopicPartition::new("other", 0);
        let other = node.manager.get_or_create(&other, TopicId(3), node.config.clone()).unwrap();
        append(&other, batch(BASE_MS, &[b"v"])).unwrap();
        node.manager.maintain(now_at(10_000));
        node.disk.clear_faults();
        for second in [11, 40, 41, 45] {
            node.manager.maintain(now_at(second * 1_000));
        }
        let log = node.log();
        assert_eq!(log.log_end_offset(), Offset(40));
        for _ in 0..20 {
            append(&log, batch(BASE_MS, &[&[b'w'; 300]])).unwrap();
        }
        node.manager.maintain(now_at(50_000));
        drop((log, other));
        let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
        // Each batch is held against its checksum.
        let log = node.log();
        let records = all_records(&log, 0, 500);
        assert_eq!(Offset(i64::try_from(records.len()).unwrap()), log.log_end_offset(), "seed {seed}");
    }
}
