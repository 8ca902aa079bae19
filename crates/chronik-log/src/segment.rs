//! One segment of a log: what is known of it in memory. Its bytes are in its files.

use crate::config::LogConfig;
use crate::index::{Found, Index, OffsetEntry, TimeEntry};

/// The largest segment that positions of 31 bits can index, as in Kafka.
pub(crate) const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// One segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// The first offset that it may hold; names its files.
    pub(crate) base_offset: i64,
    /// The offset after its last batch.
    pub(crate) next_offset: i64,
    /// Bytes in its `.log`.
    pub(crate) size_bytes: u64,
    /// The largest timestamp in it, −1 where it has none.
    pub(crate) max_timestamp: i64,
    /// The last offset of the first batch that has it.
    pub(crate) offset_of_max_timestamp: i64,
    /// The largest timestamp of its first batch, from which `segment.ms` counts; −1 where it is empty.
    pub(crate) first_timestamp: i64,
    /// Wall-clock time when it was made, or of recovery where that is not known.
    pub(crate) created_ms: i64,
    /// Wall-clock time of the last append, or of recovery where that is not known.
    pub(crate) last_append_ms: i64,
    /// Bytes appended since the last index entry.
    pub(crate) bytes_since_index: u64,
    pub(crate) offset_index: Index<OffsetEntry>,
    pub(crate) time_index: Index<TimeEntry>,
}

/// A batch as the segment must know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchFacts {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) size_bytes: u64,
}

impl Segment {
    pub(crate) fn new(base_offset: i64, now_ms: i64) -> Self {
        Self {
            base_offset,
            next_offset: base_offset,
            size_bytes: 0,
            max_timestamp: -1,
            offset_of_max_timestamp: -1,
            first_timestamp: -1,
            created_ms: now_ms,
            last_append_ms: now_ms,
            bytes_since_index: 0,
            offset_index: Index::default(),
            time_index: Index::default(),
        }
    }

    /// Whether a batch must go into another segment, when `pending_bytes` are about to be appended before it.
    /// `rolled_after_ms` is `segment.ms` less this log's jitter.
    pub(crate) fn is_full_for(
        &self,
        batch: BatchFacts,
        pending_bytes: u64,
        config: &LogConfig,
        rolled_after_ms: u64,
        now_ms: i64,
    ) -> bool {
        if !self.can_hold(batch) {
            return true;
        }
        let size_bytes = self.size_bytes.saturating_add(pending_bytes);
        if size_bytes == 0 {
            return false;
        }
        let segment_bytes = config.segment_bytes.min(SEGMENT_BYTES_MAX);
        size_bytes > segment_bytes.saturating_sub(batch.size_bytes)
            || self.is_old(batch.max_timestamp, rolled_after_ms, now_ms)
            || self.indexes_are_full(config)
    }

    /// Whether the batch's offsets can be told relative to the base offset, and none lies before it.
    fn can_hold(&self, batch: BatchFacts) -> bool {
        self.base_offset <= batch.base_offset
            && batch
                .last_offset
                .checked_sub(self.base_offset)
                .is_some_and(|relative| (0..=i64::from(i32::MAX)).contains(&relative))
    }

    /// Kafka counts `segment.ms` from the first batch's timestamp to the new one's where both have one, so that a
    /// replay of old data rolls as the data did; otherwise from when the segment was made.
    fn is_old(&self, batch_timestamp: i64, rolled_after_ms: u64, now_ms: i64) -> bool {
        let waited = if self.first_timestamp >= 0 && batch_timestamp >= 0 {
            batch_timestamp.saturating_sub(self.first_timestamp)
        } else {
            now_ms.saturating_sub(self.created_ms)
        };
        waited > i64::try_from(rolled_after_ms).unwrap_or(i64::MAX)
    }

    fn indexes_are_full(&self, config: &LogConfig) -> bool {
        let limit = usize::try_from(config.segment_index_bytes).unwrap_or(usize::MAX);
        self.offset_index.len() >= limit / 8 || self.time_index.len().saturating_add(1) >= limit / 12
    }

    /// Takes over a batch that is in the file now, with an index entry where one is due.
    pub(crate) fn add(&mut self, batch: BatchFacts, index_interval_bytes: u64) {
        if self.size_bytes == 0 {
            self.first_timestamp = batch.max_timestamp;
        }
        if batch.max_timestamp > self.max_timestamp {
            self.max_timestamp = batch.max_timestamp;
            self.offset_of_max_timestamp = batch.last_offset;
        }
        if self.bytes_since_index > index_interval_bytes {
            if let (Some(relative_offset), Ok(position)) =
                (self.relative(batch.last_offset), u32::try_from(self.size_bytes))
            {
                self.offset_index.push(OffsetEntry { relative_offset, position });
            }
            self.add_time_entry();
            self.bytes_since_index = 0;
        }
        self.bytes_since_index += batch.size_bytes;
        self.size_bytes += batch.size_bytes;
        self.next_offset = batch.last_offset.saturating_add(1);
    }

    /// Indexes the largest timestamp so far, unless it is indexed already. Done once more when the segment closes.
    pub(crate) fn add_time_entry(&mut self) {
        let indexed = self.time_index.last().map_or(-1, |entry| entry.timestamp);
        if let (true, Some(relative_offset)) =
            (self.max_timestamp > indexed, self.relative(self.offset_of_max_timestamp))
        {
            self.time_index.push(TimeEntry { timestamp: self.max_timestamp, relative_offset });
        }
    }

    pub(crate) fn relative(&self, offset: i64) -> Option<u32> {
        u32::try_from(offset.checked_sub(self.base_offset)?).ok()
    }

    /// Where to begin a search for the batch that holds `offset`.
    pub(crate) fn find_offset(&self, offset: i64) -> Found<OffsetEntry> {
        let Some(relative) = offset.checked_sub(self.base_offset) else { return Found::Nothing };
        self.offset_index.find(|entry| i64::from(entry.relative_offset) <= relative)
    }

    /// Where to begin a search for the batch at or before `position`.
    pub(crate) fn find_position(&self, position: u64) -> Found<OffsetEntry> {
        self.offset_index.find(|entry| u64::from(entry.position) <= position)
    }

    /// The last entry of the time index at or before `timestamp`.
    pub(crate) fn find_time(&self, timestamp: i64) -> Found<TimeEntry> {
        self.time_index.find(|entry| entry.timestamp <= timestamp)
    }
}
