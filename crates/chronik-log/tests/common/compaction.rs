//! What the tests of compaction share: random batches, a model of what must be readable, a cleaner that is driven.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use chronik_log::{AppendOrigin, Cleaner, CleanerOptions, CleanerWorker, Log, LogManager};
use chronik_protocol::records::{
    BatchBuilder, BatchIter, BatchOptions, Compression, Header, RecordIter, TimestampType,
};
use chronik_types::{LeaderEpoch, Now, ProducerEpoch, ProducerId, TimestampMs};

use super::*;

pub(crate) const CODECS: [Compression; 5] =
    [Compression::None, Compression::Zstd, Compression::Lz4, Compression::Snappy, Compression::Gzip];

/// `SplitMix64`: small, and good enough to choose what a test does.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// One record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) timestamp: i64,
}

/// Everything that was appended, by offset, or that may have been.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) records: BTreeMap<i64, Seen>,
    /// Appends below this were acknowledged.
    pub(crate) acknowledged: i64,
    /// The next sequence number of each producer.
    pub(crate) sequences: BTreeMap<i64, i32>,
}

/// What random batches are like.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) key_count: u64,
    pub(crate) producer_count: u64,
    pub(crate) records_max: u64,
    pub(crate) value_bytes_max: u64,
    pub(crate) without_key: bool,
    /// How many of [`CODECS`] are used.
    pub(crate) codec_count: usize,
}

impl History {
    /// Appends a random batch. `None` when the log does not take it, because the disk has stopped.
    pub(crate) fn append(
        &mut self,
        log: &Log,
        rng: &mut Rng,
        shape: Shape,
        now: Now,
        leader_epoch: LeaderEpoch,
    ) -> Option<()> {
        let producer =
            if rng.one_in(3) { -1 } else { i64::try_from(rng.below(shape.producer_count)).unwrap() };
        let sequence = if producer < 0 { -1 } else { *self.sequences.entry(producer).or_default() };
        let options = BatchOptions {
            compression: CODECS[rng.index(shape.codec_count)],
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(if producer < 0 { -1 } else { 0 }),
            base_sequence: sequence,
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        let mut records = Vec::new();
        for _ in 0..=rng.below(shape.records_max) {
            let record = random_record(rng, shape, now.wall.get());
            let headers: Vec<Header<'_>> =
                record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
            let timestamp = TimestampMs(record.timestamp);
            builder.append(timestamp, record.key.as_deref(), record.value.as_deref(), &headers).unwrap();
            records.push(record);
        }
        let count = i32::try_from(records.len()).unwrap();
        // An append that is not acknowledged may be found later all the same.
        let first_offset = log.log_end_offset().get();
        for (offset, record) in (first_offset..).zip(records) {
            self.records.insert(offset, record);
        }
        // Records without a key are there from before the topic was compacted; now a client's would be refused.
        let origin = AppendOrigin::Coordinator;
        let appended = log.append(now, builder.finish().unwrap(), origin, leader_epoch).ok()?;
        assert_eq!(appended.first_offset.get(), first_offset);
        self.acknowledged = first_offset + i64::from(count);
        if producer >= 0 {
            self.sequences.insert(producer, sequence + count);
        }
        Some(())
    }

    /// Holds what can be read against what must be, where all below `cleaned_up_to` was cleaned.
    pub(crate) fn check(&self, found: &[(i64, Seen)], cleaned_up_to: i64, at: &str) {
        self.check_true(found, at);
        self.check_clean_below(found, cleaned_up_to, at);
        let with_value = |offset: &i64| self.records[offset].value.is_some();
        let last = self.last_below(cleaned_up_to).into_values().filter(with_value);
        let above = self.records.range(cleaned_up_to..).map(|(offset, _)| *offset);
        for offset in last.chain(above) {
            let there = found.binary_search_by_key(&offset, |(offset, _)| *offset).is_ok();
            assert!(
                there,
                "{at}: offset {offset} is gone and {cleaned_up_to} is how far the log was cleaned"
            );
        }
    }

    /// Nothing that is superseded is left below `cleaned_up_to`.
    pub(crate) fn check_clean_below(&self, found: &[(i64, Seen)], cleaned_up_to: i64, at: &str) {
        let last = self.last_below(cleaned_up_to);
        for (offset, record) in found.iter().take_while(|(offset, _)| *offset < cleaned_up_to) {
            let is_last = record.key.as_ref().is_some_and(|key| last[key] == *offset);
            assert!(is_last, "{at}: offset {offset} is superseded and still there");
        }
    }

    /// The last offset of each key below `cleaned_up_to`.
    fn last_below(&self, cleaned_up_to: i64) -> BTreeMap<Vec<u8>, i64> {
        let below = self.records.range(..cleaned_up_to);
        below.filter_map(|(&offset, record)| Some((record.key.clone()?, offset))).collect()
    }

    /// Holds what can be read against what must hold at any time: nothing but what was appended, in order; and whoever
    /// reads everything ends up with the last value of each key.
    pub(crate) fn check_true(&self, found: &[(i64, Seen)], at: &str) {
        assert!(found.is_sorted_by(|a, b| a.0 < b.0), "{at}: LOG-1: offsets do not increase");
        let mut state = BTreeMap::new();
        for (offset, record) in found {
            assert_eq!(self.records.get(offset), Some(record), "{at}: offset {offset}");
            if let Some(key) = &record.key {
                state.insert(key.clone(), record.value.clone());
            }
        }
        assert_eq!(live(state), self.state(), "{at}: what a reader ends up with");
    }

    /// The last value of each key that has one.
    pub(crate) fn state(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let with_key =
            self.records.values().filter_map(|record| Some((record.key.clone()?, record.value.clone())));
        live(with_key.collect())
    }
}

fn live(state: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    state.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn random_record(rng: &mut Rng, shape: Shape, now_ms: i64) -> Seen {
    let key = match rng.below(shape.key_count) {
        0 if shape.without_key => None,
        1 => Some(Vec::new()),
        number => Some(format!("key {number}").into_bytes()),
    };
    let value = (!rng.one_in(5)).then(|| {
        let byte = u8::try_from(rng.below(256)).unwrap();
        vec![byte; usize::try_from(rng.below(shape.value_bytes_max)).unwrap()]
    });
    let header_count = if rng.one_in(3) { rng.below(3) } else { 0 };
    let headers = (0..header_count)
        .map(|_| (vec![0xff, b'h'], (!rng.one_in(3)).then(|| rng.next().to_be_bytes().to_vec())))
        .collect();
    let jitter = i64::try_from(rng.below(2_000)).unwrap() - 1_000;
    Seen { key, value, headers, timestamp: now_ms + jitter }
}

/// All batches of a log, each with its bytes.
pub(crate) fn all_batches(log: &Log, max_bytes: usize) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    let mut offset = log.log_start_offset().get();
    while offset < log.log_end_offset().get() {
        let result = read_from(log, offset, max_bytes);
        assert!(result.next_offset.get() > offset || result.len_bytes == 0, "no progress at {offset}");
        if result.len_bytes == 0 {
            break;
        }
        for batch in BatchIter::new(&bytes_of(&result)) {
            let batch = batch.unwrap();
            batch.header.check_crc(batch.bytes).unwrap();
            if batch.header.last_offset().unwrap().get() >= offset {
                batches.push(batch.bytes.to_vec());
            }
        }
        offset = result.next_offset.get();
    }
    batches
}

/// All records that can be read.
pub(crate) fn all_seen(log: &Log, max_bytes: usize) -> Vec<(i64, Seen)> {
    let mut found = Vec::new();
    for batch in all_batches(log, max_bytes) {
        let mut records = RecordIter::new(&batch, 1 << 24).unwrap();
        assert_eq!(records.header().attributes.timestamp_type(), TimestampType::CreateTime);
        while let Some(record) = records.next_record().unwrap() {
            let headers =
                record.headers.iter().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec))).collect();
            let seen = Seen {
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers,
                timestamp: record.timestamp.get(),
            };
            found.push((record.offset.get(), seen));
        }
    }
    found
}

/// A node that keeps nothing in memory, so that what is read is what the files hold.
pub(crate) fn filed_on(disk: SimDisk, config: LogConfig, boot_id: &str) -> Node {
    Node::with_options(disk, config, ManagerOptions { tail_ring_bytes_max: 0, ..options(boot_id) })
}

pub(crate) fn filed(config: LogConfig) -> Node {
    filed_on(SimDisk::new(), config, "boot-1")
}

/// Lets the process die and starts it again.
pub(crate) fn restart(node: Node, crash: Crash, boot_id: &str) -> Node {
    node.disk.crash(crash);
    let Node { disk, config, manager } = node;
    drop(manager);
    filed_on(disk, (*config).clone(), boot_id)
}

pub(crate) fn worker(manager: &Arc<LogManager>, options: CleanerOptions) -> CleanerWorker {
    Cleaner::new(Arc::clone(manager), options).worker()
}

/// Small steps, so that a clean takes many.
pub(crate) fn small_steps() -> CleanerOptions {
    CleanerOptions { io_buffer_bytes: 256, hash_secret: [1, 2], ..CleanerOptions::default() }
}

/// Cleans until nothing is to be cleaned any more; gives the number of steps.
pub(crate) fn clean(worker: &mut CleanerWorker, now: Now) -> usize {
    for step in 0..1_000_000 {
        if worker.step(now) > now.monotonic && !worker.is_busy() {
            return step;
        }
    }
    panic!("the cleaner never comes to an end");
}

pub(crate) fn control_batch(options: BatchOptions, timestamp: i64, commit: bool) -> BytesMut {
    use chronik_protocol::records::{ControlType, EndTxnMarker};
    let mut builder = BatchBuilder::new(BatchOptions { is_control: true, is_transactional: true, ..options });
    let control_type = if commit { ControlType::Commit } else { ControlType::Abort };
    builder
        .append_marker(TimestampMs(timestamp), EndTxnMarker { control_type, coordinator_epoch: 0 })
        .unwrap();
    builder.finish().unwrap()
}
