//! Reading a partition of `__consumer_offsets` into its coordinator, a chunk at a time and with no lock held.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_coordinator::GroupCoordinator;
use chronik_log::{FileRegion, LogError, ReadData, ReadRequest};
use chronik_protocol::records::{BatchError, BatchIter, RecordIter};
use chronik_types::Offset;

use crate::partition::Partition;

/// How much of the log is read at once, in bytes. A batch that is larger is read whole.
pub(super) const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// The most that a compressed batch may become, in bytes. The coordinator itself compresses nothing; this is for logs
/// that something else has written.
const INFLATED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Why a shard could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The log cannot be read.
    #[error("cannot read the log of the groups at offset {offset}")]
    Read {
        /// Where.
        offset: i64,
        /// Why.
        #[source]
        source: LogError,
    },
    /// Its file cannot be read.
    #[error("cannot read a segment of the groups at byte {position}")]
    File {
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What was read is no batch.
    #[error(
        "the log of the groups holds a bad batch after offset {offset}; restore the partition's directory"
    )]
    Batch {
        /// Where the read began.
        offset: i64,
        /// What is wrong with it.
        #[source]
        source: BatchError,
    },
}

/// What a chunk has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many bytes were read, and there is more.
    More(usize),
    /// The rest is in the log and not committed yet.
    NotCommitted,
    /// Everything has been read.
    Done,
}

/// A shard on its way from its log.
pub(super) struct Load {
    pub(super) partition: Arc<Partition>,
    pub(super) coordinator: GroupCoordinator,
    pub(super) record_count: u64,
    next: Offset,
    /// Where there was nothing to read the last time.
    found_empty: Option<Offset>,
    /// The end of the log when this broker began to lead it. What lies below may have been left uncommitted by the
    /// leader before, or by an earlier coordinator of the same epoch; it is read once it is committed, so that none of it takes
    /// effect behind the coordinator's back.
    end: Offset,
}

impl Load {
    pub(super) fn new(partition: Arc<Partition>, coordinator: GroupCoordinator, end: Offset) -> Self {
        let next = partition.log().log_start_offset();
        Self { partition, coordinator, record_count: 0, next, found_empty: None, end }
    }

    /// Whether there is nothing to read.
    pub(super) fn is_empty(&self) -> bool {
        self.end <= self.next
    }

    /// Reads and replays one chunk of what is committed.
    pub(super) fn read_chunk(&mut self) -> Result<Progress, LoadError> {
        let offset = self.next;
        if self.is_empty() {
            return Ok(Progress::Done);
        }
        let committed_end = self.partition.high_watermark().min(self.end);
        if committed_end <= offset {
            return Ok(Progress::NotCommitted);
        }
        let read = self
            .partition
            .log()
            .read(ReadRequest {
                start_offset: offset,
                max_bytes: CHUNK_BYTES_MAX,
                at_least_one_batch: true,
                upper_bound_offset: committed_end,
            })
            .map_err(|source| LoadError::Read { offset: offset.get(), source })?;
        let parts = match read.data {
            ReadData::Empty => Vec::new(),
            ReadData::Memory(parts) => parts,
            ReadData::File(region) => vec![read_region(&region)?],
        };
        let mut after = offset;
        for part in &parts {
            let replayed = self.replay(part, after);
            after = replayed.map_err(|source| LoadError::Batch { offset: offset.get(), source })?;
        }
        if read.next_offset < after {
            let source = BatchError::Inconsistent("its offsets are not those that its place was found by");
            return Err(LoadError::Batch { offset: offset.get(), source });
        }
        if offset < after {
            self.next = after;
        } else if self.found_empty.replace(offset) == Some(offset) {
            // A log whose last batches were compacted away has nothing more to give below its end. That is asked twice:
            // what is passed over here is never missed.
            self.next = if read.next_offset <= offset { committed_end } else { read.next_offset };
        }
        let byte_count = parts.iter().map(Bytes::len).sum();
        Ok(if self.end <= self.next { Progress::Done } else { Progress::More(byte_count) })
    }

    /// Replays batches of which the first begins at `next` or later, and gives the offset after the last. Nobody has held
    /// them against their checksums since they were written.
    fn replay(&mut self, part: &Bytes, mut next: Offset) -> Result<Offset, BatchError> {
        for batch in BatchIter::new(part) {
            let batch = batch?;
            batch.header.check_crc(batch.bytes)?;
            let last_offset = batch.header.last_offset().filter(|&last| next <= last);
            next = last_offset.ok_or(BatchError::Inconsistent("its offsets do not follow"))?.next();
            if batch.header.attributes.is_control() {
                continue;
            }
            let mut records = RecordIter::new(batch.bytes, INFLATED_BYTES_MAX)?;
            while let Some(record) = records.next_record()? {
                let Some(key) = record.key else { continue };
                let (key, value) = (Bytes::copy_from_slice(key), record.value.map(Bytes::copy_from_slice));
                // One record that cannot be read must not take every group of its partition away.
                if let Err(error) = self.coordinator.replay(&key, value.as_ref()) {
                    tracing::error!(
                        topic = &*self.partition.topic,
                        partition = self.partition.index.get(),
                        offset = record.offset.get(),
                        "passed over a record of groups that cannot be read: {error}"
                    );
                }
                self.record_count = self.record_count.saturating_add(1);
            }
        }
        Ok(next)
    }
}

fn read_region(region: &FileRegion) -> Result<Bytes, LoadError> {
    let failed = |position, source| LoadError::File { position, source };
    let length = usize::try_from(region.len_bytes)
        .map_err(|error| failed(region.position, std::io::Error::other(error)))?;
    let mut bytes = BytesMut::zeroed(length);
    let mut filled = 0_usize;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let position = region.position.saturating_add(filled as u64);
        let read = region.file.read_at(rest, position).map_err(|source| failed(position, source))?;
        if read == 0 {
            return Err(failed(position, std::io::ErrorKind::UnexpectedEof.into()));
        }
        filled = filled.saturating_add(read);
    }
    Ok(bytes.freeze())
}
