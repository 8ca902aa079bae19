//! What the log's tests share: batches, a disk, a manager over it.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod compaction;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_disk::{Crash, Disk, SimDisk};
use chronik_log::{
    AppendError, AppendOrigin, Appended, Log, LogConfig, LogManager, ManagerOptions, ReadData, ReadRequest,
    ReadResult,
};
use chronik_protocol::records::{
    BatchBuilder, BatchIter, BatchOptions, Compression, RecordIter, patch_append,
};
use chronik_types::{
    LeaderEpoch, MonotonicMs, Now, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicId, TopicPartition,
};

pub(crate) const TOPIC_ID: TopicId = TopicId(0x1234_5678);
pub(crate) const BASE_MS: i64 = 1_700_000_000_000;

pub(crate) fn now_at(ms: u64) -> Now {
    Now { monotonic: MonotonicMs(ms), wall: TimestampMs(BASE_MS + i64::try_from(ms).unwrap()) }
}

pub(crate) fn partition() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/data")
}

pub(crate) fn partition_dir() -> PathBuf {
    dir().join("orders-0")
}

/// Segments of some twenty small batches, with several index entries each.
pub(crate) fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 1000, index_interval_bytes: 150, ..LogConfig::default() }
}

/// A file of the partition.
pub(crate) fn file(name: &str) -> PathBuf {
    partition_dir().join(name)
}

/// A file of one of its segments.
pub(crate) fn segment(base_offset: i64, extension: &str) -> PathBuf {
    file(&format!("{base_offset:020}.{extension}"))
}

/// A batch of records with these values, timestamps counting up from `timestamp`.
pub(crate) fn batch_with(options: BatchOptions, timestamp: i64, values: &[&[u8]]) -> BytesMut {
    let mut builder = BatchBuilder::new(options);
    for (at, value) in values.iter().enumerate() {
        let timestamp = TimestampMs(timestamp + i64::try_from(at).unwrap());
        builder.append(timestamp, None, Some(value), &[]).unwrap();
    }
    builder.finish().unwrap()
}

pub(crate) fn batch(timestamp: i64, values: &[&[u8]]) -> BytesMut {
    batch_with(BatchOptions::default(), timestamp, values)
}

pub(crate) fn compressed(compression: Compression, timestamp: i64, values: &[&[u8]]) -> BytesMut {
    batch_with(BatchOptions { compression, ..BatchOptions::default() }, timestamp, values)
}

/// A batch of an idempotent producer.
pub(crate) fn idempotent(producer: i64, epoch: i16, sequence: i32, values: &[&[u8]]) -> BytesMut {
    let options = BatchOptions {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: sequence,
        ..BatchOptions::default()
    };
    batch_with(options, BASE_MS, values)
}

pub(crate) struct Node {
    pub(crate) disk: SimDisk,
    pub(crate) manager: Arc<LogManager>,
    pub(crate) config: Arc<LogConfig>,
}

pub(crate) fn options(boot_id: &str) -> ManagerOptions {
    ManagerOptions { boot_id: boot_id.to_owned(), ..ManagerOptions::default() }
}

pub(crate) fn open_manager(
    disk: &Arc<dyn Disk>,
    path: &Path,
    options: ManagerOptions,
    config: &Arc<LogConfig>,
    now: Now,
) -> Result<Arc<LogManager>, chronik_log::LogError> {
    let config = Arc::clone(config);
    let source = Arc::new(move |_: &str| Arc::clone(&config));
    let starting = LogManager::open(Arc::clone(disk), vec![path.to_owned()], options, source, now)?;
    Ok(starting.finish(now))
}

impl Node {
    pub(crate) fn new(config: LogConfig) -> Self {
        Self::on(SimDisk::new(), config, "boot-1")
    }

    pub(crate) fn on(disk: SimDisk, config: LogConfig, boot_id: &str) -> Self {
        Self::with_options(disk, config, options(boot_id))
    }

    pub(crate) fn with_options(disk: SimDisk, config: LogConfig, options: ManagerOptions) -> Self {
        let config = Arc::new(config);
        let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let manager = open_manager(&as_disk, &dir(), options, &config, now_at(0)).unwrap();
        Self { disk, manager, config }
    }

    pub(crate) fn log(&self) -> Arc<Log> {
        self.manager.get_or_create(&partition(), TOPIC_ID, Arc::clone(&self.config)).unwrap()
    }

    /// Lets the process die and starts it again.
    pub(crate) fn restart(self, crash: Crash, boot_id: &str) -> Self {
        self.disk.crash(crash);
        let Self { disk, config, manager } = self;
        drop(manager);
        Self::on(disk, (*config).clone(), boot_id)
    }
}

pub(crate) fn append(log: &Log, batch: BytesMut) -> Result<Appended, AppendError> {
    log.append(now_at(0), batch, AppendOrigin::Client, LeaderEpoch(0))
}

/// Appends a producer's records, each a batch of its own, from the log's end up to `end`.
pub(crate) fn append_values(log: &Log, end: i32) {
    for at in i32::try_from(log.log_end_offset().get()).unwrap()..end {
        append(log, idempotent(5, 0, at, &[format!("value {at}").as_bytes()])).unwrap();
    }
}

/// A batch as a leader of `epoch` has it at an offset.
pub(crate) fn copied(mut batch: BytesMut, offset: i64, epoch: i32) -> Bytes {
    patch_append(&mut batch, Offset(offset), LeaderEpoch(epoch));
    batch.freeze()
}

/// The base offsets of the segments that are there.
pub(crate) fn bases(disk: &SimDisk) -> Vec<i64> {
    let entries = disk.read_dir(&partition_dir()).unwrap();
    entries.iter().filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok()).collect()
}

pub(crate) fn read_from(log: &Log, offset: i64, max_bytes: usize) -> ReadResult {
    log.read(ReadRequest {
        start_offset: Offset(offset),
        max_bytes,
        at_least_one_batch: true,
        upper_bound_offset: Offset(i64::MAX),
    })
    .unwrap()
}

/// The bytes of what a read gave.
pub(crate) fn bytes_of(result: &ReadResult) -> Vec<u8> {
    let bytes: Vec<u8> = match &result.data {
        ReadData::Empty => Vec::new(),
        ReadData::Memory(slices) => slices.iter().flat_map(|slice| slice.to_vec()).collect(),
        ReadData::File(region) => {
            let mut bytes = vec![0; usize::try_from(region.len_bytes).unwrap()];
            assert_eq!(region.file.read_at(&mut bytes, region.position).unwrap(), bytes.len());
            bytes
        }
    };
    assert_eq!(bytes.len() as u64, result.len_bytes);
    bytes
}

/// Offsets and values of the records in some batches.
pub(crate) fn records_of(bytes: &[u8]) -> Vec<(i64, Vec<u8>)> {
    let mut records = Vec::new();
    for batch in BatchIter::new(bytes) {
        let batch = batch.unwrap();
        batch.header.check_crc(batch.bytes).unwrap();
        let mut iter = RecordIter::new(batch.bytes, 1 << 24).unwrap();
        while let Some(record) = iter.next_record().unwrap() {
            records.push((record.offset.get(), record.value.unwrap_or_default().to_vec()));
        }
    }
    records
}

/// All records from an offset on, read in pieces of about `max_bytes`.
pub(crate) fn all_records(log: &Log, from: i64, max_bytes: usize) -> Vec<(i64, Vec<u8>)> {
    let mut records = Vec::new();
    let mut offset = from;
    while offset < log.log_end_offset().get() {
        let result = read_from(log, offset, max_bytes);
        let found = records_of(&bytes_of(&result));
        assert!(result.next_offset.get() > offset, "no progress at {offset}");
        if let (Some(first), Some(last)) = (found.first(), found.last()) {
            assert_eq!(first.0, result.first_offset.get());
            assert_eq!(last.0 + 1, result.next_offset.get());
        }
        records.extend(found.into_iter().filter(|(at, _)| *at >= offset));
        offset = result.next_offset.get();
    }
    records
}

/// A log with some segments, as a clean or unclean end left it.
pub(crate) fn written(clean: bool) -> (SimDisk, Vec<(i64, Vec<u8>)>) {
    let node = Node::new(small_segments());
    let log = node.log();
    append_values(&log, 31);
    node.manager.maintain(now_at(10_000));
    append_values(&log, 40);
    log.set_high_watermark(log.log_end_offset());
    let records = all_records(&log, 0, 1000);
    assert!(log.segment_count() > 3);
    if clean {
        node.manager.shutdown(now_at(20_000)).unwrap();
    }
    node.disk.crash(Crash::Process);
    (node.disk, records)
}
