//! Reading a partition of `__consumer_offsets` into its coordinator.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_coordinator::GroupCoordinator;
use chronik_log::{FileRegion, LogError, ReadData, ReadRequest};
use chronik_protocol::records::{BatchError, BatchIter, RecordIter};

use crate::partition::Partition;

/// How much of the log is read at once, in bytes. A batch that is larger is read whole.
const CHUNK_BYTES_MAX: usize = 5 * 1024 * 1024;
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

/// Replays every committed record of `partition`; gives how many there were.
pub(super) fn load(partition: &Arc<Partition>, coordinator: &mut GroupCoordinator) -> Result<u64, LoadError> {
    let log = partition.log();
    let end = partition.high_watermark();
    let mut offset = log.log_start_offset();
    let mut record_count = 0_u64;
    while offset < end {
        let read = log
            .read(ReadRequest {
                start_offset: offset,
                max_bytes: CHUNK_BYTES_MAX,
                at_least_one_batch: true,
                upper_bound_offset: end,
            })
            .map_err(|source| LoadError::Read { offset: offset.get(), source })?;
        let parts = match read.data {
            ReadData::Empty => Vec::new(),
            ReadData::Memory(parts) => parts,
            ReadData::File(region) => vec![read_region(&region)?],
        };
        for part in &parts {
            let replayed = replay(part, coordinator)
                .map_err(|source| LoadError::Batch { offset: offset.get(), source })?;
            record_count = record_count.saturating_add(replayed);
        }
        if read.next_offset <= offset {
            break;
        }
        offset = read.next_offset;
    }
    Ok(record_count)
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

fn replay(part: &Bytes, coordinator: &mut GroupCoordinator) -> Result<u64, BatchError> {
    let mut record_count = 0_u64;
    for batch in BatchIter::new(part) {
        let batch = batch?;
        if batch.header.attributes.is_control() {
            continue;
        }
        let mut records = RecordIter::new(batch.bytes, INFLATED_BYTES_MAX)?;
        while let Some(record) = records.next_record()? {
            let Some(key) = record.key else { continue };
            let (key, value) = (Bytes::copy_from_slice(key), record.value.map(Bytes::copy_from_slice));
            // One record that cannot be read must not take every group of its partition away.
            if let Err(error) = coordinator.replay(&key, value.as_ref()) {
                tracing::error!(offset = record.offset.get(), "passed over a record of groups: {error}");
            }
            record_count = record_count.saturating_add(1);
        }
    }
    Ok(record_count)
}
