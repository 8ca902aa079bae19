//! What the disk in memory loses, refuses and spoils, and what it must not.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene up has failed")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use chronik_disk::{Crash, Disk, DiskFile, Fault, FaultRule, OpenMode, Operation, SECTOR_BYTES, SimDisk};

const FILE: &str = "/d/file";

/// A disk with one durable, empty file.
fn with_file() -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    let file = disk.open(Path::new(FILE), OpenMode::Create).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    (disk, file)
}

fn contents(disk: &SimDisk) -> Vec<u8> {
    disk.read_file(Path::new(FILE)).unwrap()
}

#[test]
fn a_process_crash_keeps_every_written_byte() {
    let (disk, file) = with_file();
    file.write_all_at(b"unsynced", 0).unwrap();
    disk.open(Path::new("/d/new"), OpenMode::Create).unwrap();
    disk.crash(Crash::Process);
    assert_eq!(contents(&disk), b"unsynced");
    assert!(disk.exists(Path::new("/d/new")).unwrap());
    assert!(file.write_all_at(b"x", 0).is_err(), "handles die with their process");
    assert!(file.read_at(&mut [0], 0).is_err());
}

#[test]
fn synced_bytes_survive_every_power_loss() {
    for seed in 0..200 {
        let (disk, file) = with_file();
        file.write_all_at(&[7; 3000], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[8; 3000], 3000).unwrap();
        disk.crash(Crash::PowerLoss { seed });
        let found = contents(&disk);
        assert!((3000..=6000).contains(&found.len()), "seed {seed}: {} bytes", found.len());
        // The sector across the old end may be old or new, and the synced bytes are the same in both.
        assert_eq!(found[..3000], [7; 3000], "seed {seed}");
    }
}

#[test]
fn power_losses_lose_everything_something_and_nothing_by_sectors() {
    let mut lengths = BTreeSet::new();
    let mut mixed_count = 0;
    for seed in 0..300 {
        let (disk, file) = with_file();
        file.write_all_at(&[1; 8 * SECTOR_BYTES], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[2; 12 * SECTOR_BYTES], 0).unwrap();
        disk.crash(Crash::PowerLoss { seed });
        let found = contents(&disk);
        lengths.insert(found.len());
        let mut seen = BTreeSet::new();
        for sector in found.chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}: a sector is torn");
            seen.insert(sector[0]);
        }
        if seen.contains(&1) && seen.contains(&2) {
            mixed_count += 1;
        }
    }
    assert!(lengths.contains(&(8 * SECTOR_BYTES)) && lengths.contains(&(12 * SECTOR_BYTES)));
    assert!(lengths.len() > 20, "only {} lengths", lengths.len());
    assert!(mixed_count > 50, "only {mixed_count} torn writes");
}

#[test]
fn a_seed_decides_what_is_lost() {
    let run = |seed| {
        let (disk, file) = with_file();
        file.write_all_at(&[3; 9999], 0).unwrap();
        disk.crash(Crash::PowerLoss { seed });
        contents(&disk)
    };
    assert_eq!(run(5), run(5));
    assert!((0..20).any(|seed| run(seed) != run(5)));
}

#[test]
fn names_need_a_sync_of_their_directory() {
    let (mut kept_count, mut lost_count) = (0, 0);
    for seed in 0..100 {
        let (disk, file) = with_file();
        file.write_all_at(b"old", 0).unwrap();
        file.sync_data().unwrap();
        let next = disk.open(Path::new("/d/next"), OpenMode::Create).unwrap();
        next.write_all_at(b"new", 0).unwrap();
        next.sync_data().unwrap();
        disk.rename(Path::new("/d/next"), Path::new(FILE)).unwrap();
        disk.crash(Crash::PowerLoss { seed });
        // The rename is atomic: the old or the new contents, never none.
        match contents(&disk).as_slice() {
            b"new" => kept_count += 1,
            b"old" => lost_count += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(kept_count > 10 && lost_count > 10, "{kept_count} kept, {lost_count} lost");

    for seed in 0..100 {
        let (disk, _file) = with_file();
        disk.replace_file(Path::new(FILE), b"replaced").unwrap();
        disk.crash(Crash::PowerLoss { seed });
        assert_eq!(contents(&disk), b"replaced", "seed {seed}");
    }
}

#[test]
fn syncing_one_directory_leaves_another_unsynced() {
    let lost = (0..100).any(|seed| {
        let (disk, _file) = with_file();
        disk.create_dir_all(Path::new("/e")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.open(Path::new("/d/first"), OpenMode::Create).unwrap();
        disk.open(Path::new("/e/second"), OpenMode::Create).unwrap();
        disk.sync_dir(Path::new("/e")).unwrap();
        disk.crash(Crash::PowerLoss { seed });
        assert!(disk.exists(Path::new("/e/second")).unwrap());
        !disk.exists(Path::new("/d/first")).unwrap()
    });
    assert!(lost);
}

#[test]
fn a_failed_sync_loses_its_bytes_for_good() {
    for seed in 0..50 {
        let (disk, file) = with_file();
        file.write_all_at(&[1; 512], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[2; 512], 0).unwrap();
        disk.inject(FaultRule::once(Operation::Sync, "file", Fault::Io));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        file.sync_data().expect("the kernel calls the pages clean");
        assert_eq!(contents(&disk), [2; 512], "the page cache still has them");
        disk.crash(Crash::PowerLoss { seed });
        assert_eq!(contents(&disk), [1; 512], "seed {seed}");
    }
}

#[test]
fn faults_strike_the_nth_matching_operation() {
    let (disk, file) = with_file();
    let other = disk.open(Path::new("/d/other"), OpenMode::Create).unwrap();
    disk.inject(FaultRule::once(Operation::Write, "file", Fault::Io).after(2));
    for attempt in 0..5 {
        other.write_all_at(b"x", attempt).unwrap();
        assert_eq!(file.write_all_at(b"x", attempt).is_err(), attempt == 2, "attempt {attempt}");
    }
    disk.inject(FaultRule::always(Operation::Read, "", Fault::Io));
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(other.read_at(&mut [0], 0).is_err());
    disk.clear_faults();
    assert_eq!(file.read_at(&mut [0], 0).unwrap(), 1);
    disk.inject(FaultRule::once(Operation::Rename, "file", Fault::NoSpace));
    let error = disk.rename(Path::new(FILE), Path::new("/d/new")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(disk.exists(Path::new(FILE)).unwrap());
}

#[test]
fn writes_tear_and_bits_flip() {
    let (disk, file) = with_file();
    disk.inject(FaultRule::once(Operation::Write, "", Fault::Torn { written_bytes: 3 }));
    assert!(file.write_all_at(b"abcdef", 0).is_err());
    assert_eq!(contents(&disk), b"abc");
    disk.inject(FaultRule::once(Operation::Write, "", Fault::FlipBit { position_bytes: 1, bit: 0 }));
    file.write_all_at(b"abc", 0).unwrap();
    assert_eq!(contents(&disk), b"acc");
    disk.inject(FaultRule::once(Operation::Read, "", Fault::FlipBit { position_bytes: 2, bit: 5 }));
    assert_eq!(contents(&disk), b"acC");
    assert_eq!(contents(&disk), b"acc", "the flip was on the way, not at rest");
    disk.corrupt(Path::new(FILE), 0, 0xff).unwrap();
    assert_eq!(contents(&disk)[0], !b'a');
    assert!(disk.corrupt(Path::new(FILE), 3, 1).is_err());
}

#[test]
fn rot_stays_until_it_is_written_over_or_restored() {
    let (disk, file) = with_file();
    file.write_all_at(b"abcdef", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    for at in [1, 3, 5] {
        disk.rot(Path::new(FILE), at, 0x20).unwrap();
    }
    assert!(disk.rot(Path::new(FILE), 6, 1).is_err());
    assert_eq!(contents(&disk), b"aBcDeF");
    let mut part = [0; 2];
    assert_eq!(file.read_at(&mut part, 3).unwrap(), 2);
    assert_eq!(&part, b"De");
    file.write_all_at(b"x", 1).unwrap();
    assert_eq!(contents(&disk), b"axcDeF");
    file.truncate(5).unwrap();
    file.write_all_at(b"f", 5).unwrap();
    file.sync_data().unwrap();
    disk.crash(Crash::PowerLoss { seed: 1 });
    assert_eq!(contents(&disk), b"axcDef", "what lies on the disk does not care for its power");
    assert!(disk.is_rotten());
    disk.restore();
    assert_eq!(contents(&disk), b"axcdef");
    assert!(!disk.is_rotten());
}

#[test]
fn a_full_disk_takes_what_fits_and_heals() {
    let (disk, file) = with_file();
    disk.set_capacity_bytes(Some(100));
    file.write_all_at(&[1; 80], 0).unwrap();
    let error = file.write_all_at(&[2; 80], 80).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(file.len_bytes().unwrap(), 100, "the part that fitted is there");
    file.write_all_at(&[3; 100], 0).expect("overwriting takes no room");
    assert_eq!(disk.space(Path::new("/d")).unwrap().usable_bytes, 0);
    file.truncate(10).unwrap();
    file.write_all_at(&[4; 90], 10).unwrap();
    disk.set_capacity_bytes(None);
    file.write_all_at(&[5; 1000], 0).unwrap();
    assert_eq!(disk.used_bytes(), 1000);
}

#[test]
fn a_stopped_machine_does_nothing_until_it_starts_again() {
    let (disk, file) = with_file();
    let before = disk.operation_count();
    disk.stop_after(2);
    file.write_all_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap();
    assert!(file.write_all_at(&vec![2; 64 * 1024], 512).is_err());
    assert!(file.sync_data().is_err());
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(disk.open(Path::new("/d/other"), OpenMode::Create).is_err());
    assert!(disk.read_file(Path::new(FILE)).is_err());
    assert_eq!(disk.operation_count(), before + 2);
    disk.crash(Crash::Process);
    let found = contents(&disk);
    assert!(512 <= found.len() && found.len() < 512 + 64 * 1024, "a part of the last write may be left");
    assert_eq!(found[..512], [1; 512]);
    disk.open(Path::new("/d/other"), OpenMode::Create).expect("it works again");
}

#[test]
fn locks_end_with_the_process() {
    let (disk, _file) = with_file();
    let held = disk.lock(Path::new("/d/lock")).unwrap();
    disk.crash(Crash::Process);
    let next = disk.lock(Path::new("/d/lock")).unwrap();
    drop(held);
    assert!(disk.lock(Path::new("/d/lock")).is_err(), "a dead process gives back no one else's lock");
    drop(next);
}

#[test]
fn truncated_bytes_do_not_come_back_into_a_synced_file() {
    for seed in 0..100 {
        let (disk, file) = with_file();
        file.write_all_at(&[1; 2000], 0).unwrap();
        file.sync_data().unwrap();
        file.truncate(100).unwrap();
        file.truncate(2000).unwrap();
        file.sync_data().unwrap();
        disk.crash(Crash::PowerLoss { seed });
        let found = contents(&disk);
        assert_eq!(found[..100], [1; 100]);
        assert_eq!(found[100..], [0; 1900], "seed {seed}");
    }
}

#[test]
fn half_of_a_removed_directory_may_be_left() {
    let mut left = BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d/sub")).unwrap();
        for name in ["/d/a", "/d/b", "/d/sub/c"] {
            disk.open(Path::new(name), OpenMode::Create).unwrap();
        }
        for dir in ["/", "/d", "/d/sub"] {
            disk.sync_dir(Path::new(dir)).unwrap();
        }
        disk.remove_dir_all(Path::new("/d")).unwrap();
        disk.crash(Crash::PowerLoss { seed });
        left.insert(disk.read_dir(Path::new("/d")).map_or(0, |entries| entries.len()));
    }
    assert!(left.len() > 2, "{left:?}");
}

#[test]
fn a_durable_copy_has_what_is_synced_and_no_more() {
    let (disk, file) = with_file();
    file.write_all_at(&[1; 700], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 700], 0).unwrap();
    disk.open(Path::new("/d/new"), OpenMode::Create).unwrap();
    let copy = disk.durable_copy();
    assert_eq!(contents(&copy), [1; 700]);
    assert!(!copy.exists(Path::new("/d/new")).unwrap());
    copy.remove_file(Path::new(FILE)).unwrap();
    assert_eq!(contents(&disk), [2; 700], "they are two disks");
}
