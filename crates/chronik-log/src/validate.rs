//! What a batch must be before it is given an offset, and the form in which it is stored.
//!
//! Everything here looks at one batch only, so it runs on the thread that brings the batch, before any lock of the log
//! is taken. A batch keeps its bytes unless its topic asks for another codec (`compression.type`); its records are
//! looked through either way, compressed or not, because what is stored must be readable.

use bytes::BytesMut;
use chronik_protocol::records::{
    BatchError, BatchHeader, ClientBatchLimits, Compression, RECORDS_INFLATED_BYTES_MAX, RecompressError,
    Recompression, RecordRules, RecordsFacts, TimestampType, check_client_batch, inspect_records,
    patch_max_timestamp, recompress,
};
use chronik_types::{Now, TimestampMs};

use crate::append::{AppendOrigin, PendingBatch};
use crate::log::Log;
use crate::{AppendError, LogConfig, RefusedRecords};

/// A batch that may be appended.
#[derive(Debug)]
pub struct ValidatedBatch {
    pub(crate) batch: BytesMut,
    pub(crate) header: BatchHeader,
    pub(crate) origin: AppendOrigin,
    /// The broker's time, where it was stamped.
    pub(crate) log_append_time: TimestampMs,
}

impl ValidatedBatch {
    /// The bytes that will be stored.
    pub fn size_bytes(&self) -> usize {
        self.batch.len()
    }
}

impl Log {
    /// Checks a batch, recompresses it where the topic asks for another codec, and stamps the broker's time where the
    /// topic asks for that. Takes no lock that an append holds; hand the result to [`Log::append_validated`].
    pub fn validate(&self, now: Now, pending: PendingBatch) -> Result<ValidatedBatch, AppendError> {
        validate(pending, &self.config(), now)
    }
}

/// [`Log::validate`] under these settings.
pub(crate) fn validate(
    pending: PendingBatch,
    config: &LogConfig,
    now: Now,
) -> Result<ValidatedBatch, AppendError> {
    let PendingBatch { batch, origin } = pending;
    match origin {
        AppendOrigin::Client => validate_client(batch, config, now),
        AppendOrigin::Coordinator => {
            let header = check_own_batch(&batch).map_err(AppendError::Batch)?;
            let facts = RecordsFacts { max_timestamp: header.max_timestamp, ..RecordsFacts::default() };
            Ok(stamped(batch, header, &facts, origin, log_append_time(config, now)))
        }
    }
}

fn validate_client(batch: BytesMut, config: &LogConfig, now: Now) -> Result<ValidatedBatch, AppendError> {
    // What a version of Produce may carry is the broker's to check; the log knows no versions.
    let limits = ClientBatchLimits { batch_bytes_max: config.max_message_bytes, produce_version: i16::MAX };
    let header = check_client_batch(&batch, limits).map_err(AppendError::Batch)?;
    let rules = rules(config, now);
    let log_append_time = log_append_time(config, now);
    let origin = AppendOrigin::Client;
    let source = header.attributes.compression().unwrap_or(Compression::None);
    let target = config.compression_type.unwrap_or(source);
    if source == target {
        let facts = inspect_records(&batch, &header, &rules, RECORDS_INFLATED_BYTES_MAX)
            .map_err(AppendError::Batch)?;
        check_faults(&facts, config, now)?;
        return Ok(stamped(batch, header, &facts, origin, log_append_time));
    }
    let wanted = Recompression {
        codec: target,
        level: config.compression_level,
        log_append_time: Some(log_append_time).filter(|&time| time != TimestampMs::NONE),
        inflated_bytes_max: RECORDS_INFLATED_BYTES_MAX,
        batch_bytes_max: config.max_message_bytes,
    };
    let (facts, recompressed) = recompress(&batch, &header, &rules, wanted).map_err(|error| match error {
        RecompressError::Batch(error) => AppendError::Batch(error),
        RecompressError::Compress(error) => AppendError::Recompress(std::sync::Arc::new(error)),
    })?;
    check_faults(&facts, config, now)?;
    let Some(recompressed) = recompressed else {
        return Err(AppendError::Batch(BatchError::Inconsistent("it was not written in the topic's codec")));
    };
    Ok(ValidatedBatch { batch: recompressed.batch, header: recompressed.header, origin, log_append_time })
}

/// The broker's time for all records, −1 where each keeps its own.
fn log_append_time(config: &LogConfig, now: Now) -> TimestampMs {
    match config.message_timestamp_type {
        TimestampType::CreateTime => TimestampMs::NONE,
        TimestampType::LogAppendTime => now.wall,
    }
}

fn rules(config: &LogConfig, now: Now) -> RecordRules {
    let reach = |limit: Option<u64>| limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let wall = now.wall.get();
    RecordRules {
        needs_key: config.cleanup_policy.compact,
        broker_sets_time: config.message_timestamp_type == TimestampType::LogAppendTime,
        timestamp_min: TimestampMs(
            reach(config.message_timestamp_before_max_ms).map_or(i64::MIN, |max| wall.saturating_sub(max)),
        ),
        timestamp_max: TimestampMs(
            reach(config.message_timestamp_after_max_ms).map_or(i64::MAX, |max| wall.saturating_add(max)),
        ),
    }
}

fn check_faults(facts: &RecordsFacts, config: &LogConfig, now: Now) -> Result<(), AppendError> {
    if facts.fault_count == 0 {
        return Ok(());
    }
    let RecordRules { timestamp_min, timestamp_max, .. } = rules(config, now);
    Err(AppendError::Records(RefusedRecords {
        faults: facts.faults.as_slice().into(),
        fault_count: facts.fault_count,
        timestamp_min,
        timestamp_max,
    }))
}

/// The batch as it came, with the times that the topic wants in its header. A largest timestamp that its records do not
/// have is put right, as Kafka does: lookups by time rely on it.
fn stamped(
    mut batch: BytesMut,
    mut header: BatchHeader,
    facts: &RecordsFacts,
    origin: AppendOrigin,
    log_append_time: TimestampMs,
) -> ValidatedBatch {
    let (timestamp_type, max_timestamp) = if log_append_time == TimestampMs::NONE {
        (TimestampType::CreateTime, facts.max_timestamp)
    } else {
        (TimestampType::LogAppendTime, log_append_time)
    };
    if header.attributes.timestamp_type() != timestamp_type || header.max_timestamp != max_timestamp {
        patch_max_timestamp(&mut batch, timestamp_type, max_timestamp);
        header.max_timestamp = max_timestamp;
    }
    ValidatedBatch { batch, header, origin, log_append_time }
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
