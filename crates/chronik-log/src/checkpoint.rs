//! The checkpoint of a log directory: all that a restart needs to know of its partitions without looking at their
//! data.
//!
//! It is written every few seconds while anything changes. There are two files: one is synced, at most every
//! [`SYNCED_INTERVAL_MS`]; the other is not, and is the newer one mostly. A restart takes the newest that is whole.
//! After the process died that is the last one written, synced or not. After a power loss the unsynced one may be
//! torn, and the synced one is there; both say where each log was synced up to, and nothing above that is believed
//! then.
//!
//! Layout: magic, generation, boot id, whether it ends a clean shutdown, number of partitions, the partitions, and the CRC-32C of all that.

use std::io;
use std::path::{Path, PathBuf};

use chronik_disk::{Disk, OpenMode};
use chronik_types::{TopicId, TopicPartition};

use crate::bytes_io::{ByteReader, put_i32, put_i64, put_str, put_u32, put_u64, put_u128};
use crate::epoch_cache::{EpochCache, EpochEntry};
use crate::index::{Index, OffsetEntry, TimeEntry};
use crate::names;
use crate::producer_state::ProducerState;
use crate::segment::Segment;

/// "CHRNKCP" and the version of the format.
const MAGIC: u64 = u64::from_be_bytes(*b"CHRNKCP1");
/// The file that is synced.
const SYNCED: &str = "chronik-checkpoint";
/// The file that is not.
const RECENT: &str = "chronik-checkpoint.recent";
/// How often the synced file is renewed while the logs change. What is not synced costs time after a power loss, never
/// data; a sync costs every appender some.
pub(crate) const SYNCED_INTERVAL_MS: u64 = 60_000;
/// The most producers of one log that a checkpoint holds. With more, recovery takes the last snapshot and what was
/// appended since, as Kafka does.
const PRODUCERS_MAX: usize = 1000;

/// One partition in a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct PartitionCheckpoint {
    pub(crate) partition: TopicPartition,
    pub(crate) topic_id: TopicId,
    pub(crate) log_start_offset: i64,
    pub(crate) log_end_offset: i64,
    pub(crate) high_watermark: i64,
    /// Everything below was synced.
    pub(crate) recovery_point: i64,
    pub(crate) segments: Vec<Segment>,
    pub(crate) epochs: EpochCache,
    /// The producers as of `log_end_offset`, unless there were too many.
    pub(crate) producers: Option<ProducerState>,
}

/// A checkpoint as it was read.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) generation: u64,
    pub(crate) boot_id: String,
    /// Whether a clean shutdown wrote it, after it had synced everything.
    pub(crate) clean: bool,
    pub(crate) partitions: Vec<PartitionCheckpoint>,
}

/// Builds a checkpoint's bytes.
pub(crate) struct CheckpointWriter {
    out: Vec<u8>,
    count: u32,
    count_at: usize,
}

impl CheckpointWriter {
    pub(crate) fn new(generation: u64, boot_id: &str, clean: bool) -> Self {
        let mut out = Vec::new();
        put_u64(&mut out, MAGIC);
        put_u64(&mut out, generation);
        put_str(&mut out, boot_id);
        out.push(u8::from(clean));
        let count_at = out.len();
        put_u32(&mut out, 0);
        Self { out, count: 0, count_at }
    }

    pub(crate) fn add(
        &mut self,
        partition: &TopicPartition,
        topic_id: TopicId,
        offsets: [i64; 4],
        segments: &[Segment],
        epochs: &EpochCache,
        producers: Option<&ProducerState>,
    ) {
        let out = &mut self.out;
        put_str(out, &partition.topic);
        put_i32(out, partition.partition.get());
        put_u128(out, topic_id.0);
        for offset in offsets {
            put_i64(out, offset);
        }
        put_len(out, segments.len());
        for segment in segments {
            put_segment(out, segment);
        }
        // An epoch without records may give way to another leader's history, of which nothing but its records tells the next
        // process. They tell it of an epoch that begins here, too.
        let [_, log_end_offset, ..] = offsets;
        let with_records = || epochs.entries().iter().filter(|entry| entry.start_offset < log_end_offset);
        put_len(out, with_records().count());
        for entry in with_records() {
            put_i32(out, entry.epoch);
            put_i64(out, entry.start_offset);
        }
        let producers = producers.filter(|producers| producers.len() <= PRODUCERS_MAX);
        out.push(u8::from(producers.is_some()));
        if let Some(producers) = producers {
            producers.encode(out);
        }
        self.count += 1;
    }

    /// Adds what an earlier checkpoint says of a partition.
    pub(crate) fn carry(&mut self, earlier: &PartitionCheckpoint) {
        let offsets = [
            earlier.log_start_offset,
            earlier.log_end_offset,
            earlier.high_watermark,
            earlier.recovery_point,
        ];
        let PartitionCheckpoint { partition, topic_id, segments, epochs, producers, .. } = earlier;
        self.add(partition, *topic_id, offsets, segments, epochs, producers.as_ref());
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        if let Some(slot) = self.out.get_mut(self.count_at..self.count_at + 4) {
            slot.copy_from_slice(&self.count.to_be_bytes());
        }
        let crc = crc32c::crc32c(&self.out);
        put_u32(&mut self.out, crc);
        self.out
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    put_u32(out, u32::try_from(len).unwrap_or(u32::MAX));
}

fn put_segment(out: &mut Vec<u8>, segment: &Segment) {
    put_i64(out, segment.base_offset);
    put_i64(out, segment.next_offset);
    put_u64(out, segment.size_bytes);
    put_i64(out, segment.max_timestamp);
    put_i64(out, segment.offset_of_max_timestamp);
    put_i64(out, segment.first_timestamp);
    put_i64(out, segment.created_ms);
    put_i64(out, segment.last_append_ms);
    put_u64(out, segment.bytes_since_index);
    // Only what is in the index files counts; recovery does not miss the other entries.
    put_u32(out, segment.offset_index.on_disk_count());
    put_u32(out, segment.time_index.on_disk_count());
    let last = segment.offset_index.last_on_disk();
    put_u32(out, last.map_or(0, |entry| entry.relative_offset));
    put_u32(out, last.map_or(0, |entry| entry.position));
    let last = segment.time_index.last_on_disk();
    put_i64(out, last.map_or(-1, |entry| entry.timestamp));
    put_u32(out, last.map_or(0, |entry| entry.relative_offset));
}

fn read_segment(reader: &mut ByteReader<'_>) -> Option<Segment> {
    let mut segment = Segment::new(reader.read_i64()?, 0);
    segment.next_offset = reader.read_i64()?;
    segment.size_bytes = reader.read_u64()?;
    segment.max_timestamp = reader.read_i64()?;
    segment.offset_of_max_timestamp = reader.read_i64()?;
    segment.first_timestamp = reader.read_i64()?;
    segment.created_ms = reader.read_i64()?;
    segment.last_append_ms = reader.read_i64()?;
    segment.bytes_since_index = reader.read_u64()?;
    let (offset_count, time_count) = (reader.read_u32()?, reader.read_u32()?);
    let last = OffsetEntry { relative_offset: reader.read_u32()?, position: reader.read_u32()? };
    segment.offset_index = Index::on_disk(offset_count, Some(last).filter(|_| offset_count > 0));
    let last = TimeEntry { timestamp: reader.read_i64()?, relative_offset: reader.read_u32()? };
    segment.time_index = Index::on_disk(time_count, Some(last).filter(|_| time_count > 0));
    Some(segment)
}

fn read_partition(reader: &mut ByteReader<'_>) -> Option<PartitionCheckpoint> {
    let topic = reader.read_str()?;
    let partition = TopicPartition::new(topic, reader.read_i32()?);
    let topic_id = TopicId(reader.read_u128()?);
    let [log_start_offset, log_end_offset, high_watermark, recovery_point] =
        [reader.read_i64()?, reader.read_i64()?, reader.read_i64()?, reader.read_i64()?];
    let mut segments = Vec::new();
    for _ in 0..reader.read_u32()? {
        segments.push(read_segment(reader)?);
    }
    let mut epochs = Vec::new();
    for _ in 0..reader.read_u32()? {
        epochs.push(EpochEntry { epoch: reader.read_i32()?, start_offset: reader.read_i64()? });
    }
    let producers = match reader.read_bytes(1)?.first()? {
        0 => None,
        _ => Some(ProducerState::decode(reader)?),
    };
    Some(PartitionCheckpoint {
        partition,
        topic_id,
        log_start_offset,
        log_end_offset,
        high_watermark,
        recovery_point,
        segments,
        epochs: EpochCache::from_entries(epochs),
        producers,
    })
}

/// Reads a checkpoint; `None` when it is not whole or does not check.
pub(crate) fn decode(contents: &[u8]) -> Option<Checkpoint> {
    let (covered, crc) = contents.split_last_chunk::<4>()?;
    if u32::from_be_bytes(*crc) != crc32c::crc32c(covered) {
        return None;
    }
    let mut reader = ByteReader::new(covered);
    if reader.read_u64()? != MAGIC {
        return None;
    }
    let generation = reader.read_u64()?;
    let boot_id = reader.read_str()?.to_owned();
    let clean = *reader.read_bytes(1)?.first()? != 0;
    let mut partitions = Vec::new();
    for _ in 0..reader.read_u32()? {
        partitions.push(read_partition(&mut reader)?);
    }
    reader.rest().is_empty().then_some(Checkpoint { generation, boot_id, clean, partitions })
}

/// What is found of the two files.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The newest checkpoint that is whole.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Files that are not.
    pub(crate) damaged: Vec<PathBuf>,
}

/// Reads the newest checkpoint of a directory.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Loaded {
    let mut loaded = Loaded::default();
    for path in [dir.join(SYNCED), dir.join(RECENT)] {
        let contents = match disk.read_file(&path) {
            Ok(contents) => contents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => Vec::new(),
        };
        match decode(&contents) {
            None => loaded.damaged.push(path),
            Some(found) => {
                let newer = loaded.checkpoint.as_ref().is_none_or(|best| best.generation < found.generation);
                if newer {
                    loaded.checkpoint = Some(found);
                }
            }
        }
    }
    loaded
}

/// Puts a checkpoint in place of the older one of its file.
pub(crate) fn store(disk: &dyn Disk, dir: &Path, contents: &[u8], synced: bool) -> io::Result<()> {
    if synced {
        disk.replace_file(&dir.join(SYNCED), contents)?;
        return disk.remove_file_if_there(&dir.join(RECENT));
    }
    let path = dir.join(RECENT);
    let temporary = dir.join(format!("{RECENT}{}", names::TMP));
    let file = disk.open(&temporary, OpenMode::Create)?;
    file.truncate(0)?;
    file.write_all_at(contents, 0)?;
    disk.rename(&temporary, &path)
}
