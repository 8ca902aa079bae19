//! Disks that fail, and files that are damaged while the broker is down.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chronik_disk::{Crash, Disk, Fault, FaultRule, OpenMode, Operation, SimDisk};
use chronik_log::{AppendError, AppendOrigin, CleanupPolicy, LogConfig, LogError, LogManager, OffsetQuery};
use chronik_protocol::records::BatchIter;
use chronik_types::{ErrorCode, LeaderEpoch, Offset, TimestampMs, TopicId};
use common::*;

#[test]
fn a_torn_tail_is_cut_off_at_every_byte() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"first"])).unwrap();
    let whole = log.size_bytes();
    node.manager.maintain(now_at(10_000));
    append(&log, batch(BASE_MS, &[b"second", b"third"])).unwrap();
    let all = log.size_bytes();
    let contents = node.disk.read_file(&segment(0, "log")).unwrap();
    for len in whole..all {
        let node = Node::new(LogConfig::default());
        let log = node.log();
        append(&log, batch(BASE_MS, &[b"first"])).unwrap();
        node.manager.maintain(now_at(10_000));
        append(&log, batch(BASE_MS, &[b"second", b"third"])).unwrap();
        drop(log);
        let open = node.disk.open(&segment(0, "log"), OpenMode::ReadWrite).unwrap();
        open.truncate(len).unwrap();
        let node = node.restart(Crash::Process, "boot-1");
        let log = node.log();
        assert_eq!(log.log_end_offset(), Offset(1), "cut to {len} bytes");
        assert_eq!(
            node.disk.read_file(&segment(0, "log")).unwrap(),
            contents[..usize::try_from(whole).unwrap()]
        );
        assert_eq!(append(&log, batch(BASE_MS, &[b"again"])).unwrap().first_offset, Offset(1));
    }
}

#[test]
fn a_flipped_bit_behind_the_checkpoint_ends_the_log_there() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"first"])).unwrap();
    let whole = log.size_bytes();
    drop(log);
    // Base offset and length, CRC, attributes, a timestamp, a record: nothing of it goes unseen.
    for at in [7, 3, 8, 11, 16, 17, 22, 30, 59, 63, 66] {
        let node = Node::new(LogConfig::default());
        let log = node.log();
        append(&log, batch(BASE_MS, &[b"first"])).unwrap();
        append(&log, batch(BASE_MS, &[b"second"])).unwrap();
        append(&log, batch(BASE_MS, &[b"third"])).unwrap();
        drop(log);
        node.disk.corrupt(&segment(0, "log"), whole + at, 0x10).unwrap();
        let node = node.restart(Crash::Process, "boot-1");
        assert_eq!(node.log().log_end_offset(), Offset(1), "byte {at}");
        assert_eq!(all_records(&node.log(), 0, 1000), vec![(0, b"first".to_vec())]);
    }
}

#[test]
fn a_damaged_segment_ends_the_log_and_is_told_though_only_the_process_has_ended() {
    let node = Node::new(small_segments());
    let log = node.log();
    append_values(&log, 40);
    assert!(log.segment_count() > 3);
    drop(log);
    let whole = node.restart(Crash::Process, "boot-1");
    assert_eq!((whole.log().log_end_offset(), whole.manager.has_lost_records()), (Offset(40), false));
    let disk = whole.disk.clone();
    disk.crash(Crash::Process);
    let len = disk.read_file(&segment(0, "log")).unwrap().len() as u64;
    disk.corrupt(&segment(0, "log"), len - 5, 1).unwrap();
    let node = Node::on(disk, small_segments(), "boot-1");
    let log = node.log();
    assert!(log.log_end_offset() < Offset(20), "a log has no holes: {}", log.log_end_offset());
    assert_eq!(log.segment_count(), 1);
    assert!(node.manager.has_lost_records(), "others have what is missing");
}

/// Three batches of one record each, and where they begin. The process was killed, and has made a checkpoint of them if
/// they `are_known`.
fn killed_with_three_batches(are_known: bool) -> (SimDisk, [u64; 3]) {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    let starts = ["first", "second", "third"].map(|value| {
        let start = log.size_bytes();
        append(&log, batch(BASE_MS, &[value.as_bytes()])).unwrap();
        start
    });
    if are_known {
        log.sync().unwrap();
        node.manager.maintain(now_at(10_000));
    }
    node.disk.crash(Crash::Process);
    (node.disk, starts)
}

/// One flipped bit in the next reads of a segment, one for each place.
fn misread(disk: &SimDisk, places: &[u64]) {
    for &at in places {
        let fault = Fault::FlipBit { position_bytes: usize::try_from(at).unwrap(), bit: 4 };
        disk.inject(FaultRule::once(Operation::Read, ".log", fault));
    }
}

/// Where it is the last in sync, a log that was cut for a wrong reading would lead, and the others be cut as well.
#[test]
fn what_a_recovery_reads_wrongly_once_is_neither_cut_nor_told_as_lost() {
    let check = |disk: SimDisk, boot_id: &str, what: &str| {
        let node = Node::on(disk, LogConfig::default(), boot_id);
        assert!(!node.manager.has_lost_records(), "{what}");
        let values = ["first", "second", "third"].map(|value| value.as_bytes().to_vec());
        let expected: Vec<_> = (0..3).zip(values).collect();
        assert_eq!(all_records(&node.log(), 0, 1000), expected, "{what}");
    };
    let (_, starts) = killed_with_three_batches(false);
    for start in starts {
        // Base offset and length, epoch, magic, CRC, attributes, a timestamp, a record.
        for at in [7, 3, 8, 11, 14, 16, 17, 22, 30, 59, 63, 66] {
            let (disk, _) = killed_with_three_batches(false);
            misread(&disk, &[start + at]);
            check(disk, "boot-1", &format!("byte {at} of the batch at {start}"));
        }
    }
    // After a reboot only the headers of what was synced are read, and a wrong one leads to a place where no batch is.
    for start in &starts[..2] {
        for at in [3, 8, 10, 11, 14, 16, 24, 25] {
            let (disk, _) = killed_with_three_batches(true);
            misread(&disk, &[start + at]);
            check(disk, "boot-2", &format!("byte {at} of the header at {start}"));
        }
    }
    let (disk, starts) = killed_with_three_batches(false);
    misread(&disk, &[starts[2] + 63, 11, starts[1] + 66]);
    check(disk, "boot-1", "each reading is wrong elsewhere");
}

#[test]
fn a_log_that_is_read_differently_each_time_stays_as_it_is() {
    let (disk, starts) = killed_with_three_batches(false);
    let before = disk.read_file(&segment(0, "log")).unwrap();
    // Wherever a reading begins, a batch is wrong in it, and not in the way in which it was the last time.
    let places: Vec<u64> = (0..64).map(|at| starts[1] + 61 + at % 7).collect();
    misread(&disk, &places);
    let node = Node::on(disk, LogConfig::default(), "boot-1");
    assert!(node.manager.has_lost_records(), "nobody is to count on it");
    let opened = node.manager.get_or_create(&partition(), TOPIC_ID, Arc::clone(&node.config));
    assert!(matches!(opened, Err(LogError::Corrupt { .. })), "{:?}", opened.err());
    node.disk.clear_faults();
    assert_eq!(node.disk.read_file(&segment(0, "log")).unwrap(), before);
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!(node.log().log_end_offset(), Offset(3));
}

/// Damages a file, starts, and expects all records and a log that goes on.
fn check_repaired(clean: bool, what: &str, damage: impl FnOnce(&SimDisk)) {
    let (disk, records) = written(clean);
    damage(&disk);
    let node = Node::on(disk, small_segments(), "boot-1");
    let log = node.log();
    assert_eq!(all_records(&log, 0, 500), records, "{what}, clean {clean}");
    assert_eq!((log.log_end_offset(), log.hole()), (Offset(40), None), "{what}");
    for at in 35..40 {
        let again = append(&log, idempotent(5, 0, at, &[format!("value {at}").as_bytes()]));
        // Without the checkpoint only what the snapshots and batches tell is known, as in Kafka.
        assert!(again.is_err() || again.unwrap().is_duplicate, "{what}");
    }
    let next = append(&log, idempotent(5, 0, 40, &[b"next"])).unwrap();
    assert_eq!(next.first_offset, Offset(40), "{what}");
    let found = log.offset_for(OffsetQuery::Timestamp(TimestampMs(BASE_MS))).unwrap().unwrap();
    assert_eq!(found.offset, Offset(0), "{what}");
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!(node.log().log_end_offset(), Offset(41), "{what}, once more");
}

/// A log that is damaged before its end ends where it did, so that no offset is given out twice. It says where it lacks
/// something, over restarts, until a follower has cut it there.
#[test]
fn a_log_says_where_it_lacks_records_until_it_is_cut_there() {
    for clean in [false, true] {
        let check = |what: &str, damage: &dyn Fn(&SimDisk, &[i64]) -> i64| {
            let (disk, _) = written(clean);
            let bases = bases(&disk);
            let expected = damage(&disk, &bases);
            assert!(has_lost(&disk, "boot-1"), "{what}, clean {clean}");
            let mut node = Node::on(disk, small_segments(), "boot-1");
            for start in 0..3 {
                let log = node.log();
                assert_eq!(log.hole(), Some(Offset(expected)), "{what}, clean {clean}, start {start}");
                assert!(Offset(30) < log.log_end_offset(), "{what}, clean {clean}, start {start}");
                node.manager.maintain(now_at(40_000));
                drop(log);
                node = node.restart(Crash::Process, "boot-1");
            }
            assert!(!node.manager.has_lost_records(), "{what}: it is told once");
            assert!(node.log().truncate_to(now_at(50_000), Offset(expected)).unwrap());
            for boot in ["boot-1", "boot-2"] {
                let log = node.log();
                assert_eq!((log.hole(), log.log_end_offset()), (None, Offset(expected)), "{what}");
                drop(log);
                node = node.restart(Crash::Process, boot);
            }
        };
        check("a segment that is gone", &|disk, bases| {
            disk.remove_file(&segment(bases[1], "log")).unwrap();
            bases[1]
        });
        check("the first segment is gone", &|disk, bases| {
            disk.remove_file(&segment(bases[0], "log")).unwrap();
            bases[0]
        });
        check("a short segment", &|disk, bases| {
            let file = disk.open(&segment(bases[1], "log"), OpenMode::ReadWrite).unwrap();
            file.truncate(file.len_bytes().unwrap() - 5).unwrap();
            bases[2] - 1
        });
        check("a segment without its last batch", &|disk, bases| {
            let path = segment(bases[1], "log");
            let bytes = disk.read_file(&path).unwrap();
            let last = BatchIter::new(&bytes).last().unwrap().unwrap().header.size_bytes;
            let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
            file.truncate(u64::try_from(bytes.len() - last).unwrap()).unwrap();
            bases[2] - 1
        });
        check("a segment without its contents", &|disk, bases| {
            disk.open(&segment(bases[1], "log"), OpenMode::ReadWrite).unwrap().truncate(0).unwrap();
            bases[1]
        });
    }
}

/// Starts on what a process left, and gives whether the start says that records are gone. Where it does, it must have been
/// told before any file was changed (replication point 6).
fn has_lost(disk: &SimDisk, boot_id: &str) -> bool {
    let told_at = Arc::new(AtomicUsize::new(usize::MAX));
    let sizes = |disk: &SimDisk| -> usize {
        let entries = disk.read_dir(&partition_dir()).unwrap_or_default();
        entries.iter().map(|entry| usize::try_from(entry.len_bytes).unwrap()).sum()
    };
    let config = Arc::new(small_segments());
    let starting = LogManager::open(
        Arc::new(disk.clone()),
        vec![dir()],
        options(boot_id),
        Arc::new(move |_: &str| Arc::clone(&config)),
        now_at(30_000),
    )
    .unwrap();
    let before = sizes(disk);
    let (slot, seen) = (Arc::clone(&told_at), disk.clone());
    starting.set_loss_listener(Box::new(move || slot.store(sizes(&seen), Ordering::SeqCst)));
    let manager = starting.finish(now_at(30_000));
    let told_at = told_at.load(Ordering::SeqCst);
    assert_eq!(manager.has_lost_records(), told_at != usize::MAX);
    assert!(told_at == usize::MAX || told_at == before, "told when {told_at} of {before} bytes were left");
    manager.has_lost_records()
}

#[test]
fn kip_966_a_start_says_whether_records_are_gone() {
    for clean in [false, true] {
        let check = |expected: bool, what: &str, damage: &dyn Fn(&SimDisk)| {
            let (disk, _) = written(clean);
            damage(&disk);
            assert_eq!(has_lost(&disk, "boot-1"), expected, "{what}, clean {clean}");
        };
        let last = |disk: &SimDisk| -> PathBuf {
            let entries = disk.read_dir(&partition_dir()).unwrap();
            let held = entries.iter().filter(|entry| entry.len_bytes > 0).map(|entry| file(&entry.name));
            held.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
        };
        let cut = |disk: &SimDisk, path: &PathBuf, by: u64| {
            let open = disk.open(path, OpenMode::ReadWrite).unwrap();
            open.truncate(open.len_bytes().unwrap() - by).unwrap();
        };
        check(false, "nothing", &|_| ());
        check(false, "an index", &|disk| disk.remove_file(&segment(0, "index")).unwrap());
        check(clean, "a torn tail", &|disk| cut(disk, &last(disk), 5));
        check(true, "a short segment", &|disk| cut(disk, &segment(0, "log"), 5));
        // One that was begun since the checkpoint leaves no trace.
        check(clean, "the last segment", &|disk| disk.remove_file(&last(disk)).unwrap());
        check(true, "the directory", &|disk| {
            disk.rename(&partition_dir(), &dir().join("elsewhere")).unwrap();
        });
        check(!clean, "a flipped bit behind the checkpoint", &|disk| {
            disk.corrupt(&last(disk), 70, 0x10).unwrap();
        });
        check(true, "both checkpoints", &|disk| {
            for name in ["chronik-checkpoint", "chronik-checkpoint.recent"] {
                if disk.exists(&dir().join(name)).unwrap() {
                    disk.corrupt(&dir().join(name), 40, 1).unwrap();
                }
            }
        });
    }
}

#[test]
fn every_kind_of_file_may_be_missing_or_damaged() {
    for clean in [false, true] {
        for extension in ["index", "timeindex"] {
            check_repaired(clean, extension, |disk| disk.remove_file(&segment(0, extension)).unwrap());
            check_repaired(clean, extension, |disk| {
                let open = disk.open(&segment(0, extension), OpenMode::ReadWrite).unwrap();
                open.truncate(5).unwrap();
            });
            check_repaired(clean, extension, |disk| {
                for at in 0..8 {
                    disk.corrupt(&segment(0, extension), at, 0x5a).unwrap();
                }
            });
            check_repaired(clean, extension, |disk| {
                let open = disk.open(&segment(0, extension), OpenMode::ReadWrite).unwrap();
                let end = open.len_bytes().unwrap();
                open.write_all_at(&[7; 100], end).unwrap();
            });
        }
        check_repaired(clean, "leader epochs", |disk| {
            disk.remove_file(&file("leader-epoch-checkpoint")).unwrap();
        });
        check_repaired(clean, "leader epochs", |disk| {
            disk.corrupt(&file("leader-epoch-checkpoint"), 0, 0xff).unwrap();
        });
        check_repaired(clean, "metadata", |disk| disk.remove_file(&file("partition.metadata")).unwrap());
        check_repaired(clean, "metadata", |disk| {
            disk.corrupt(&file("partition.metadata"), 12, 0xff).unwrap();
        });
        check_repaired(clean, "an orphan", |disk| {
            disk.open(&segment(7, "index"), OpenMode::Create).unwrap();
        });
        check_repaired(clean, "leftovers", |disk| {
            for name in ["00000000000000000003.log.deleted", "00000000000000000004.log.cleaned", "x.tmp"] {
                disk.open(&file(name), OpenMode::Create).unwrap();
            }
        });
        for name in ["chronik-checkpoint", "chronik-checkpoint.recent"] {
            let path = dir().join(name);
            check_repaired(clean, name, |disk| {
                if disk.exists(&path).unwrap() {
                    disk.corrupt(&path, 40, 1).unwrap();
                }
            });
            check_repaired(clean, name, |disk| {
                if disk.exists(&path).unwrap() {
                    disk.remove_file(&path).unwrap();
                }
            });
        }
        check_repaired(clean, "journals", |disk| {
            for entry in disk.read_dir(&dir()).unwrap() {
                if entry.name.starts_with("chronik-journal") && entry.len_bytes > 0 {
                    disk.corrupt(&dir().join(&entry.name), 0, 0xff).unwrap();
                }
            }
        });
    }
}

#[test]
fn a_damaged_snapshot_gives_way_to_an_earlier_one() {
    for clean in [false, true] {
        let (disk, records) = written(clean);
        for entry in disk.read_dir(&dir()).unwrap() {
            if entry.name.starts_with("chronik-checkpoint") {
                disk.remove_file(&dir().join(&entry.name)).unwrap();
            }
        }
        let snapshots: Vec<String> = disk
            .read_dir(&partition_dir())
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| name.ends_with(".snapshot"))
            .collect();
        assert!(snapshots.len() > 2);
        for name in snapshots.iter().rev().take(2) {
            disk.corrupt(&file(name), 9, 1).unwrap();
        }
        let node = Node::on(disk, small_segments(), "boot-1");
        let log = node.log();
        assert_eq!(all_records(&log, 0, 500), records);
        assert_eq!(log.active_producers()[0].last_sequence, 39);
        assert!(append(&log, idempotent(5, 0, 39, &[b"value 39"])).unwrap().is_duplicate);
    }
}

#[test]
fn a_segment_that_is_gone_takes_only_its_own_records() {
    for clean in [false, true] {
        let (disk, records) = written(clean);
        let bases = bases(&disk);
        // One in the middle.
        disk.remove_file(&segment(bases[1], "log")).unwrap();
        // The last one, with records that were acknowledged.
        let last = *bases.last().unwrap();
        disk.remove_file(&segment(last, "log")).unwrap();
        let node = Node::on(disk, small_segments(), "boot-1");
        let log = node.log();
        let left: Vec<_> = records
            .into_iter()
            .filter(|(offset, _)| *offset < last && !(bases[1]..bases[2]).contains(offset))
            .collect();
        let mut found = Vec::new();
        let mut offset = 0;
        while offset < log.log_end_offset().get() {
            let result = read_from(&log, offset, 500);
            if result.len_bytes == 0 {
                break;
            }
            found.extend(records_of(&bytes_of(&result)).into_iter().filter(|(at, _)| *at >= offset));
            offset = result.next_offset.get();
        }
        assert_eq!(found, left, "clean {clean}");
        if clean {
            // The checkpoint knows where the log ended: offsets that were given out are not given out again.
            assert_eq!(log.log_end_offset(), Offset(40));
        }
    }
}

#[test]
fn a_failed_write_takes_the_directory_offline() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"a"])).unwrap();
    node.disk.inject(FaultRule::once(Operation::Write, ".log", Fault::Io));
    let error = append(&log, batch(BASE_MS, &[b"b"])).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::KafkaStorageError);
    // It is not tried again, though it would succeed now.
    let error = append(&log, batch(BASE_MS, &[b"b"])).unwrap_err();
    assert!(matches!(error, AppendError::Log(LogError::Offline { .. })), "{error}");
    assert!(node.manager.describe_dirs()[0].offline_reason.is_some());
    let other = node.manager.get_or_create(
        &chronik_types::TopicPartition::new("other", 0),
        TOPIC_ID,
        Arc::clone(&node.config),
    );
    assert!(matches!(other, Err(LogError::Offline { .. })));
}

#[test]
fn a_failed_sync_is_never_taken_for_success() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"a"])).unwrap();
    node.disk.inject(FaultRule::once(Operation::Sync, ".log", Fault::Io));
    let told = Arc::new(AtomicUsize::new(0));
    let told_count = Arc::clone(&told);
    node.manager.set_offline_listener(Box::new(move || {
        told_count.fetch_add(1, Ordering::Relaxed);
    }));
    let failures = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&failures);
    node.manager.flush_queue().request(
        &log,
        Offset(1),
        Some(Box::new(move |outcome| {
            assert!(outcome.is_err());
            count.fetch_add(1, Ordering::Relaxed);
        })),
    );
    assert_eq!(node.manager.flush_queue().sync_batch().failed_count, 1);
    assert_eq!(failures.load(Ordering::Relaxed), 1);
    assert_eq!(log.recovery_point(), Offset(0));
    assert!(log.sync().is_err(), "LOG-3: the second sync would succeed and mean nothing");
    assert!(append(&log, batch(BASE_MS, &[b"b"])).is_err());
    assert!(node.manager.shutdown(now_at(0)).is_err());
    assert_eq!(told.load(Ordering::Relaxed), 1, "whoever listens is told once");
}

/// After a failed sync the system takes what it could not write for written. A process that starts then reads all of it,
/// and its own syncs mean nothing before it has written it again.
#[test]
fn what_a_failed_sync_left_in_memory_is_written_again_by_the_next_process() {
    for (failing, seed) in [".log", ".index", "leader-epoch-checkpoint", "partition.metadata"]
        .into_iter()
        .flat_map(|failing| (0..10).map(move |seed| (failing, seed)))
    {
        let node = Node::new(small_segments());
        let log = node.log();
        node.disk.inject(FaultRule::once(Operation::Sync, failing, Fault::Io));
        let appended = (0..40).map(|at| append(&log, idempotent(5, 0, at, &[b"a value"])));
        let written = i64::try_from(appended.flatten().count()).unwrap();
        assert!(log.sync().is_err(), "{failing}");
        drop(log);
        let node = node.restart(Crash::Process, "boot-1");
        assert_eq!(node.log().log_end_offset(), Offset(written), "{failing}");
        assert!(!node.manager.has_lost_records(), "{failing}: the process has it all");
        append(&node.log(), batch(BASE_MS, &[b"after"])).unwrap();
        node.log().sync().unwrap();
        if seed % 2 == 0 {
            // The next process believes what this one says is synced.
            node.manager.maintain(now_at(10_000));
        }
        let mark = dir().join(".chronik_sync_failed");
        assert!(!node.disk.exists(&mark).unwrap(), "{failing}: once is enough");
        let node = node.restart(Crash::PowerLoss { seed }, "boot-2");
        let other = node.manager.get_or_create(&partition(), TopicId(7), Arc::clone(&node.config));
        assert!(other.is_err(), "{failing}, power loss {seed}: it is known whose log this is");
        assert_eq!(node.log().latest_epoch(), Some(LeaderEpoch(0)), "{failing}, power loss {seed}");
        assert_eq!(node.log().log_end_offset(), Offset(written + 1), "{failing}, power loss {seed}");
        assert_eq!(all_records(&node.log(), 0, 1_000).len(), usize::try_from(written).unwrap() + 1);
    }
}

/// Offsets and epochs lie outside the CRC, and where compaction has been any gap is normal. What decides where the log
/// ends is therefore read twice where it is not what an append would have written.
#[test]
fn a_bit_that_flips_on_its_way_from_the_disk_does_not_change_a_log() {
    let config = LogConfig { cleanup_policy: CleanupPolicy::COMPACT, ..LogConfig::default() };
    let killed = || {
        let node = Node::new(LogConfig::default());
        let log = node.log();
        for at in 0..3 {
            let batch = idempotent(5, 0, at, &[b"a value"]);
            log.append(now_at(0), batch, AppendOrigin::Client, LeaderEpoch(at)).unwrap();
        }
        let records = all_records(&log, 0, 1_000);
        node.disk.crash(Crash::Process);
        (node.disk, records)
    };
    let bytes = killed().0.read_file(&segment(0, "log")).unwrap();
    for position_bits in 0..bytes.len() * 8 {
        let (disk, records) = killed();
        let fault = Fault::FlipBit {
            position_bytes: position_bits / 8,
            bit: u8::try_from(position_bits % 8).unwrap(),
        };
        disk.inject(FaultRule::once(Operation::Read, ".log", fault));
        let node = Node::on(disk, config.clone(), "boot-1");
        let log = node.log();
        assert_eq!(log.log_end_offset(), Offset(3), "bit {position_bits}");
        assert!(!node.manager.has_lost_records(), "bit {position_bits}");
        assert_eq!(all_records(&log, 0, 1_000), records, "bit {position_bits}");
        assert_eq!(log.latest_epoch(), Some(LeaderEpoch(2)), "bit {position_bits}");
    }
}

#[test]
fn a_directory_is_used_by_one_process() {
    let node = Node::new(LogConfig::default());
    let disk: Arc<dyn Disk> = Arc::new(node.disk.clone());
    let second = open_manager(&disk, &dir(), options("boot-1"), &node.config, now_at(0));
    let Err(error) = second else { panic!("two processes share a directory") };
    assert!(matches!(&error, LogError::Locked(path) if *path == dir()), "{error}");
    node.manager.shutdown(now_at(0)).unwrap();
    open_manager(&disk, &dir(), options("boot-1"), &node.config, now_at(0)).unwrap();
}

#[test]
fn a_partition_that_cannot_be_read_is_not_replaced_by_an_empty_one() {
    let (disk, _) = written(false);
    disk.inject(FaultRule::always(Operation::ReadDir, "orders-0", Fault::Io));
    let node = Node::on(disk, small_segments(), "boot-1");
    assert_eq!(node.manager.failed().len(), 1);
    let log = node.manager.get_or_create(&partition(), TOPIC_ID, Arc::clone(&node.config));
    assert!(matches!(log, Err(LogError::Io { .. })));
}

/// A process that ended while it made the log may have left it without its topic id.
#[test]
fn who_claims_a_log_that_was_nobodys_at_the_checkpoint_owns_it_after_a_restart() {
    let (disk, records) = written(false);
    disk.remove_file(&file("partition.metadata")).unwrap();
    for name in ["chronik-checkpoint", "chronik-checkpoint.recent"] {
        if disk.exists(&dir().join(name)).unwrap() {
            disk.remove_file(&dir().join(name)).unwrap();
        }
    }
    let node = Node::on(disk, small_segments(), "boot-1");
    assert_eq!(node.manager.get(&partition()).unwrap().topic_id(), TopicId::ZERO);
    node.manager.maintain(now_at(10_000));
    assert_eq!(node.log().topic_id(), TOPIC_ID);
    let node = node.restart(Crash::Process, "boot-1");
    let log = node.manager.get(&partition()).unwrap();
    assert_eq!(log.topic_id(), TOPIC_ID);
    assert_eq!(all_records(&log, 0, 1_000), records);
}
