//! A node that is the only voter: the standalone broker's metadata, through crashes and faults.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use chronik_disk::{Crash, Fault, FaultRule, OpenMode, Operation, SimDisk};
use chronik_types::{LogIndex, TopicId};

use super::*;
use crate::log::Applied;
use crate::metadata::{Command, CreateTopic, DeleteTopic};
use crate::store::StoreError;
use crate::transport::NoPeers;

const DIR: &str = "/data/__raft";
const NODE: NodeId = NodeId(0);

fn config() -> RaftConfig {
    RaftConfig::new(NODE, vec![NODE], 0)
}

/// Snapshots after every few entries, so that short runs see many.
fn config_with_snapshots() -> RaftConfig {
    RaftConfig { snapshot_entries_max: 3, ..config() }
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// Starts a process, which has another incarnation than all before.
fn open(disk: &SimDisk, mut config: RaftConfig) -> Result<RaftDriver, Arc<RaftError>> {
    static STARTED_COUNT: AtomicU64 = AtomicU64::new(0);
    config.incarnation = STARTED_COUNT.fetch_add(1, Ordering::Relaxed);
    let mut driver = RaftDriver::open(config, Arc::new(disk.clone()), Path::new(DIR), Box::new(NoPeers))
        .map_err(Arc::new)?;
    driver.poll(MonotonicMs(0))?;
    Ok(driver)
}

type Answer = Arc<Mutex<Option<Result<Applied, ProposeError>>>>;

fn ask(handle: &RaftHandle, batch: CommandBatch) -> Answer {
    let answer = Answer::default();
    let slot = Arc::clone(&answer);
    handle.propose(
        batch,
        Box::new(move |outcome| assert!(slot.lock().replace(outcome).is_none(), "answered twice")),
    );
    answer
}

fn create(number: u32) -> Command {
    CreateTopic::new(format!("topic-{number}"), TopicId(u128::from(number) + 1), 1, 1).into()
}

/// Proposes one topic and gives the answer.
fn create_topic(driver: &mut RaftDriver, number: u32) -> Result<Applied, ProposeError> {
    let answer = ask(&driver.handle(), CommandBatch::new(vec![create(number)]));
    drop(driver.poll(MonotonicMs(0)));
    let answer = answer.lock().take();
    answer.unwrap_or(Err(ProposeError::Stopped { reason: "no answer".to_owned() }))
}

fn has_topic(driver: &RaftDriver, number: u32) -> bool {
    driver.handle().image().topic(&format!("topic-{number}")).is_some()
}

fn wal_path(disk: &SimDisk) -> PathBuf {
    let names = disk.read_dir(Path::new(DIR)).unwrap();
    let wal = names.into_iter().map(|entry| entry.name).find(|name| name.starts_with("wal-"));
    Path::new(DIR).join(wal.expect("there is a log"))
}

#[test]
fn a_lone_node_leads_at_once_with_three_syncs() {
    let disk = disk();
    let before = disk.sync_count();
    let mut driver = open(&disk, config()).unwrap();
    let handle = driver.handle();
    // The directory's name, the log, and the log's name.
    assert_eq!(disk.sync_count() - before, 3);
    assert!(handle.is_leader());
    let quorum = handle.quorum();
    assert_eq!((quorum.leader, quorum.term.get(), quorum.voters), (Some(NODE), 1, vec![NODE]));
    assert_eq!(handle.image().applied_index(), LogIndex(2));
    assert_eq!(driver.poll(MonotonicMs(10)).unwrap(), None, "a lone node needs no ticks");

    let before = disk.sync_count();
    let answers: Vec<Answer> =
        (0..100).map(|number| ask(&handle, CommandBatch::new(vec![create(number)]))).collect();
    driver.poll(MonotonicMs(20)).unwrap();
    assert_eq!(disk.sync_count() - before, 1, "a hundred proposals share one sync");
    for (answer, index) in answers.iter().zip(3..) {
        assert_eq!(answer.lock().take().unwrap().unwrap().index, LogIndex(index));
    }
    assert_eq!(handle.image().topic_count(), 100);
}

#[test]
fn a_restart_gives_the_same_image() {
    for config in [config(), config_with_snapshots()] {
        let disk = disk();
        let mut driver = open(&disk, config.clone()).unwrap();
        for number in 0..20 {
            create_topic(&mut driver, number).unwrap();
        }
        create_topic(&mut driver, 5).expect_err("it exists");
        let before = driver.handle().image();
        drop(driver);
        disk.crash(Crash::PowerLoss { seed: 1 });
        let syncs_before = disk.sync_count();
        let driver = open(&disk, config).unwrap();
        // Three that find nothing to do, and the new term's first entry.
        assert_eq!(disk.sync_count() - syncs_before, 4);
        let after = driver.handle().image();
        // The new leader's first entry has moved the index, and nothing else.
        assert_eq!(*after, before.skip(LogIndex(before.applied_index().get() + 1), after.applied_term()));
        assert_eq!(driver.handle().quorum().term.get(), 2);
    }
}

#[test]
fn a_listener_sees_each_change_once_and_before_the_answer() {
    let disk = disk();
    let mut driver = open(&disk, config()).unwrap();
    let handle = driver.handle();
    create_topic(&mut driver, 0).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, seen_by_listener) = (handle.clone(), Arc::clone(&seen));
    handle.subscribe(Box::new(move |image, delta| {
        assert_eq!(log.image().applied_index(), image.applied_index());
        seen_by_listener.lock().extend(delta.topics_created.iter().map(|topic| topic.name.to_string()));
    }));
    let (log, seen_by_answer) = (handle.clone(), Arc::clone(&seen));
    let answered = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&answered);
    handle.propose(
        CommandBatch::new(vec![create(1), create(2)]),
        Box::new(move |outcome| {
            outcome.unwrap();
            assert!(log.image().topic("topic-2").is_some());
            assert_eq!(seen_by_answer.lock().len(), 3);
            *flag.lock() = true;
        }),
    );
    driver.poll(MonotonicMs(0)).unwrap();
    assert!(*answered.lock());
    assert_eq!(*seen.lock(), ["topic-0", "topic-1", "topic-2"]);
}

#[test]
fn what_was_answered_survives_a_crash_at_every_step() {
    let mut stop_after = 0;
    let mut lost_nothing_count = 0;
    loop {
        let mut finished = false;
        for crash in
            [Crash::Process, Crash::PowerLoss { seed: stop_after }, Crash::PowerLoss { seed: !stop_after }]
        {
            let disk = disk();
            disk.stop_after(stop_after);
            let mut answered = Vec::new();
            let mut asked_max = 0;
            finished = (|| {
                let Ok(mut driver) = open(&disk, config_with_snapshots()) else { return false };
                for number in 0..12 {
                    asked_max = number + 1;
                    match create_topic(&mut driver, number) {
                        Ok(_) => answered.push(number),
                        Err(_) => return false,
                    }
                }
                true
            })();
            disk.crash(crash);
            let mut driver = open(&disk, config_with_snapshots()).unwrap_or_else(|error| {
                panic!("after {stop_after} operations and {crash:?}: {}", chain(&*error))
            });
            for number in answered {
                assert!(
                    has_topic(&driver, number),
                    "topic {number} is lost after {stop_after} and {crash:?}"
                );
                lost_nothing_count += 1;
            }
            assert!((asked_max..20).all(|number| !has_topic(&driver, number)));
            create_topic(&mut driver, 99).unwrap();
        }
        if finished {
            break;
        }
        stop_after += 1;
    }
    assert!(60 < stop_after && 500 < lost_nothing_count, "{stop_after} steps, {lost_nothing_count} topics");
}

#[test]
fn crashes_while_starting_again_lose_nothing_either() {
    for seed in 0..60 {
        let disk = disk();
        let mut answered = Vec::new();
        for life in 0..8 {
            disk.stop_after((seed * 7 + life * 13) % 29);
            if let Ok(mut driver) = open(&disk, config_with_snapshots()) {
                for number in &answered {
                    assert!(has_topic(&driver, *number), "topic {number} is lost: seed {seed}, life {life}");
                }
                for number in 0..6 {
                    let number = u32::try_from(life * 10 + number).unwrap();
                    match create_topic(&mut driver, number) {
                        Ok(_) => answered.push(number),
                        Err(_) => break,
                    }
                }
            }
            disk.crash(Crash::PowerLoss { seed: seed * 100 + life });
        }
        let driver = open(&disk, config_with_snapshots()).unwrap();
        assert!(answered.iter().all(|number| has_topic(&driver, *number)), "seed {seed}");
    }
}

#[test]
fn a_failed_sync_stops_the_node_for_good() {
    let disk = disk();
    let mut driver = open(&disk, config()).unwrap();
    create_topic(&mut driver, 0).unwrap();
    disk.inject(FaultRule::once(Operation::Sync, "wal-", Fault::Io));
    let error = create_topic(&mut driver, 1).unwrap_err();
    assert!(matches!(&error, ProposeError::Stopped { reason } if reason.contains("cannot sync")), "{error}");
    assert!(!driver.handle().is_leader());
    // The disk would sync again, and the node does not believe it.
    let error = create_topic(&mut driver, 2).unwrap_err();
    assert!(matches!(error, ProposeError::Stopped { .. }), "{error}");
    assert!(driver.poll(MonotonicMs(1)).is_err());
    assert!(has_topic(&driver, 0), "what was there can still be read");
    drop(driver);
    disk.crash(Crash::PowerLoss { seed: 3 });
    let driver = open(&disk, config()).unwrap();
    assert!(has_topic(&driver, 0) && !has_topic(&driver, 1));
}

/// The system takes what it could not sync for written, and reads it to the next process.
#[test]
fn what_a_failed_sync_left_in_memory_is_written_again_by_the_next_process() {
    for seed in 0..10 {
        let disk = disk();
        let mut driver = open(&disk, config()).unwrap();
        create_topic(&mut driver, 0).unwrap();
        disk.inject(FaultRule::once(Operation::Sync, "wal-", Fault::Io));
        // Longer than the sector that the next write brings to the disk with it.
        let handle = driver.handle();
        let answer = ask(&handle, CommandBatch::new((1..20).map(create).collect()));
        driver.poll(MonotonicMs(0)).unwrap_err();
        drop((driver, answer));
        disk.crash(Crash::Process);
        let driver = open(&disk, config()).unwrap();
        assert!(has_topic(&driver, 1), "others may have been told");
        drop(driver);
        disk.crash(Crash::PowerLoss { seed });
        let driver = open(&disk, config()).unwrap();
        assert!((0..20).all(|number| has_topic(&driver, number)), "power loss {seed}");
    }
}

#[test]
fn a_full_disk_refuses_and_heals() {
    let disk = disk();
    let mut driver = open(&disk, config()).unwrap();
    create_topic(&mut driver, 0).unwrap();
    disk.set_capacity_bytes(Some(disk.used_bytes() + 40));
    let handle = driver.handle();
    let waiting = ask(&handle, CommandBatch::new(vec![create(1)]));
    driver.poll(MonotonicMs(0)).unwrap();
    assert!(waiting.lock().is_none(), "it is under way");
    assert!(matches!(create_topic(&mut driver, 2), Err(ProposeError::DiskFull)));
    assert!(has_topic(&driver, 0));
    let wake_at = driver.poll(MonotonicMs(60)).unwrap();
    assert_eq!(wake_at, Some(MonotonicMs(100)), "it tries again by itself");
    disk.set_capacity_bytes(None);
    driver.poll(MonotonicMs(100)).unwrap();
    assert!(waiting.lock().take().unwrap().is_ok());
    create_topic(&mut driver, 2).unwrap();
    drop(driver);
    disk.crash(Crash::PowerLoss { seed: 0 });
    let driver = open(&disk, config()).unwrap();
    assert!((0..3).all(|number| has_topic(&driver, number)));
}

#[test]
fn a_proposal_that_waits_too_long_is_answered() {
    let disk = disk();
    let mut driver = open(&disk, config()).unwrap();
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let waiting = ask(&driver.handle(), CommandBatch::new(vec![create(1)]));
    driver.poll(MonotonicMs(0)).unwrap();
    driver.poll(MonotonicMs(4_999)).unwrap();
    assert!(waiting.lock().is_none());
    driver.poll(MonotonicMs(5_000)).unwrap();
    let answer = waiting.lock().take().unwrap();
    assert!(matches!(answer, Err(ProposeError::TimedOut { timeout_ms: 5_000 })), "{answer:?}");
}

#[test]
fn every_flipped_byte_is_found_and_named() {
    let disk = disk();
    let mut driver = open(&disk, config()).unwrap();
    for number in 0..4 {
        create_topic(&mut driver, number).unwrap();
    }
    drop(driver);
    disk.crash(Crash::Process);
    let path = wal_path(&disk);
    let contents = disk.read_file(&path).unwrap();
    for position in 0..contents.len() {
        disk.corrupt(&path, position as u64, 0x40).unwrap();
        match open(&disk, config()).map_err(|error| chain(&*error)) {
            Ok(_) => panic!("byte {position} was not missed"),
            Err(text) => {
                let named = text.contains("wal-0000000001");
                assert!(named && (text.contains("damaged at byte") || text.contains("version")), "{text}");
            }
        }
        disk.corrupt(&path, position as u64, 0x40).unwrap();
    }
    assert!(open(&disk, config()).is_ok());
}

#[test]
fn a_frame_cut_at_any_byte_is_dropped_alone() {
    let disk = disk();
    let mut driver = open(&disk, config()).unwrap();
    create_topic(&mut driver, 0).unwrap();
    let path = wal_path(&disk);
    let whole_bytes = disk.read_file(&path).unwrap().len();
    create_topic(&mut driver, 1).unwrap();
    drop(driver);
    disk.crash(Crash::Process);
    let contents = disk.read_file(&path).unwrap();
    for len in whole_bytes..contents.len() {
        let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
        file.truncate(0).unwrap();
        file.write_all_at(&contents[..len], 0).unwrap();
        let driver = open(&disk, config()).unwrap_or_else(|error| panic!("{len}: {}", chain(&*error)));
        assert!(has_topic(&driver, 0) && !has_topic(&driver, 1));
        drop(driver);
        // Blank sectors at the end are a torn write too.
        file.truncate(0).unwrap();
        file.write_all_at(&contents[..len], 0).unwrap();
        file.truncate((len + 4096) as u64).unwrap();
        let driver = open(&disk, config()).unwrap_or_else(|error| panic!("{len}: {}", chain(&*error)));
        assert!(has_topic(&driver, 0));
    }
}

#[test]
fn damaged_and_missing_snapshots_are_named() {
    let disk = disk();
    let mut driver = open(&disk, config_with_snapshots()).unwrap();
    for number in 0..8 {
        create_topic(&mut driver, number).unwrap();
    }
    drop(driver);
    let names: Vec<String> =
        disk.read_dir(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), 2, "one log and one snapshot: {names:?}");
    let snapshot = Path::new(DIR).join(&names[0]);
    for position in [0, 9, 15, 30, 40, 60, 100] {
        disk.corrupt(&snapshot, position, 1).unwrap();
        let text = open(&disk, config()).map_err(|error| chain(&*error)).err().expect("it is damaged");
        assert!(text.contains(&names[0]), "{text}");
        disk.corrupt(&snapshot, position, 1).unwrap();
    }
    let contents = disk.read_file(&snapshot).unwrap();
    disk.remove_file(&snapshot).unwrap();
    let text = open(&disk, config()).map_err(|error| chain(&*error)).err().expect("it is gone");
    assert!(text.contains(&names[0]), "{text}");
    disk.replace_file(&snapshot, &contents).unwrap();
    disk.remove_file(&wal_path(&disk)).unwrap();
    let error = open(&disk, config()).err().expect("the log is gone");
    assert!(matches!(&*error, RaftError::Store(StoreError::LogMissing { .. })), "{error}");
}

#[test]
fn another_nodes_directory_is_refused() {
    let disk = disk();
    drop(open(&disk, config()).unwrap());
    let other = RaftConfig::new(NodeId(7), vec![NodeId(7)], 0);
    let text = open(&disk, other).map_err(|error| chain(&*error)).err().expect("it is node 0's");
    assert!(text.contains("belongs to node 0, and this is node 7"), "{text}");
}

#[test]
fn a_batch_beyond_the_limits_is_refused() {
    let disk = disk();
    let mut driver = open(&disk, config()).unwrap();
    let delete = Command::from(DeleteTopic::new(TopicId(1)));
    let answer = ask(&driver.handle(), CommandBatch::new(vec![delete; 100_001]));
    driver.poll(MonotonicMs(0)).unwrap();
    let answer = answer.lock().take().unwrap();
    assert!(matches!(answer, Err(ProposeError::TooLarge { command_count: 100_001, .. })));
    let answer = ask(&driver.handle(), CommandBatch::new(vec![Command { kind: None }]));
    driver.poll(MonotonicMs(0)).unwrap();
    let answer = answer.lock().take().unwrap();
    assert!(
        matches!(answer, Err(ProposeError::UnknownFormat { unknown_command: Some(0), .. })),
        "{answer:?}"
    );
    create_topic(&mut driver, 1).expect("the node goes on");
}

#[test]
fn proposals_are_bounded_and_always_answered() {
    let disk = disk();
    let driver = open(&disk, config()).unwrap();
    let handle = driver.handle();
    let answers: Vec<Answer> =
        (0..=PROPOSALS_WAITING_MAX).map(|_| ask(&handle, CommandBatch::new(Vec::new()))).collect();
    assert!(matches!(answers.last().unwrap().lock().take(), Some(Err(ProposeError::Busy))));
    drop(driver);
    for answer in &answers[..PROPOSALS_WAITING_MAX] {
        assert!(matches!(answer.lock().take(), Some(Err(ProposeError::Stopped { .. }))));
    }
    let late = ask(&handle, CommandBatch::new(Vec::new()));
    assert!(matches!(late.lock().take(), Some(Err(ProposeError::Stopped { .. }))));
}

#[test]
fn a_wake_that_comes_before_the_wait_is_not_lost() {
    let disk = disk();
    let driver = open(&disk, config()).unwrap();
    let handle = driver.handle();
    handle.wake();
    // Without the wake this would last for ever.
    handle.wait(None);
    let waiting = handle.clone();
    let thread = std::thread::spawn(move || waiting.wait(None));
    handle.wake();
    thread.join().unwrap();
    drop(ask(&handle, CommandBatch::new(Vec::new())));
    handle.wait(None);
}
