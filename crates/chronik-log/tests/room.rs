//! Logs that wait for room on a full disk, and are recovered while everything else goes on.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use chronik_disk::{
    Crash, Disk, DiskFile, DiskLayer, Fault, FaultRule, FileLayer, OpenMode, Operation, SimDisk,
};
use chronik_log::{LogConfig, LogError};
use chronik_types::{Offset, TopicId, TopicPartition};
use common::*;
use parking_lot::{Condvar, Mutex};

/// Longer than any machine takes for what does not wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the reads of the log under test, or the writes of the journal, are held up.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_shut: bool,
    waiting_count: usize,
    read_count: usize,
}

impl Gate {
    fn shut(&self) {
        self.state.lock().is_shut = true;
    }

    fn open(&self) {
        self.state.lock().is_shut = false;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        state.read_count += 1;
        state.waiting_count += 1;
        self.changed.notify_all();
        while state.is_shut {
            self.changed.wait(&mut state);
        }
        state.waiting_count -= 1;
    }

    /// Waits until somebody stands before it.
    fn wait_for_reader(&self) {
        let mut state = self.state.lock();
        while state.waiting_count == 0 {
            assert!(!self.changed.wait_for(&mut state, PATIENCE).timed_out(), "nobody reads the log");
        }
    }

    fn read_count(&self) -> usize {
        self.state.lock().read_count
    }
}

/// A disk on which reads of the segments of [`partition()`] go through a gate, and writes of the journal through another.
struct GatedDisk {
    inner: SimDisk,
    gate: Arc<Gate>,
    journal_gate: Arc<Gate>,
}

struct GatedFile {
    inner: Arc<dyn DiskFile>,
    read_gate: Option<Arc<Gate>>,
    write_gate: Option<Arc<Gate>>,
}

impl DiskLayer for GatedDisk {
    fn below(&self) -> &dyn Disk {
        &self.inner
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path, mode)?;
        let is_segment = path.starts_with(partition_dir()) && path.extension().is_some_and(|it| it == "log");
        let is_journal = path.to_string_lossy().contains("chronik-journal");
        Ok(Arc::new(GatedFile {
            inner,
            read_gate: is_segment.then(|| Arc::clone(&self.gate)),
            write_gate: is_journal.then(|| Arc::clone(&self.journal_gate)),
        }))
    }
}

impl FileLayer for GatedFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.inner
    }

    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.read_gate.iter().for_each(|gate| gate.pass());
        self.inner.read_at(buffer, offset_bytes)
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.write_gate.iter().for_each(|gate| gate.pass());
        self.inner.write_all_at(bytes, offset_bytes)
    }
}

fn other(index: i32) -> TopicPartition {
    TopicPartition::new("other", index)
}

/// A node whose log of 40 records waits for room, beside one that does not, and how its reads are held up. There is room
/// by now.
fn waiting() -> (Node, Arc<Gate>) {
    let node = Node::new(LogConfig { segment_bytes: 1_000, ..LogConfig::default() });
    append_values(&node.log(), 40);
    node.manager.get_or_create(&other(0), TopicId(9), Arc::clone(&node.config)).unwrap();
    let Node { disk, config, manager } = node;
    disk.crash(Crash::Process);
    drop(manager);
    disk.remove_file(&partition_dir().join("leader-epoch-checkpoint")).unwrap();
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let gate = Arc::new(Gate::default());
    let gated: Arc<dyn Disk> =
        Arc::new(GatedDisk { inner: disk.clone(), gate: Arc::clone(&gate), journal_gate: Arc::default() });
    let manager = open_manager(&gated, &dir(), options("boot-1"), &config, now_at(0)).unwrap();
    disk.set_capacity_bytes(None);
    assert!(manager.waits_for_room() && manager.get(&other(0)).is_some());
    (Node { disk, manager, config }, gate)
}

/// Runs `meanwhile` while the recovery of the log stands still in the middle of a read.
fn while_recovering(node: &Node, gate: &Arc<Gate>, meanwhile: impl FnOnce(&Node) + Send + 'static) {
    gate.shut();
    let maintained = Arc::clone(&node.manager);
    let maintenance = thread::spawn(move || maintained.maintain(now_at(10_000)));
    gate.wait_for_reader();
    let (sender, done) = mpsc::channel();
    let seen = Node {
        disk: node.disk.clone(),
        manager: Arc::clone(&node.manager),
        config: Arc::clone(&node.config),
    };
    let doing = thread::spawn(move || {
        meanwhile(&seen);
        sender.send(()).unwrap();
    });
    let is_done = done.recv_timeout(PATIENCE);
    gate.open();
    maintenance.join().unwrap();
    assert_ne!(is_done, Err(mpsc::RecvTimeoutError::Timeout), "it waits for the recovery");
    doing.join().unwrap();
}

fn names(node: &Node) -> Vec<String> {
    node.disk.read_dir(&dir()).unwrap().into_iter().map(|entry| entry.name).collect()
}

/// Whoever deletes or opens a log may be the thread of the metadata log, which has to vote and to append meanwhile.
#[test]
fn nobody_waits_for_the_recovery_of_another_log() {
    let (node, gate) = waiting();
    while_recovering(&node, &gate, |node| {
        assert!(node.manager.delete(now_at(10_000), &other(0)).unwrap());
        let open = |partition: &TopicPartition| {
            node.manager.get_or_create(partition, TOPIC_ID, Arc::clone(&node.config))
        };
        open(&other(1)).unwrap();
        assert!(matches!(open(&partition()), Err(LogError::DiskFull { .. })));
        assert!(node.manager.get(&partition()).is_none() && node.manager.waits_for_room());
    });
    assert!(node.manager.failed().is_empty());
    assert_eq!(node.log().log_end_offset(), Offset(40));
    assert_eq!(all_records(&node.log(), 0, 1_000).len(), 40);
}

/// Nor does whoever opens the log itself read it.
#[test]
fn a_log_that_waits_for_room_is_recovered_by_maintenance_only() {
    let (node, gate) = waiting();
    let read_count = gate.read_count();
    let open = || node.manager.get_or_create(&partition(), TOPIC_ID, Arc::clone(&node.config));
    assert!(matches!(open(), Err(LogError::DiskFull { .. })));
    assert_eq!(gate.read_count(), read_count);
    node.manager.maintain(now_at(1_000));
    assert_eq!(open().unwrap().log_end_offset(), Offset(40));
}

/// Replication point 17.
#[test]
fn a_log_that_is_deleted_while_it_is_recovered_is_gone_when_that_has_ended() {
    for fails in [false, true] {
        let (node, gate) = waiting();
        if fails {
            let fault = FaultRule::always(Operation::Open, "leader-epoch-checkpoint", Fault::NoSpace);
            node.disk.inject(fault);
        }
        while_recovering(&node, &gate, |node| {
            for _ in 0..2 {
                assert!(node.manager.delete(now_at(10_000), &partition()).unwrap());
            }
            // The next topic of its name has to wait for the directory.
            let next = node.manager.get_or_create(&partition(), TopicId(8), Arc::clone(&node.config));
            assert!(matches!(next, Err(LogError::DiskFull { .. })));
            assert!(matches!(
                node.manager.retire_stray(now_at(10_000), &partition()),
                Err(LogError::DiskFull { .. })
            ));
            assert!(node.disk.exists(&partition_dir()).unwrap(), "somebody writes to it");
        });
        assert!(node.manager.get(&partition()).is_none(), "{fails}");
        assert!(node.manager.failed().is_empty() && !node.manager.has_lost_records(), "{fails}");
        node.manager.maintain(now_at(11_000));
        assert!(!names(&node).iter().any(|name| name.starts_with("orders-0")), "{:?}", names(&node));
        node.disk.clear_faults();
        let next = node.manager.get_or_create(&partition(), TopicId(8), Arc::clone(&node.config)).unwrap();
        assert_eq!((next.topic_id(), next.log_end_offset()), (TopicId(8), Offset(0)));
    }
}

/// Its directory may be kept from getting another name for a while.
#[test]
fn a_deleted_log_that_cannot_be_renamed_after_its_recovery_is_not_served_and_goes_later() {
    let (node, gate) = waiting();
    while_recovering(&node, &gate, |node| {
        assert!(node.manager.delete(now_at(10_000), &partition()).unwrap());
        node.disk.inject(FaultRule::always(Operation::Rename, "orders-0", Fault::NoSpace));
    });
    assert!(node.manager.get(&partition()).is_none());
    let next = || node.manager.get_or_create(&partition(), TopicId(8), Arc::clone(&node.config));
    assert!(next().is_err());
    node.disk.clear_faults();
    let read_count = gate.read_count();
    node.manager.maintain(now_at(11_000));
    assert_eq!(gate.read_count(), read_count, "it is not recovered for that");
    assert_eq!(next().unwrap().log_end_offset(), Offset(0));
}

/// An attempt reads all of the log, which may take minutes; the pause begins after that.
#[test]
fn a_recovery_that_finds_the_disk_full_is_tried_again_after_a_pause() {
    let (node, gate) = waiting();
    node.disk.inject(FaultRule::always(Operation::Open, "leader-epoch-checkpoint", Fault::NoSpace));
    node.manager.maintain(now_at(1_000));
    assert!(node.manager.waits_for_room());
    node.disk.clear_faults();
    let read_count = gate.read_count();
    for ms in [300_000, 301_000, 329_999] {
        node.manager.maintain(now_at(ms));
        assert!(node.manager.waits_for_room(), "{ms}");
    }
    assert_eq!(gate.read_count(), read_count);
    node.manager.maintain(now_at(330_000));
    assert!(!node.manager.waits_for_room());
    assert_eq!(node.log().log_end_offset(), Offset(40));
}

/// A log's new start is noted late where the disk was full, and the log may be deleted at that moment. The note is not one
/// of the log that is made next under its name.
#[test]
fn what_a_deleted_log_owed_the_journal_is_not_noted_for_the_next_one() {
    let config = Arc::new(LogConfig::default());
    let disk = SimDisk::new();
    let journal_gate = Arc::new(Gate::default());
    let gated: Arc<dyn Disk> = Arc::new(GatedDisk {
        inner: disk.clone(),
        gate: Arc::default(),
        journal_gate: Arc::clone(&journal_gate),
    });
    let manager = open_manager(&gated, &dir(), options("boot-1"), &config, now_at(0)).unwrap();
    let log = manager.get_or_create(&partition(), TOPIC_ID, Arc::clone(&config)).unwrap();
    for at in 0..40 {
        append(&log, idempotent(5, 0, at, &[b"value"])).unwrap();
    }
    log.set_high_watermark(Offset(40));
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    log.delete_records(Offset(30)).unwrap();
    disk.set_capacity_bytes(None);
    journal_gate.shut();
    let deleting = Arc::clone(&manager);
    let deletion = thread::spawn(move || deleting.delete(now_at(1), &partition()).unwrap());
    // It is about to note that the log is deleted.
    journal_gate.wait_for_reader();
    let maintained = Arc::clone(&manager);
    let (sender, done) = mpsc::channel();
    let maintenance = thread::spawn(move || {
        maintained.maintain(now_at(1));
        sender.send(()).unwrap();
    });
    // Either it leaves the start alone, or it stands behind the deletion with it.
    let _is_done = done.recv_timeout(Duration::from_millis(300));
    journal_gate.open();
    assert!(deletion.join().unwrap());
    maintenance.join().unwrap();
    let next = manager.get_or_create(&partition(), TopicId(8), Arc::clone(&config)).unwrap();
    for at in 0..10 {
        append(&next, idempotent(6, 0, at, &[b"next"])).unwrap();
    }
    drop((log, next, manager));
    disk.crash(Crash::Process);
    let node = Node::on(disk, (*config).clone(), "boot-1");
    let log = node.manager.get(&partition()).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(0), Offset(10)));
}

/// A start on a full disk leaves partitions out that it would have to write to. They come back when there is room, and not
/// only with the next start.
#[test]
fn what_a_full_disk_kept_from_being_recovered_is_recovered_once_there_is_room() {
    let node = Node::new(small_segments());
    append_values(&node.log(), 40);
    let records = all_records(&node.log(), 0, 1_000);
    let disk = node.disk.clone();
    disk.crash(Crash::Process);
    drop(node);
    disk.remove_file(&partition_dir().join("leader-epoch-checkpoint")).unwrap();
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let node = Node::on(disk, small_segments(), "boot-1");
    let open = || node.manager.get_or_create(&partition(), TOPIC_ID, Arc::clone(&node.config));
    for _ in 0..2 {
        assert!(matches!(open(), Err(LogError::DiskFull { .. })));
        assert_eq!(node.manager.failed().len(), 1);
        assert!(node.manager.waits_for_room() && !node.manager.has_lost_records(), "nobody can say yet");
    }
    node.disk.set_capacity_bytes(None);
    node.manager.maintain(now_at(1_000));
    let log = open().unwrap();
    assert!(node.manager.failed().is_empty());
    assert_eq!(all_records(&log, 0, 1_000), records);
    assert!(append(&log, idempotent(5, 0, 39, &[b"value 39"])).unwrap().is_duplicate);
    append(&log, idempotent(5, 0, 40, &[b"value 40"])).unwrap();
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!(node.log().log_end_offset(), Offset(41));
}

/// Whether a log has lost something is known once it is recovered. What tells that outlasts the processes that had no room
/// for it, even such as have room for everything else.
#[test]
fn a_log_that_waits_for_room_is_told_as_lost_when_it_is_recovered_and_only_if_it_is() {
    for is_damaged in [false, true] {
        let (disk, records) = written(false);
        disk.remove_file(&file("partition.metadata")).unwrap();
        if is_damaged {
            disk.remove_file(&segment(0, "log")).unwrap();
        }
        let mut node = None;
        for life in 0..3 {
            disk.set_capacity_bytes(Some(disk.used_bytes()));
            let waiting = Node::on(disk.clone(), small_segments(), "boot-1");
            assert_eq!(
                (waiting.manager.waits_for_room(), waiting.manager.has_lost_records()),
                (true, false),
                "life {life}, {is_damaged}: {:?}",
                waiting.manager.failed()
            );
            // Others find room again, which is too little for this one.
            disk.set_capacity_bytes(Some(disk.used_bytes() + 100_000));
            let other = TopicPartition::new("other", 0);
            let log = waiting.manager.get_or_create(&other, TopicId(9), Arc::clone(&waiting.config)).unwrap();
            append(&log, batch(BASE_MS, &[b"more"])).unwrap();
            waiting.manager.maintain(now_at(40_000 + life * 20_000));
            assert!(waiting.manager.waits_for_room(), "life {life}");
            if life == 1 {
                assert!(matches!(waiting.manager.shutdown(now_at(70_000)), Err(LogError::DiskFull { .. })));
            }
            if life < 2 {
                disk.crash(Crash::Process);
            }
            node = Some(waiting);
        }
        let node = node.unwrap();
        disk.set_capacity_bytes(None);
        node.manager.maintain(now_at(120_000));
        assert!(!node.manager.waits_for_room());
        assert_eq!(node.manager.has_lost_records(), is_damaged);
        let log = node.log();
        assert_eq!(log.hole().is_some(), is_damaged);
        if !is_damaged {
            assert_eq!(all_records(&log, 0, 1_000), records);
        }
    }
}
