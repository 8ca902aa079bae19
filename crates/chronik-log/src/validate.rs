//! What a batch must be before it is given an offset.
//!
//! Everything here looks at one batch only, so it runs before the log's lock is taken. Record data is neither
//! decompressed nor copied: the checks are those of the header and the checksum.

use bytes::BytesMut;
use chronik_protocol::records::{
    BatchError, BatchHeader, ClientBatchLimits, TimestampType, patch_max_timestamp, validate_client_batch,
};
use chronik_types::{Now, TimestampMs};

use crate::append::{AppendOrigin, PendingBatch};
use crate::{AppendError, LogConfig};

/// A batch that may be appended.
#[derive(Debug)]
pub(crate) struct Validated {
    pub(crate) batch: BytesMut,
    pub(crate) header: BatchHeader,
    pub(crate) origin: AppendOrigin,
    /// The broker's time, where it was stamped.
    pub(crate) log_append_time: TimestampMs,
}

/// Checks a batch, and stamps the broker's time where the topic asks for it.
pub(crate) fn validate(
    pending: PendingBatch,
    config: &LogConfig,
    now: Now,
) -> Result<Validated, AppendError> {
    let PendingBatch { mut batch, origin } = pending;
    let header = match origin {
        AppendOrigin::Client => {
            // What a version of Produce may carry is the broker's to check; the log knows no versions.
            let limits =
                ClientBatchLimits { batch_bytes_max: config.max_message_bytes, produce_version: i16::MAX };
            validate_client_batch(&batch, limits)
        }
        AppendOrigin::Coordinator => check_own_batch(&batch),
    };
    let mut header = header.map_err(AppendError::Batch)?;
    let log_append_time = match config.message_timestamp_type {
        TimestampType::CreateTime => {
            check_timestamp(header.max_timestamp, config, now)?;
            check_timestamp(header.base_timestamp, config, now)?;
            if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
                patch_max_timestamp(&mut batch, TimestampType::CreateTime, header.max_timestamp);
            }
            TimestampMs::NONE
        }
        TimestampType::LogAppendTime => {
            if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
                return Err(AppendError::Timestamp { timestamp: header.max_timestamp, now: now.wall });
            }
            patch_max_timestamp(&mut batch, TimestampType::LogAppendTime, now.wall);
            header.max_timestamp = now.wall;
            now.wall
        }
    };
    Ok(Validated { batch, header, origin, log_append_time })
}

/// A coordinator builds its batches itself; they are held to be whole and intact all the same.
fn check_own_batch(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(batch)?;
    if batch.len() != header.size_bytes {
        return Err(BatchError::NotOneBatch("its length is not that of its bytes"));
    }
    header.check_crc(batch)?;
    if header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        return Err(BatchError::Inconsistent("its record count and its last offset delta disagree"));
    }
    Ok(header)
}

fn check_timestamp(timestamp: TimestampMs, config: &LogConfig, now: Now) -> Result<(), AppendError> {
    let age_ms = i128::from(now.wall.get()) - i128::from(timestamp.get());
    let too_old = config.message_timestamp_before_max_ms.is_some_and(|max| age_ms > i128::from(max));
    let too_new = config.message_timestamp_after_max_ms.is_some_and(|max| -age_ms > i128::from(max));
    if timestamp != TimestampMs::NONE && (too_old || too_new) {
        return Err(AppendError::Timestamp { timestamp, now: now.wall });
    }
    Ok(())
}
