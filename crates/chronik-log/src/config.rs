//! What can be set about a log, under Kafka's own names.
//!
//! [`LogConfig`] is the part of a topic's configuration that the log obeys; it may change while the log runs.
//! [`ManagerOptions`] is the broker's part, read once at start. Fields carry Kafka's name with the dots made
//! underscores; the documentation gives the name, so that a message can say it.

use chronik_protocol::records::{Compression, TimestampType};

/// What becomes of old records (`cleanup.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Segments beyond the retention limits are deleted.
    pub delete: bool,
    /// The last record of each key is kept.
    pub compact: bool,
}

impl CleanupPolicy {
    /// `cleanup.policy=delete`, the default.
    pub const DELETE: Self = Self { delete: true, compact: false };
    /// `cleanup.policy=compact`.
    pub const COMPACT: Self = Self { delete: false, compact: true };
    /// `cleanup.policy=compact,delete`.
    pub const COMPACT_AND_DELETE: Self = Self { delete: true, compact: true };
}

/// A topic's settings as far as its logs obey them.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment does not grow beyond this.
    pub segment_bytes: u64,
    /// `segment.ms`: a segment with data is closed after this long.
    pub segment_ms: u64,
    /// `segment.jitter.ms`: the most that may be taken off `segment_ms`, differently for each log, so that
    /// segments do not all roll at once.
    pub segment_jitter_ms: u64,
    /// `segment.index.bytes`: an offset index that reaches this closes its segment.
    pub segment_index_bytes: u64,
    /// `index.interval.bytes`: log bytes between two index entries.
    pub index_interval_bytes: u64,
    /// `retention.ms`: a segment whose newest record is older is deleted; `None` (−1) keeps it for ever.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`: beyond this the oldest segments are deleted; `None` (−1) sets no limit.
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `compression.type`: the codec in which batches are stored; `None` (`producer`) keeps each batch's own.
    pub compression_type: Option<Compression>,
    /// `compression.gzip.level`, `.lz4.level` or `.zstd.level`, whichever belongs to `compression_type`; `None` takes
    /// the codec's default.
    pub compression_level: Option<i32>,
    /// `min.cleanable.dirty.ratio`: the share of a compacted log that must be uncleaned before it is cleaned again,
    /// from 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`: a segment whose newest record is younger is not cleaned.
    pub min_compaction_lag_ms: u64,
    /// `max.compaction.lag.ms`: a segment whose first record is older is cleaned whatever the ratio, and is closed for
    /// that where it is still appended to; `None` sets no limit.
    pub max_compaction_lag_ms: Option<u64>,
    /// `delete.retention.ms`: how long a tombstone stays after a clean first found it.
    pub delete_retention_ms: u64,
    /// `max.message.bytes`: the largest batch that a client may append.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far in the past a record's timestamp may lie; `None` sets no limit.
    pub message_timestamp_before_max_ms: Option<u64>,
    /// `message.timestamp.after.max.ms`: how far in the future a record's timestamp may lie; `None` sets no limit.
    pub message_timestamp_after_max_ms: Option<u64>,
    /// `flush.messages`: after this many records the log asks to be synced; `None` leaves it to the system.
    pub flush_messages: Option<u64>,
    /// `flush.ms`: data older than this is synced; `None` leaves it to the system.
    pub flush_ms: Option<u64>,
    /// `file.delete.delay.ms`: how long a deleted segment's files stay under their `.deleted` name.
    pub file_delete_delay_ms: u64,
}

/// One hour in milliseconds.
pub(crate) const HOUR_MS: u64 = 60 * 60 * 1000;
/// One day in milliseconds.
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1024 * 1024 * 1024,
            segment_ms: 7 * DAY_MS,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 * 1024 * 1024,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            cleanup_policy: CleanupPolicy::DELETE,
            compression_type: None,
            compression_level: None,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: None,
            delete_retention_ms: DAY_MS,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: None,
            message_timestamp_after_max_ms: Some(HOUR_MS),
            flush_messages: None,
            flush_ms: None,
            file_delete_delay_ms: 60_000,
        }
    }
}

/// The broker's settings for all its logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerOptions {
    /// What the operating system calls this boot (`/proc/sys/kernel/random/boot_id`). After a start under another
    /// id only what was synced is believed without a look.
    pub boot_id: String,
    /// How long between two checkpoints.
    pub checkpoint_interval_ms: u64,
    /// Bytes appended since the last checkpoint that make the next one due at once. They bound the time that a
    /// restart spends on checking what was appended.
    pub checkpoint_bytes_max: u64,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval_ms: u64,
    /// `producer.id.expiration.ms`: a producer that was silent for this long is forgotten.
    pub producer_id_expiration_ms: u64,
    /// The most bytes of recent batches that one log keeps in memory.
    pub tail_ring_bytes_max: u64,
    /// The most bytes of recent batches that all logs together keep in memory.
    pub tail_memory_bytes_max: u64,
    /// A log that was not appended to for this long gives its recent batches' memory back.
    pub tail_idle_ms: u64,
    /// The most segment and index files that are kept open for reading.
    pub open_files_max: usize,
}

impl Default for ManagerOptions {
    fn default() -> Self {
        Self {
            boot_id: String::new(),
            checkpoint_interval_ms: 5_000,
            checkpoint_bytes_max: 64 * 1024 * 1024,
            retention_check_interval_ms: 5 * 60 * 1000,
            producer_id_expiration_ms: DAY_MS,
            tail_ring_bytes_max: 4 * 1024 * 1024,
            tail_memory_bytes_max: 128 * 1024 * 1024,
            tail_idle_ms: 10_000,
            open_files_max: 1024,
        }
    }
}
