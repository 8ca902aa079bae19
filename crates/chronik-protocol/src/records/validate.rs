//! What a broker checks before it appends a batch that a client produced.
//!
//! Everything here is read from the header; [`inspect_records`](super::inspect_records) looks at what is inside. The
//! order of the checks is Kafka's, so that a batch with several faults is refused for the same one.

use super::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Compression, LOG_OVERHEAD_BYTES, MAGIC_V2};

/// The shortest length field of any record format: a record of magic 0 without key and value.
const SHORTEST_LENGTH: i32 = 14;

/// The first version of Produce that may carry zstd (KIP-110).
const ZSTD_FROM: i16 = 7;

/// What the topic and the request's version allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientBatchLimits {
    /// The largest batch, header and all (`max.message.bytes`).
    pub batch_bytes_max: usize,
    /// The version of the Produce request, 3 or later; zstd is refused below 7 (KIP-110).
    pub produce_version: i16,
}

/// Checks that `bytes` are exactly one batch that a client may write, CRC and all, and gives its header.
///
/// The result has `record_count == last_offset_delta + 1 > 0`, a known codec, and a sequence wherever it has a producer
/// id. [`BatchError::error_code`] is what Kafka answers.
pub fn check_client_batch(bytes: &[u8], limits: ClientBatchLimits) -> Result<BatchHeader, BatchError> {
    let header = parse_client_batch(bytes, limits.produce_version)?;
    if header.base_offset.get() != 0 {
        return Err(BatchError::NotForClients("its base offset is not 0"));
    }
    if header.size_bytes > limits.batch_bytes_max {
        return Err(BatchError::TooLarge {
            size_bytes: header.size_bytes,
            bytes_max: limits.batch_bytes_max,
        });
    }
    header.check_crc(bytes)?;
    if header.attributes.compression().is_none() {
        return Err(BatchError::Codec(header.attributes.0));
    }
    if header.last_offset_delta < 0 {
        return Err(BatchError::Inconsistent("the last offset delta is negative"));
    }
    if header.record_count <= 0 {
        return Err(BatchError::Inconsistent("the record count is not positive"));
    }
    if i64::from(header.record_count) != i64::from(header.last_offset_delta).saturating_add(1) {
        return Err(BatchError::Inconsistent("the record count does not match the last offset delta"));
    }
    if header.attributes.is_control() {
        return Err(BatchError::NotForClients("it holds control records"));
    }
    if header.producer_id.get() >= 0 && header.base_sequence < 0 {
        return Err(BatchError::Inconsistent("it has a producer id and no sequence number"));
    }
    Ok(header)
}

/// Checks no more than the form: that `bytes` are exactly one batch, of a format and in a codec that this version of
/// Produce may carry. Kafka refuses a request's batch for these before it looks at the partition.
pub fn parse_client_batch(bytes: &[u8], produce_version: i16) -> Result<BatchHeader, BatchError> {
    let header = parse_only_batch(bytes)?;
    if produce_version < ZSTD_FROM && header.attributes.compression() == Some(Compression::Zstd) {
        return Err(BatchError::CodecVersion);
    }
    Ok(header)
}

/// The header of a batch that fills `bytes` to the last byte.
fn parse_only_batch(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    // Older formats have shorter headers, so the length and the magic are looked at before the header as a whole.
    let truncated = |needed_bytes| BatchError::Truncated { needed_bytes, available_bytes: bytes.len() };
    let Some((_, after_offset)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated(LOG_OVERHEAD_BYTES));
    };
    let Some((&length, after_length)) = after_offset.split_first_chunk::<4>() else {
        return Err(truncated(LOG_OVERHEAD_BYTES));
    };
    let length = i32::from_be_bytes(length);
    let Some(length_bytes) = usize::try_from(length).ok().filter(|_| length >= SHORTEST_LENGTH) else {
        return Err(BatchError::Length(length));
    };
    // Magic is the fifth byte after the length in every format: behind a leader epoch in one, a CRC in the others.
    let Some(&magic) = after_length.get(4) else {
        return Err(truncated(BATCH_HEADER_BYTES));
    };
    let magic = i8::from_be_bytes([magic]);
    if !(0..=MAGIC_V2).contains(&magic) {
        return Err(BatchError::Magic(magic));
    }
    if after_length.len() < length_bytes {
        return Err(truncated(length_bytes.saturating_add(LOG_OVERHEAD_BYTES)));
    }
    if magic != MAGIC_V2 {
        return Err(BatchError::Magic(magic));
    }
    if after_length.len() > length_bytes {
        return Err(BatchError::NotOneBatch("there is more after the first"));
    }
    // The batch fills the bytes, so where they are too few for a header, its length is what is wrong.
    if bytes.len() < BATCH_HEADER_BYTES {
        return Err(BatchError::Length(length));
    }
    BatchHeader::parse(bytes)
}

#[cfg(test)]
mod tests;
