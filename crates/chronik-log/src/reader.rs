//! What a read gives.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::DiskFile;
use chronik_types::Offset;

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The batch that holds this offset comes first.
    pub start_offset: Offset,
    /// The most bytes wanted.
    pub max_bytes: usize,
    /// Whether the first batch is given even when it is larger than `max_bytes` (KIP-74).
    pub at_least_one_batch: bool,
    /// No batch that reaches this offset is given: the high watermark, the last stable offset, or the log's end.
    pub upper_bound_offset: Offset,
}

/// Record data, where it lies. Always whole batches.
#[derive(Clone, Debug, Default)]
pub enum ReadData {
    /// Nothing.
    #[default]
    Empty,
    /// Batches in memory, in order.
    Memory(Vec<Bytes>),
    /// A region of a segment file.
    File(FileRegion),
}

/// A region of a segment file. The file stays readable while this is held, even when the segment is deleted.
#[derive(Clone)]
pub struct FileRegion {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Where the region starts, in bytes.
    pub position: u64,
    /// How long it is, in bytes.
    pub len_bytes: u64,
}

impl fmt::Debug for FileRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileRegion({}+{})", self.position, self.len_bytes)
    }
}

/// What a read gave.
#[derive(Clone, Debug)]
pub struct ReadResult {
    /// The batches.
    pub data: ReadData,
    /// Their length in bytes.
    pub len_bytes: u64,
    /// Base offset of the first batch: at or below the offset asked for, or above it where the log has a gap. The
    /// offset asked for when there is no data.
    pub first_offset: Offset,
    /// The offset to read next: after the last batch given, or the offset asked for.
    pub next_offset: Offset,
    /// The log's first offset at that moment.
    pub log_start_offset: Offset,
    /// The log's end at that moment.
    pub log_end_offset: Offset,
}

/// A moment in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampAndOffset {
    /// The record's timestamp, −1 where only an offset was asked for.
    pub timestamp: chronik_types::TimestampMs,
    /// The record's offset, −1 where there is none.
    pub offset: Offset,
    /// The leader epoch under which it was appended, −1 where unknown.
    pub leader_epoch: chronik_types::LeaderEpoch,
}

/// Where to look in a log; the codes are those of ListOffsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// −2, and −4 as nothing is tiered: the log's first offset.
    Earliest,
    /// −1: the log's end. (The broker gives the high watermark or last stable offset to consumers.)
    Latest,
    /// −3: the record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// −5: the last offset in tiered storage (KIP-1005); there is none.
    LatestTiered,
    /// The first record whose timestamp is at or after this one.
    Timestamp(chronik_types::TimestampMs),
}
