//! Writing v2 batches: for compaction, for the broker's own records, and for clients.

use bytes::{BufMut, BytesMut};
use chronik_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

use super::compression::{CompressError, compress};
use super::header::write_header;
use super::varint::{put_varint, varint_bytes};
use super::{
    BATCH_HEADER_BYTES, BatchAttributes, BatchHeader, Compression, ControlType, EndTxnMarker, Header, Record,
    TimestampType,
};

/// What holds for a batch as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Offset of the first record, or an earlier one where compaction has removed the first.
    pub base_offset: Offset,
    /// Epoch of the leader that appends it; −1 until a broker stamps it.
    pub partition_leader_epoch: LeaderEpoch,
    /// The codec.
    pub compression: Compression,
    /// The codec's level; `None` takes its default.
    pub compression_level: Option<i32>,
    /// The broker's time for all records, which makes the batch `LogAppendTime`; `None` keeps each record's own.
    pub log_append_time: Option<TimestampMs>,
    /// The producer, or −1.
    pub producer_id: ProducerId,
    /// Its epoch, or −1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record, or −1.
    pub base_sequence: i32,
    /// Whether the batch belongs to a transaction.
    pub is_transactional: bool,
    /// Whether it holds control records.
    pub is_control: bool,
    /// When the tombstones and markers inside may go (KIP-534); takes the place of the base timestamp.
    pub delete_horizon: Option<TimestampMs>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            base_offset: Offset::ZERO,
            partition_leader_epoch: LeaderEpoch::NONE,
            compression: Compression::None,
            compression_level: None,
            log_append_time: None,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            is_transactional: false,
            is_control: false,
            delete_horizon: None,
        }
    }
}

impl BatchOptions {
    /// The options that write a batch like the one with this header, so that compaction can keep what it keeps.
    pub fn like(header: &BatchHeader) -> Self {
        let attributes = header.attributes;
        Self {
            base_offset: header.base_offset,
            partition_leader_epoch: header.partition_leader_epoch,
            compression: attributes.compression().unwrap_or(Compression::None),
            compression_level: None,
            log_append_time: match attributes.timestamp_type() {
                TimestampType::CreateTime => None,
                TimestampType::LogAppendTime => Some(header.max_timestamp),
            },
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            is_transactional: attributes.is_transactional(),
            is_control: attributes.is_control(),
            delete_horizon: attributes.has_delete_horizon().then_some(header.base_timestamp),
        }
    }

    fn attributes(&self) -> BatchAttributes {
        let flag = |set, bit| if set { bit } else { 0 };
        BatchAttributes(
            i16::from(self.compression as u8)
                | flag(self.log_append_time.is_some(), BatchAttributes::LOG_APPEND_TIME)
                | flag(self.is_transactional, BatchAttributes::TRANSACTIONAL)
                | flag(self.is_control, BatchAttributes::CONTROL)
                | flag(self.delete_horizon.is_some(), BatchAttributes::DELETE_HORIZON),
        )
    }
}

/// Why a record or a batch was not written.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Offsets in a batch increase.
    #[error("offset {offset} does not follow {last}")]
    OffsetOrder {
        /// The offset that was to be appended.
        offset: Offset,
        /// The last offset of the batch so far, or its base offset.
        last: Offset,
    },
    /// The offset is too far from the base offset for the 32 bits that hold the distance.
    #[error("offset {offset} is more than 2147483647 away from base offset {base_offset}")]
    OffsetRange {
        /// The offset that was to be appended.
        offset: Offset,
        /// The base offset of the batch.
        base_offset: Offset,
    },
    /// Timestamps are −1 or more.
    #[error("timestamp {0} is neither −1 nor a time")]
    Timestamp(TimestampMs),
    /// A length does not fit its 32 bits.
    #[error("the batch is larger than the format can hold")]
    TooLarge,
    /// A batch has at least one record. See [`empty_batch`] for the exception.
    #[error("the batch has no records")]
    Empty,
    /// The records could not be compressed.
    #[error("the records could not be compressed")]
    Compress(#[from] CompressError),
}

/// Writes one batch, record by record.
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records, not compressed yet.
    out: BytesMut,
    base_timestamp: Option<TimestampMs>,
    max_timestamp: TimestampMs,
    last_offset: Option<Offset>,
    record_count: i32,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(options: BatchOptions) -> Self {
        Self::with_capacity(options, 0)
    }

    /// An empty batch with room for `records_bytes` bytes of records.
    pub fn with_capacity(options: BatchOptions, records_bytes: usize) -> Self {
        let mut out = BytesMut::with_capacity(BATCH_HEADER_BYTES.saturating_add(records_bytes));
        out.put_bytes(0, BATCH_HEADER_BYTES);
        Self {
            options,
            out,
            base_timestamp: options.delete_horizon,
            max_timestamp: TimestampMs::NONE,
            last_offset: None,
            record_count: 0,
        }
    }

    /// Records so far.
    pub const fn record_count(&self) -> i32 {
        self.record_count
    }

    /// Bytes so far, header and all, before compression.
    pub fn uncompressed_bytes(&self) -> usize {
        self.out.len()
    }

    /// The offset that follows the last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset.map_or(self.options.base_offset, Offset::next)
    }

    /// Appends a record at the next offset.
    pub fn append(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<(), BuildError> {
        self.append_at(self.next_offset(), timestamp, key, value, headers)
    }

    /// Appends a record at an offset beyond the last.
    pub fn append_at(
        &mut self,
        offset: Offset,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<(), BuildError> {
        let mut encoded = Vec::new();
        for header in headers {
            put_nullable(&mut encoded, Some(header.key))?;
            put_nullable(&mut encoded, header.value)?;
        }
        self.append_encoded(offset, timestamp, key, value, headers.len(), &encoded)
    }

    /// Appends a record that was read from another batch, at its own offset, headers as they were.
    pub fn append_record(&mut self, record: &Record<'_>) -> Result<(), BuildError> {
        let headers = record.headers;
        self.append_encoded(
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            headers.len(),
            headers.encoded(),
        )
    }

    /// Appends the marker that ends a transaction. The options must say control and transactional.
    pub fn append_marker(&mut self, timestamp: TimestampMs, marker: EndTxnMarker) -> Result<(), BuildError> {
        let (key, value) = (ControlType::to_key(marker.control_type), marker.to_value());
        self.append(timestamp, Some(&key), Some(&value), &[])
    }

    fn append_encoded(
        &mut self,
        offset: Offset,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header_count: usize,
        headers: &[u8],
    ) -> Result<(), BuildError> {
        let offset_delta = self.offset_delta(offset)?;
        if timestamp < TimestampMs::NONE {
            return Err(BuildError::Timestamp(timestamp));
        }
        let record_count = self.record_count.checked_add(1).ok_or(BuildError::TooLarge)?;
        let base_timestamp = *self.base_timestamp.get_or_insert(timestamp);
        // Neither is below −1, so the difference fits.
        let timestamp_delta = timestamp.get().saturating_sub(base_timestamp.get());
        let header_count = length_of(header_count)?;

        let body_bytes = [
            1,
            varint_bytes(timestamp_delta),
            varint_bytes(offset_delta.into()),
            nullable_bytes(key)?,
            nullable_bytes(value)?,
            varint_bytes(header_count.into()),
            headers.len(),
        ]
        .into_iter()
        .fold(0, usize::saturating_add);
        let body_length = length_of(body_bytes)?;
        length_of(
            self.out.len().saturating_add(body_bytes).saturating_add(varint_bytes(body_length.into())),
        )?;

        put_varint(&mut self.out, body_length.into());
        self.out.put_u8(0);
        put_varint(&mut self.out, timestamp_delta);
        put_varint(&mut self.out, offset_delta.into());
        put_nullable(&mut self.out, key)?;
        put_nullable(&mut self.out, value)?;
        put_varint(&mut self.out, header_count.into());
        self.out.put_slice(headers);

        self.record_count = record_count;
        self.last_offset = Some(offset);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        Ok(())
    }

    /// The distance of `offset` from the base offset, if it may come next.
    fn offset_delta(&self, offset: Offset) -> Result<i32, BuildError> {
        let base_offset = self.options.base_offset;
        if let Some(last) = self.last_offset.filter(|&last| offset <= last) {
            return Err(BuildError::OffsetOrder { offset, last });
        }
        if offset < base_offset {
            return Err(BuildError::OffsetOrder { offset, last: base_offset });
        }
        let delta = offset.get().checked_sub(base_offset.get());
        delta
            .and_then(|delta| i32::try_from(delta).ok())
            .ok_or(BuildError::OffsetRange { offset, base_offset })
    }

    /// Writes the header and gives the batch, its last offset that of the last record.
    pub fn finish(self) -> Result<BytesMut, BuildError> {
        let last_offset = self.last_offset.ok_or(BuildError::Empty)?;
        self.finish_at(last_offset)
    }

    /// Like [`BatchBuilder::finish`] with a last offset at or beyond the last record. Compaction keeps the one of the
    /// batch that it copies: the producer's last sequence number is computed from it.
    pub fn finish_at(mut self, last_offset: Offset) -> Result<BytesMut, BuildError> {
        let last = self.last_offset.ok_or(BuildError::Empty)?;
        if last_offset < last {
            return Err(BuildError::OffsetOrder { offset: last_offset, last });
        }
        self.last_offset = None;
        let last_offset_delta = self.offset_delta(last_offset)?;
        if self.options.compression != Compression::None {
            let mut compressed = Vec::new();
            let records = self.out.get(BATCH_HEADER_BYTES..).unwrap_or_default();
            compress(self.options.compression, self.options.compression_level, records, &mut compressed)?;
            self.out.truncate(BATCH_HEADER_BYTES);
            self.out.extend_from_slice(&compressed);
        }
        length_of(self.out.len())?;
        let header = BatchHeader {
            base_offset: self.options.base_offset,
            size_bytes: self.out.len(),
            partition_leader_epoch: self.options.partition_leader_epoch,
            crc: 0,
            attributes: self.options.attributes(),
            last_offset_delta,
            base_timestamp: self.base_timestamp.unwrap_or(TimestampMs::NONE),
            max_timestamp: self.options.log_append_time.unwrap_or(self.max_timestamp),
            producer_id: self.options.producer_id,
            producer_epoch: self.options.producer_epoch,
            base_sequence: self.options.base_sequence,
            record_count: self.record_count,
        };
        write_header(&mut self.out, &header);
        Ok(self.out)
    }
}

/// A batch without records in the place of one whose records are all gone. It keeps the offsets and the producer's
/// state, so that a producer can go on where it was; compaction writes one for a producer's last batch.
pub fn empty_batch(original: &BatchHeader) -> BytesMut {
    let kept = BatchAttributes::LOG_APPEND_TIME | BatchAttributes::TRANSACTIONAL | BatchAttributes::CONTROL;
    let header = BatchHeader {
        size_bytes: BATCH_HEADER_BYTES,
        attributes: BatchAttributes(original.attributes.0 & kept),
        base_timestamp: TimestampMs::NONE,
        record_count: 0,
        ..*original
    };
    let mut out = BytesMut::zeroed(BATCH_HEADER_BYTES);
    write_header(&mut out, &header);
    out
}

fn length_of(length: usize) -> Result<i32, BuildError> {
    i32::try_from(length).map_err(|_| BuildError::TooLarge)
}

fn nullable_bytes(bytes: Option<&[u8]>) -> Result<usize, BuildError> {
    let length = bytes.map_or(Ok(-1), |bytes| length_of(bytes.len()))?;
    Ok(varint_bytes(length.into()).saturating_add(bytes.map_or(0, <[u8]>::len)))
}

fn put_nullable(out: &mut impl BufMut, bytes: Option<&[u8]>) -> Result<(), BuildError> {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, length_of(bytes.len())?.into());
            out.put_slice(bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
