//! Random histories of one log, held against a list of records in memory.
//!
//! Every history comes from a seed, which a failure names.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use bytes::{Bytes, BytesMut};
use chronik_disk::{Crash, SimDisk};
use chronik_log::{AppendError, AppendOrigin, CleanupPolicy, Log, LogConfig, ManagerOptions, OffsetQuery};
use chronik_protocol::records::{BatchIter, Compression};
use chronik_types::{LeaderEpoch, Now, Offset, TimestampMs};
use common::*;

const HISTORIES: u64 = 60;
const STEPS: u32 = 120;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn offset(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.below(u64::try_from(to - from).unwrap() + 1)).unwrap()
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Record {
    offset: i64,
    value: Vec<u8>,
    timestamp: i64,
    epoch: i32,
    /// Base offset of its batch.
    batch: i64,
}

#[derive(Default)]
struct Model {
    records: Vec<Record>,
    start: i64,
    end: i64,
}

impl Model {
    fn visible(&self, from: i64) -> Vec<(i64, Vec<u8>)> {
        let visible = self.records.iter().filter(|record| record.offset >= from.max(self.start));
        visible.map(|record| (record.offset, record.value.clone())).collect()
    }

    fn truncate(&mut self, offset: i64) {
        // A batch is cut as a whole.
        let cut = self
            .records
            .iter()
            .find(|record| record.offset >= offset)
            .map_or(offset, |r| r.batch.min(offset));
        self.records.retain(|record| record.offset < cut);
        self.end = cut.max(self.start);
        if cut < self.start {
            self.records.clear();
        }
    }
}

struct History {
    random: Random,
    node: Option<Node>,
    model: Model,
    now_ms: u64,
    epoch: i32,
    next_value: u64,
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 1500,
        index_interval_bytes: 150,
        retention_ms: None,
        file_delete_delay_ms: 1000,
        ..LogConfig::default()
    }
}

fn manager_options() -> ManagerOptions {
    // A small ring, so that reads come from memory and from files.
    ManagerOptions { tail_ring_bytes_max: 600, open_files_max: 4, ..options("boot") }
}

impl History {
    fn new(seed: u64) -> Self {
        let node = Node::with_options(SimDisk::new(), config(), manager_options());
        node.log();
        Self {
            random: Random(seed),
            node: Some(node),
            model: Model::default(),
            now_ms: 0,
            epoch: 0,
            next_value: 0,
        }
    }

    fn now(&self) -> Now {
        now_at(self.now_ms)
    }

    fn log(&self) -> std::sync::Arc<Log> {
        self.node.as_ref().unwrap().log()
    }

    fn some_batch(&mut self) -> (BytesMut, Vec<(Vec<u8>, i64)>) {
        let count = 1 + self.random.below(4);
        let timestamp = BASE_MS + i64::try_from(self.random.below(10_000)).unwrap();
        let mut values = Vec::new();
        for at in 0..count {
            self.next_value += 1;
            let mut value = self.next_value.to_be_bytes().to_vec();
            value.resize(8 + usize::try_from(self.random.below(120)).unwrap(), b'v');
            values.push((value, timestamp + i64::try_from(at).unwrap()));
        }
        let codecs = [Compression::None, Compression::None, Compression::Lz4, Compression::Zstd];
        let codec = codecs[usize::try_from(self.random.below(4)).unwrap()];
        let slices: Vec<&[u8]> = values.iter().map(|(value, _)| value.as_slice()).collect();
        (compressed(codec, timestamp, &slices), values)
    }

    fn note_appended(&mut self, base: i64, values: Vec<(Vec<u8>, i64)>) {
        for (value, timestamp) in values {
            let (offset, epoch) = (self.model.end, self.epoch);
            self.model.records.push(Record { offset, value, timestamp, epoch, batch: base });
            self.model.end += 1;
        }
    }

    fn append(&mut self) {
        let (batch, values) = self.some_batch();
        let log = self.log();
        let appended = log.append(self.now(), batch, AppendOrigin::Client, LeaderEpoch(self.epoch)).unwrap();
        assert_eq!(appended.first_offset.get(), self.model.end);
        self.note_appended(appended.first_offset.get(), values);
    }

    fn append_as_follower(&mut self) {
        let mut records = BytesMut::new();
        for _ in 0..=self.random.below(3) {
            let (mut batch, values) = self.some_batch();
            let base = self.model.end;
            chronik_protocol::records::patch_append(&mut batch, Offset(base), LeaderEpoch(self.epoch));
            records.extend_from_slice(&batch);
            self.note_appended(base, values);
        }
        let whole = records.len();
        // What a fetch cuts off is ignored.
        let (torn, _) = self.some_batch();
        self.next_value += 1;
        records.extend_from_slice(&torn[..torn.len() / 2]);
        assert!(whole < records.len());
        let appended =
            self.log().append_as_follower(self.now(), records.freeze(), LeaderEpoch(self.epoch)).unwrap();
        assert_eq!(appended.log_end_offset.get(), self.model.end);
    }

    fn read(&mut self) {
        let from = self.random.offset(self.model.start, self.model.end);
        let max_bytes = 1 + usize::try_from(self.random.below(900)).unwrap();
        assert_eq!(all_records(&self.log(), from, max_bytes), self.model.visible(from));
    }

    fn read_bounded(&mut self) {
        let from = self.random.offset(self.model.start, self.model.end);
        let bound = self.random.offset(from, self.model.end);
        let max_bytes = 1 + usize::try_from(self.random.below(900)).unwrap();
        let at_least_one_batch = self.random.below(2) == 0;
        let request = chronik_log::ReadRequest {
            start_offset: Offset(from),
            max_bytes,
            at_least_one_batch,
            upper_bound_offset: Offset(bound),
        };
        let result = self.log().read(request).unwrap();
        let bytes = bytes_of(&result);
        let batch_count = BatchIter::new(&bytes).count();
        assert!(bytes.len() <= max_bytes || (at_least_one_batch && batch_count == 1));
        let found = records_of(&bytes);
        assert!(found.iter().all(|(offset, _)| *offset < bound));
        assert!(result.next_offset.get() <= bound.max(from));
        let expected: Vec<_> = self.model.visible(i64::MIN);
        for record in found.iter().filter(|(offset, _)| *offset >= self.model.start) {
            assert!(expected.contains(record));
        }
        // Not less than it could have been: the next batch either reaches the bound or does not fit.
        if result.next_offset.get() < bound && !bytes.is_empty() && bytes.len() < max_bytes {
            let next = read_from(&self.log(), result.next_offset.get(), 1);
            let crosses_segment = matches!(result.data, chronik_log::ReadData::File(_));
            let reaches = next.next_offset.get() > bound;
            let too_large = bytes.len() as u64 + next.len_bytes > max_bytes as u64;
            assert!(crosses_segment || reaches || too_large);
        }
    }

    fn look_up(&mut self) {
        let timestamp = BASE_MS - 5 + i64::try_from(self.random.below(10_010)).unwrap();
        let found = self.log().offset_for(OffsetQuery::Timestamp(TimestampMs(timestamp))).unwrap();
        let expected = self
            .model
            .records
            .iter()
            .find(|record| record.offset >= self.model.start && record.timestamp >= timestamp);
        let found = found.map(|found| (found.offset.get(), found.timestamp.get(), found.leader_epoch.get()));
        assert_eq!(found, expected.map(|record| (record.offset, record.timestamp, record.epoch)));
    }

    fn look_up_ends(&self) {
        let log = self.log();
        let earliest = log.offset_for(OffsetQuery::Earliest).unwrap().unwrap();
        let latest = log.offset_for(OffsetQuery::Latest).unwrap().unwrap();
        assert_eq!((earliest.offset.get(), latest.offset.get()), (self.model.start, self.model.end));
        // Whole segments stay for a while after their records are deleted, as in Kafka.
        let newest =
            self.model.records.iter().filter(|r| r.offset >= self.model.start).map(|r| r.timestamp).max();
        let found = log.offset_for(OffsetQuery::MaxTimestamp).unwrap();
        assert!(found.map(|found| found.timestamp.get()) >= newest);
    }

    fn truncate(&mut self) {
        let log = self.log();
        let offset = self.random.offset(self.model.start, self.model.end);
        // Few records at a time, or the log never grows.
        let offset = offset.max(self.model.end - 8);
        assert_eq!(log.truncate_to(self.now(), Offset(offset)).unwrap(), offset < self.model.end);
        if offset < self.model.end {
            self.model.truncate(offset);
            if log.log_start_offset().get() != self.model.start {
                // A cut below the first segment empties the log.
                assert_eq!(log.log_start_offset().get(), offset);
                self.model.start = offset;
            }
            if self.model.records.is_empty() {
                self.model.end = log.log_end_offset().get();
            }
        }
        self.epoch += 1;
        assert_eq!(log.log_end_offset().get(), self.model.end);
    }

    fn start_anew(&mut self) {
        let offset = self.model.end + i64::try_from(self.random.below(100)).unwrap();
        self.log().truncate_fully_and_start_at(self.now(), Offset(offset)).unwrap();
        self.model = Model { records: Vec::new(), start: offset, end: offset };
    }

    fn delete_records(&mut self) {
        let log = self.log();
        log.set_high_watermark(Offset(self.model.end));
        let offset = self.random.offset(self.model.start, self.model.end);
        assert_eq!(log.delete_records(Offset(offset)).unwrap().get(), offset);
        self.model.start = offset;
    }

    fn maintain(&mut self) {
        self.now_ms += self.random.below(8_000);
        let node = self.node.as_ref().unwrap();
        node.manager.maintain(self.now());
        node.manager.flush_queue().sync_batch();
    }

    fn restart(&mut self, clean: bool) {
        let node = self.node.take().unwrap();
        if clean {
            node.manager.shutdown(self.now()).unwrap();
        }
        let Node { disk, manager, .. } = node;
        drop(manager);
        disk.crash(Crash::Process);
        self.node = Some(Node::with_options(disk, config(), manager_options()));
        self.check();
    }

    fn check(&self) {
        let log = self.log();
        assert_eq!(log.log_start_offset().get(), self.model.start);
        assert_eq!(log.log_end_offset().get(), self.model.end);
        assert_eq!(all_records(&log, self.model.start, 400), self.model.visible(i64::MIN));
        let size: u64 = log.size_bytes();
        assert!(size < 1 << 30, "{size}");
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=39 => self.append(),
            40..=49 => self.append_as_follower(),
            50..=61 => self.read(),
            62..=71 => self.read_bounded(),
            72..=79 => self.look_up(),
            80..=81 => self.look_up_ends(),
            82..=85 => self.truncate(),
            86..=87 => self.delete_records(),
            88 => self.start_anew(),
            89..=94 => self.maintain(),
            95..=97 => self.restart(false),
            _ => self.restart(true),
        }
    }
}

#[test]
fn histories_agree_with_the_model() {
    for seed in 0..HISTORIES {
        let run = std::panic::catch_unwind(|| {
            let mut history = History::new(seed);
            for _ in 0..STEPS {
                history.step();
            }
            history.check();
        });
        assert!(run.is_ok(), "the history of seed {seed} failed");
    }
}

#[test]
fn a_follower_refuses_what_does_not_continue_its_log() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    let mut first = batch(BASE_MS, &[b"a", b"b"]);
    chronik_protocol::records::patch_append(&mut first, Offset(10), LeaderEpoch(3));
    let append = |records: Bytes| log.append_as_follower(now_at(0), records, LeaderEpoch(3));
    let appended = append(Bytes::copy_from_slice(&first)).unwrap();
    assert_eq!((appended.first_offset, appended.log_end_offset), (Offset(10), Offset(12)));
    assert_eq!(appended.leader_epoch, LeaderEpoch(3));
    assert!(append(Bytes::copy_from_slice(&first)).is_err());
    let mut older = batch(BASE_MS, &[b"c"]);
    chronik_protocol::records::patch_append(&mut older, Offset(12), LeaderEpoch(2));
    assert!(append(older.freeze()).is_err());
    let mut newer = batch(BASE_MS, &[b"c"]);
    chronik_protocol::records::patch_append(&mut newer, Offset(12), LeaderEpoch(4));
    assert!(matches!(append(newer.freeze()), Err(AppendError::LeaderEpochAhead { .. })));
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(3)));
    let mut broken = batch(BASE_MS, &[b"c"]);
    chronik_protocol::records::patch_append(&mut broken, Offset(12), LeaderEpoch(3));
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(append(broken.freeze()).is_err());
    assert_eq!(log.log_end_offset(), Offset(12));
}

#[test]
fn only_a_leader_keeps_what_it_appends_in_memory() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    append(&log, batch(BASE_MS, &[b"a"])).unwrap();
    assert!(node.manager.tail_memory_bytes() > 0);
    let epoch = log.latest_epoch().unwrap();
    let mut followed = batch(BASE_MS, &[b"b"]);
    chronik_protocol::records::patch_append(&mut followed, Offset(1), epoch);
    log.append_as_follower(now_at(0), followed.freeze(), LeaderEpoch(i32::MAX)).unwrap();
    assert_eq!(node.manager.tail_memory_bytes(), 0);
    append(&log, batch(BASE_MS, &[b"c"])).unwrap();
    assert!(node.manager.tail_memory_bytes() > 0, "it leads again");
    let expected = [(0, b"a".to_vec()), (1, b"b".to_vec()), (2, b"c".to_vec())];
    for from in 0..3 {
        assert_eq!(all_records(&log, from, 1_000), expected[usize::try_from(from).unwrap()..]);
    }
}

/// Replication point 2. Where offsets are missing at the end, as behind a base offset that was read wrongly, a cut ends the
/// log behind its last batch: what follows is the leader's to tell.
#[test]
fn a_cut_ends_where_the_batches_end() {
    // Every batch is in the index, or none; the batch that goes is in the middle of a segment, or the first of one.
    for (index_interval_bytes, segment_bytes) in [(1, 1 << 20), (1 << 20, 1 << 20), (1, 150), (1 << 20, 150)]
    {
        let cleanup_policy = CleanupPolicy::COMPACT;
        let config =
            LogConfig { cleanup_policy, index_interval_bytes, segment_bytes, ..LogConfig::default() };
        for (to, end) in [(12, 6), (20, 6), (6, 6), (5, 2), (4, 2), (30, 21)] {
            let node = Node::new(config.clone());
            let log = node.log();
            for (base_offset, size) in [(0, 2), (5, 1), (20, 1), (35, 1)] {
                let values: Vec<&[u8]> = vec![b"v"; size];
                let mut bytes = batch(BASE_MS, &values);
                chronik_protocol::records::patch_append(&mut bytes, Offset(base_offset), LeaderEpoch(1));
                log.append_as_follower(now_at(0), bytes.freeze(), LeaderEpoch(i32::MAX)).unwrap();
            }
            assert!(log.truncate_to(now_at(0), Offset(to)).unwrap());
            let at = format!("cut at {to}, segments of {segment_bytes} bytes, index {index_interval_bytes}");
            assert_eq!(log.log_end_offset(), Offset(end), "{at}");
            drop(log);
            let node = node.restart(Crash::Process, "boot-1");
            assert_eq!(node.log().log_end_offset(), Offset(end), "{at}, after a restart");
        }
    }
}

/// Replication point 2: a leader whose log a power loss has cut begins its epoch earlier than its followers know it.
#[test]
fn an_epoch_without_records_gives_way_to_the_leaders_history() {
    let node = Node::new(LogConfig::default());
    let log = node.log();
    let follow = |base_offset, epoch| {
        let mut bytes = batch(BASE_MS, &[b"v"]);
        chronik_protocol::records::patch_append(&mut bytes, Offset(base_offset), LeaderEpoch(epoch));
        log.append_as_follower(now_at(0), bytes.freeze(), LeaderEpoch(i32::MAX))
    };
    let end = |epoch| {
        let end = log.end_offset_for_epoch(LeaderEpoch(epoch)).unwrap();
        (end.leader_epoch.get(), end.end_offset.get())
    };
    log.begin_epoch(LeaderEpoch(1)).unwrap();
    assert_eq!((log.latest_epoch(), log.last_record_epoch()), (Some(LeaderEpoch(1)), None));
    follow(0, 0).unwrap();
    log.begin_epoch(LeaderEpoch(3)).unwrap();
    assert_eq!(log.last_record_epoch(), Some(LeaderEpoch(0)), "where a follower goes on from");
    follow(1, 0).unwrap();
    assert_eq!((log.latest_epoch(), end(0)), (Some(LeaderEpoch(0)), (0, 2)));
    log.begin_epoch(LeaderEpoch(3)).unwrap();
    follow(2, 2).unwrap();
    assert_eq!((end(0), end(2)), ((0, 2), (2, 3)), "the epoch before begins where it did");
    assert!(follow(3, 1).is_err(), "epochs of records never decrease");
}
