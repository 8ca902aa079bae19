//! The records inside one batch.
//!
//! Decoding is strict: what a record declares must be there to the byte, and the batch must hold as many records as
//! its header says and nothing after them. Headers keep their order, their duplicates, and keys that are not UTF-8,
//! because compaction has to write back what it read.

use chronik_types::{Offset, TimestampMs};

use super::compression::{CHUNK_BYTES, Inflate};
use super::varint::{Cursor, VARINT_BYTES_MAX};
use super::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Compression, TimestampType};

/// One record, borrowed from its batch or from what was decompressed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// The producer's time, or the broker's where the batch says `LogAppendTime`.
    pub timestamp: TimestampMs,
    /// The key; an empty key is not the same as none.
    pub key: Option<&'a [u8]>,
    /// The value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, in order.
    pub headers: Headers<'a>,
}

/// The headers of one record, as they were encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    count: usize,
    /// The headers without their count. Everything in it was checked when the record was read.
    bytes: &'a [u8],
}

/// One header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The key. Kafka's clients write UTF-8; nothing enforces it.
    pub key: &'a [u8],
    /// The value, which may be null.
    pub value: Option<&'a [u8]>,
}

impl<'a> Headers<'a> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each header, in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        (0..self.count).map_while(move |_| read_header(&mut cursor).ok())
    }

    /// The headers as they are encoded, without their count.
    pub(super) const fn encoded(&self) -> &'a [u8] {
        self.bytes
    }
}

fn read_header<'a>(cursor: &mut Cursor<'a>) -> Result<Header<'a>, BatchError> {
    let key = cursor.nullable_bytes()?.ok_or(BatchError::Inconsistent("a record header has no key"))?;
    Ok(Header { key, value: cursor.nullable_bytes()? })
}

/// Reads the records of one batch, one after another.
///
/// An uncompressed batch is read where it lies. A compressed one is decompressed as far as the records that are asked
/// for, so that looking at the first record costs one piece and not the whole. Every record lives until the next is
/// asked for. An error is given again however often the next record is asked for.
pub struct RecordIter<'a> {
    header: BatchHeader,
    source: Source<'a>,
    records_left: u32,
    failure: Option<BatchError>,
}

enum Source<'a> {
    InPlace(&'a [u8]),
    Inflated {
        stream: Inflate<'a>,
        /// Decompressed bytes; the first `consumed` belong to records already returned.
        buffer: Vec<u8>,
        consumed: usize,
        bytes_max: usize,
    },
}

impl<'a> RecordIter<'a> {
    /// Starts on `batch`, which holds at least the whole batch. Its CRC is not checked here. Decompression ends with
    /// an error once it has given `inflated_bytes_max` bytes; no more than about twice that is ever held.
    pub fn new(batch: &'a [u8], inflated_bytes_max: usize) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(batch)?;
        let Some(records) = batch.get(BATCH_HEADER_BYTES..header.size_bytes) else {
            return Err(BatchError::Truncated {
                needed_bytes: header.size_bytes,
                available_bytes: batch.len(),
            });
        };
        let records_left = u32::try_from(header.record_count)
            .map_err(|_| BatchError::Inconsistent("the record count is negative"))?;
        let source = match header.attributes.compression() {
            None => return Err(BatchError::Codec(header.attributes.0)),
            Some(Compression::None) => Source::InPlace(records),
            // Compaction leaves batches without records, and without even a compressed nothing.
            Some(_) if records_left == 0 && records.is_empty() => Source::InPlace(records),
            Some(codec) => Source::Inflated {
                stream: Inflate::new(codec, records, inflated_bytes_max)?,
                buffer: Vec::new(),
                consumed: 0,
                bytes_max: inflated_bytes_max,
            },
        };
        Ok(Self { header, source, records_left, failure: None })
    }

    /// The header of the batch.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Records that have not been read yet, by the count in the header.
    pub const fn records_left(&self) -> u32 {
        self.records_left
    }

    /// The next record; `None` when the batch ends, where it should.
    ///
    /// This is not [`Iterator::next`], because a record of a compressed batch borrows from the iterator.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, BatchError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.records_left == 0 {
            return self.expect_end().map(|()| None).inspect_err(|&error| self.failure = Some(error));
        }
        self.records_left = self.records_left.saturating_sub(1);
        let body = match self.source.next_body() {
            Ok(body) => body,
            Err(error) => {
                self.failure = Some(error);
                return Err(error);
            }
        };
        match parse_record(&self.header, body) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                self.failure = Some(error);
                Err(error)
            }
        }
    }

    fn expect_end(&mut self) -> Result<(), BatchError> {
        let at_end = match &mut self.source {
            Source::InPlace(rest) => rest.is_empty(),
            source @ Source::Inflated { .. } => source.peek(1)?.is_empty(),
        };
        if at_end { Ok(()) } else { Err(BatchError::Inconsistent("there are bytes after the last record")) }
    }
}

impl Source<'_> {
    /// The bytes of the next record behind its length.
    fn next_body(&mut self) -> Result<&[u8], BatchError> {
        let head = self.peek(VARINT_BYTES_MAX)?;
        let mut cursor = Cursor::new(head);
        let length = usize::try_from(cursor.varint()?)
            .map_err(|_| BatchError::Inconsistent("a record has a negative length"))?;
        let prefix_bytes = head.len().saturating_sub(cursor.rest().len());
        self.consume(prefix_bytes);
        if let Source::Inflated { bytes_max, .. } = self
            && length > *bytes_max
        {
            return Err(BatchError::Inflated { bytes_max: *bytes_max });
        }
        if self.peek(length)?.len() < length {
            return Err(BatchError::Inconsistent("a record is longer than what is left of the batch"));
        }
        self.consume_and_get(length)
    }

    /// At least the next `wanted_bytes` bytes, fewer only where the batch ends.
    fn peek(&mut self, wanted_bytes: usize) -> Result<&[u8], BatchError> {
        match self {
            Self::InPlace(rest) => Ok(rest),
            Self::Inflated { stream, buffer, consumed, .. } => {
                while buffer.len().saturating_sub(*consumed) < wanted_bytes {
                    if *consumed > 0 {
                        // What has been read makes room for what comes, so the buffer holds little more than a record.
                        buffer.drain(..*consumed);
                        *consumed = 0;
                    }
                    if stream.read_chunk(buffer, CHUNK_BYTES)? == 0 {
                        break;
                    }
                }
                Ok(buffer.get(*consumed..).unwrap_or_default())
            }
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::InPlace(rest) => *rest = rest.get(count..).unwrap_or_default(),
            Self::Inflated { consumed, .. } => *consumed = consumed.saturating_add(count),
        }
    }

    fn consume_and_get(&mut self, count: usize) -> Result<&[u8], BatchError> {
        const GONE: BatchError =
            BatchError::Inconsistent("a record is longer than what is left of the batch");
        match self {
            Self::InPlace(rest) => {
                let (taken, after) = rest.split_at_checked(count).ok_or(GONE)?;
                *rest = after;
                Ok(taken)
            }
            Self::Inflated { buffer, consumed, .. } => {
                let from = *consumed;
                *consumed = from.saturating_add(count);
                buffer.get(from..*consumed).ok_or(GONE)
            }
        }
    }
}

fn parse_record<'a>(header: &BatchHeader, body: &'a [u8]) -> Result<Record<'a>, BatchError> {
    let mut cursor = Cursor::new(body);
    // The attributes of a record have no bit with a meaning yet, and readers ignore them.
    let _attributes = cursor.byte()?;
    let timestamp_delta = cursor.varlong()?;
    let offset_delta = cursor.varint()?;
    let key = cursor.nullable_bytes()?;
    let value = cursor.nullable_bytes()?;
    let count = usize::try_from(cursor.varint()?)
        .map_err(|_| BatchError::Inconsistent("a record has a negative number of headers"))?;
    let headers = Headers { count, bytes: cursor.rest() };
    // Every header takes two bytes at least, so a count that is too large ends with the record.
    for _ in 0..count {
        read_header(&mut cursor)?;
    }
    if !cursor.rest().is_empty() {
        return Err(BatchError::Inconsistent("a record is longer than its fields"));
    }
    if offset_delta < 0 || offset_delta > header.last_offset_delta {
        return Err(BatchError::Inconsistent("a record lies outside the offsets of its batch"));
    }
    let offset = header
        .base_offset
        .checked_add(i64::from(offset_delta))
        .ok_or(BatchError::Inconsistent("a record has an offset beyond the last"))?;
    let timestamp = match header.attributes.timestamp_type() {
        TimestampType::LogAppendTime => header.max_timestamp,
        TimestampType::CreateTime => TimestampMs(
            header
                .base_timestamp
                .get()
                .checked_add(timestamp_delta)
                .ok_or(BatchError::Inconsistent("a record has a timestamp beyond the last"))?,
        ),
    };
    Ok(Record { offset, timestamp, key, value, headers })
}

#[cfg(test)]
mod tests;
