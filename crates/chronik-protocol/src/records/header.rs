//! The 61-byte header of a v2 record batch, read and patched where it lies.
//!
//! Layout (KIP-98): base offset 0..8, batch length 8..12 (what follows it), partition leader epoch 12..16,
//! magic 16, CRC-32C 17..21 over everything from 21, attributes 21..23, last offset delta 23..27, base
//! timestamp 27..35, max timestamp 35..43, producer id 43..51, producer epoch 51..53, base sequence 53..57,
//! record count 57..61. Base offset and leader epoch lie before the CRC's range, so a broker stamps them
//! without touching the rest.

use chronik_types::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

/// The length of a v2 batch header, in bytes.
pub const BATCH_HEADER_BYTES: usize = 61;
/// The bytes of a batch that its own length field does not count: base offset and the length itself.
pub const LOG_OVERHEAD_BYTES: usize = 12;
/// The only magic that is written; older ones cannot be produced any more (KIP-724).
pub const MAGIC_V2: i8 = 2;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the codecs' own")]
pub enum Compression {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

/// Who set the timestamps of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer.
    CreateTime,
    /// The broker, when it appended the batch; then every record has the batch's max timestamp.
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchAttributes(pub i16);

impl BatchAttributes {
    const COMPRESSION_MASK: i16 = 0x07;
    /// Set when the timestamps are the broker's.
    pub const LOG_APPEND_TIME: i16 = 0x08;
    /// Set on a batch of a transaction.
    pub const TRANSACTIONAL: i16 = 0x10;
    /// Set on a batch of control records.
    pub const CONTROL: i16 = 0x20;
    /// Set when the base timestamp is the delete horizon of the tombstones inside (KIP-534).
    pub const DELETE_HORIZON: i16 = 0x40;

    /// The codec, or `None` for a number that no codec has.
    pub const fn compression(self) -> Option<Compression> {
        match self.0 & Self::COMPRESSION_MASK {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// The same attributes with another codec.
    #[must_use]
    pub const fn with_compression(self, codec: Compression) -> Self {
        Self(self.0 & !Self::COMPRESSION_MASK | codec as i16)
    }

    /// Who set the timestamps.
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch belongs to a transaction.
    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records.
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is a delete horizon.
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }
}

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the batch needs; `needed_bytes` counts from its first byte.
    #[error("the batch needs {needed_bytes} bytes and {available_bytes} are there")]
    Truncated {
        /// Bytes that the batch needs as far as is known.
        needed_bytes: usize,
        /// Bytes that are there.
        available_bytes: usize,
    },
    /// The length field is below what a header needs.
    #[error("the batch length {0} is smaller than a batch header")]
    Length(i32),
    /// The magic is not 2.
    #[error("the batch has magic {0}; only 2 is supported")]
    Magic(i8),
    /// The checksum does not match.
    #[error("the batch checksum is {stored:#010x} and its bytes give {computed:#010x}")]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes say.
        computed: u32,
    },
    /// The compression bits name no codec.
    #[error("the batch attributes {0:#06x} name an unknown compression codec")]
    Codec(i16),
    /// Record count, last offset delta or the records themselves contradict each other.
    #[error("the batch is inconsistent: {0}")]
    Inconsistent(&'static str),
    /// The compressed bytes cannot be read.
    #[error("the batch cannot be decompressed: {0}")]
    Decompression(&'static str),
    /// The records are larger than the reader allows, compressed or not.
    #[error("the records of the batch take more than the {bytes_max} bytes that are allowed")]
    Inflated {
        /// The bytes that the reader allows.
        bytes_max: usize,
    },
    /// A client's batch is larger than the topic takes.
    #[error("the batch has {size_bytes} bytes and the largest allowed has {bytes_max}")]
    TooLarge {
        /// The batch, header and all.
        size_bytes: usize,
        /// `max.message.bytes`.
        bytes_max: usize,
    },
    /// A client sent a codec that its version of Produce does not know.
    #[error("zstd needs Produce version 7 or later")]
    CodecVersion,
    /// A client sent something else than exactly one batch for a partition.
    #[error("a produce request holds exactly one record batch for a partition: {0}")]
    NotOneBatch(&'static str),
    /// A client sent a batch that only a broker may write.
    #[error("a client may not write this batch: {0}")]
    NotForClients(&'static str),
}

impl BatchError {
    /// What Kafka answers to a producer whose batch fails like this.
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            // Where less than a batch is there, Kafka finds none, and says that there must be one. Magic 0 and 1 are
            // formats that no supported version of Produce may carry.
            Self::Truncated { .. }
            | Self::NotOneBatch(_)
            | Self::NotForClients(_)
            | Self::Inconsistent(_)
            | Self::Magic(0 | 1)
            | Self::Inflated { .. } => ErrorCode::InvalidRecord,
            // Kafka's reader fails on these with an exception that has no code of its own.
            Self::Codec(_) | Self::Decompression(_) => ErrorCode::UnknownServerError,
            Self::Magic(_) | Self::Length(_) | Self::Crc { .. } => ErrorCode::CorruptMessage,
            Self::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::CodecVersion => ErrorCode::UnsupportedCompressionType,
        }
    }
}

/// A decoded batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// The whole batch in bytes, header and all.
    pub size_bytes: usize,
    /// Epoch of the leader that appended it.
    pub partition_leader_epoch: LeaderEpoch,
    /// The stored CRC-32C.
    pub crc: u32,
    /// The attribute bits.
    pub attributes: BatchAttributes,
    /// Offset of the last record, less the base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, or the delete horizon.
    pub base_timestamp: TimestampMs,
    /// The largest timestamp in the batch.
    pub max_timestamp: TimestampMs,
    /// The producer, or −1.
    pub producer_id: ProducerId,
    /// Its epoch, or −1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record, or −1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`. Only the header must be there; whether the rest is there too is
    /// for the caller to see by `size_bytes`. The CRC is not checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(header) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Truncated {
                needed_bytes: BATCH_HEADER_BYTES,
                available_bytes: bytes.len(),
            });
        };
        let length = i32::from_be_bytes(field(header, 8));
        let magic = i8::from_be_bytes(field(header, 16));
        if magic != MAGIC_V2 {
            return Err(BatchError::Magic(magic));
        }
        let size_bytes = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(LOG_OVERHEAD_BYTES))
            .filter(|&size| size >= BATCH_HEADER_BYTES)
            .ok_or(BatchError::Length(length))?;
        Ok(Self {
            base_offset: Offset(i64::from_be_bytes(field(header, 0))),
            size_bytes,
            partition_leader_epoch: LeaderEpoch(i32::from_be_bytes(field(header, 12))),
            crc: u32::from_be_bytes(field(header, 17)),
            attributes: BatchAttributes(i16::from_be_bytes(field(header, 21))),
            last_offset_delta: i32::from_be_bytes(field(header, 23)),
            base_timestamp: TimestampMs(i64::from_be_bytes(field(header, 27))),
            max_timestamp: TimestampMs(i64::from_be_bytes(field(header, 35))),
            producer_id: ProducerId(i64::from_be_bytes(field(header, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(header, 51))),
            base_sequence: i32::from_be_bytes(field(header, 53)),
            record_count: i32::from_be_bytes(field(header, 57)),
        })
    }

    /// Offset of the last record, or `None` where that is not an offset.
    pub const fn last_offset(&self) -> Option<Offset> {
        self.base_offset.checked_add(self.last_offset_delta as i64)
    }

    /// Sequence number of the last record; sequence numbers wrap from 2147483647 to 0 (KIP-98).
    pub const fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        // Both terms are at most i32::MAX once the delta is known not to be negative, so the sum fits an i64.
        let sum = (self.base_sequence as i64).wrapping_add(self.last_offset_delta as i64);
        (sum & 0x7fff_ffff) as i32
    }

    /// Compares the stored CRC with the bytes of the batch, which must all be there.
    pub fn check_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        let Some(covered) = batch.get(21..self.size_bytes) else {
            return Err(BatchError::Truncated {
                needed_bytes: self.size_bytes,
                available_bytes: batch.len(),
            });
        };
        let computed = crc32c::crc32c(covered);
        if computed == self.crc { Ok(()) } else { Err(BatchError::Crc { stored: self.crc, computed }) }
    }
}

/// Stamps base offset and leader epoch into a batch. Neither is covered by the CRC.
///
/// # Panics
/// When `batch` is shorter than a header, which [`BatchHeader::parse`] has ruled out.
pub fn patch_append(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    let header = batch.first_chunk_mut::<BATCH_HEADER_BYTES>().expect("a parsed batch has a whole header");
    set_field(header, 0, base_offset.get().to_be_bytes());
    set_field(header, 12, leader_epoch.get().to_be_bytes());
}

/// Stamps the broker's time into a batch (`message.timestamp.type=LogAppendTime`) and renews its CRC. `batch` must be
/// the whole batch and nothing more.
///
/// # Panics
/// When `batch` is shorter than a header, which [`BatchHeader::parse`] has ruled out.
pub fn patch_max_timestamp(batch: &mut [u8], timestamp_type: TimestampType, max_timestamp: TimestampMs) {
    let header = batch.first_chunk_mut::<BATCH_HEADER_BYTES>().expect("a parsed batch has a whole header");
    let attributes = i16::from_be_bytes(field(header, 21));
    let attributes = match timestamp_type {
        TimestampType::CreateTime => attributes & !BatchAttributes::LOG_APPEND_TIME,
        TimestampType::LogAppendTime => attributes | BatchAttributes::LOG_APPEND_TIME,
    };
    set_field(header, 21, attributes.to_be_bytes());
    set_field(header, 35, max_timestamp.get().to_be_bytes());
    write_crc(batch);
}

/// Writes `header` to the front of a batch whose records are in place, with the CRC of what is then there. The length
/// and the CRC, which is the result, come from `batch` and not from `header`.
pub(super) fn write_header(batch: &mut [u8], header: &BatchHeader) -> u32 {
    let length = i32::try_from(batch.len().saturating_sub(LOG_OVERHEAD_BYTES)).unwrap_or(i32::MAX);
    debug_assert_eq!(batch.len(), header.size_bytes);
    let Some(front) = batch.first_chunk_mut::<BATCH_HEADER_BYTES>() else {
        return 0;
    };
    set_field(front, 0, header.base_offset.get().to_be_bytes());
    set_field(front, 8, length.to_be_bytes());
    set_field(front, 12, header.partition_leader_epoch.get().to_be_bytes());
    set_field(front, 16, MAGIC_V2.to_be_bytes());
    set_field(front, 21, header.attributes.0.to_be_bytes());
    set_field(front, 23, header.last_offset_delta.to_be_bytes());
    set_field(front, 27, header.base_timestamp.get().to_be_bytes());
    set_field(front, 35, header.max_timestamp.get().to_be_bytes());
    set_field(front, 43, header.producer_id.get().to_be_bytes());
    set_field(front, 51, header.producer_epoch.get().to_be_bytes());
    set_field(front, 53, header.base_sequence.to_be_bytes());
    set_field(front, 57, header.record_count.to_be_bytes());
    write_crc(batch)
}

/// Computes the CRC of a whole batch and stores it.
fn write_crc(batch: &mut [u8]) -> u32 {
    let crc = crc32c::crc32c(batch.get(21..).unwrap_or_default());
    if let Some(front) = batch.first_chunk_mut::<BATCH_HEADER_BYTES>() {
        set_field(front, 17, crc.to_be_bytes());
    }
    crc
}

/// `N` bytes of the header from the constant position `at`.
#[inline]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "constant positions inside an array of 61"
)]
fn field<const N: usize>(header: &[u8; BATCH_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&header[at..at + N]);
    out
}

#[inline]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "constant positions inside an array of 61"
)]
fn set_field<const N: usize>(header: &mut [u8; BATCH_HEADER_BYTES], at: usize, value: [u8; N]) {
    header[at..at + N].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, BatchOptions};

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: Offset(0x0102_0304_0506_0708),
            partition_leader_epoch: LeaderEpoch(0x1112_1314),
            compression: Compression::Zstd,
            producer_id: ProducerId(0x2122_2324_2526_2728),
            producer_epoch: ProducerEpoch(0x3132),
            base_sequence: 0x4142_4344,
            is_transactional: true,
            ..BatchOptions::default()
        });
        builder.append(TimestampMs(0x5152_5354_5556_5758), None, None, &[]).unwrap();
        builder.append(TimestampMs(0x6162_6364_6566_6768), None, None, &[]).unwrap();
        builder.finish().unwrap().to_vec()
    }

    #[test]
    fn every_field_is_where_the_format_has_it() {
        let bytes = batch();
        assert_eq!(bytes[0..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[12..17], [0x11, 0x12, 0x13, 0x14, 2]);
        assert_eq!(bytes[21..27], [0, 0x14, 0, 0, 0, 1]);
        assert_eq!(bytes[27..31], [0x51, 0x52, 0x53, 0x54]);
        assert_eq!(bytes[35..39], [0x61, 0x62, 0x63, 0x64]);
        assert_eq!(bytes[43..47], [0x21, 0x22, 0x23, 0x24]);
        assert_eq!(bytes[51..53], [0x31, 0x32]);
        assert_eq!(bytes[53..61], [0x41, 0x42, 0x43, 0x44, 0, 0, 0, 2]);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!(header.size_bytes, bytes.len());
        assert_eq!(header.check_crc(&bytes), Ok(()));
        // What follows the batch is no part of it.
        let more = [&bytes[..], b"more"].concat();
        assert_eq!(header.check_crc(&more), Ok(()));
        assert!(matches!(header.check_crc(&bytes[..70]), Err(BatchError::Truncated { .. })));
    }

    #[test]
    fn stamping_an_offset_leaves_the_crc_valid() {
        let mut bytes = batch();
        let before = BatchHeader::parse(&bytes).unwrap();
        patch_append(&mut bytes, Offset(77), LeaderEpoch(8));
        let after = BatchHeader::parse(&bytes).unwrap();
        let expected =
            BatchHeader { base_offset: Offset(77), partition_leader_epoch: LeaderEpoch(8), ..before };
        assert_eq!(after, expected);
        assert_eq!(after.check_crc(&bytes), Ok(()));
    }

    #[test]
    fn stamping_a_time_renews_the_crc() {
        let mut bytes = batch();
        let before = BatchHeader::parse(&bytes).unwrap();
        for (timestamp_type, flag) in
            [(TimestampType::LogAppendTime, 0x1c), (TimestampType::CreateTime, 0x14)]
        {
            patch_max_timestamp(&mut bytes, timestamp_type, TimestampMs(123));
            let after = BatchHeader::parse(&bytes).unwrap();
            assert_eq!(after.attributes, BatchAttributes(flag));
            assert_eq!(after.attributes.timestamp_type(), timestamp_type);
            assert_eq!(after.max_timestamp, TimestampMs(123));
            assert_eq!(after.base_timestamp, before.base_timestamp);
            assert_eq!(after.check_crc(&bytes), Ok(()));
        }
    }

    #[test]
    fn sequences_and_offsets_end_where_kafka_says() {
        let header = BatchHeader::parse(&batch()).unwrap();
        let last = |base_sequence, last_offset_delta| {
            BatchHeader { last_offset_delta, base_sequence, ..header }.last_sequence()
        };
        assert_eq!(last(-1, 5), -1);
        assert_eq!(last(0, 0), 0);
        assert_eq!(last(i32::MAX, 0), i32::MAX);
        assert_eq!(last(i32::MAX, 1), 0);
        assert_eq!(last(i32::MAX - 1, 5), 3);
        assert_eq!(last(i32::MAX, i32::MAX), i32::MAX - 1);
        let beyond = BatchHeader { base_offset: Offset(i64::MAX), last_offset_delta: 1, ..header };
        assert_eq!(beyond.last_offset(), None);
    }
}
