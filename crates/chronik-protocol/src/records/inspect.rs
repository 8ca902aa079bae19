//! Looking at every record of a batch that a client produced, without keeping any of them.
//!
//! Kafka promises that a broker stores no batch that a consumer cannot read, so each record is walked: its length, its
//! fields, its offset, its key where the topic asks for one, its timestamp. A compressed batch is inflated through a
//! small window for that. The window is all the memory that it takes, however much the batch inflates to; what it may
//! inflate to is bounded as well, because inflating takes time.

use chronik_types::{Offset, TimestampMs};

use super::compression::Inflate;
use super::varint::{Cursor, VARINT_BYTES_MAX, VARLONG_BYTES_MAX};
use super::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Compression, TimestampType};

/// The most bytes that the records of one produced batch may inflate to. The largest batch of the default
/// `max.message.bytes` reaches it at a ratio of 256, where text reaches 10; looking through that many bytes takes a
/// fraction of a second.
pub const RECORDS_INFLATED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The most faulty records of a batch that are named one by one. Their number is counted to the end.
pub const RECORD_FAULTS_MAX: usize = 1024;

/// The window through which a compressed batch is looked at; it shrinks for batches that are small.
const WINDOW_BYTES_MAX: usize = 64 * 1024;
const WINDOW_BYTES_MIN: usize = 2 * 1024;

/// What the topic asks of each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRules {
    /// Every record has a key, as in a compacted topic.
    pub needs_key: bool,
    /// The broker sets the time of all records (`LogAppendTime`), so that those of the producer do not matter; but the
    /// producer must not claim that a broker has set them.
    pub broker_sets_time: bool,
    /// The earliest timestamp that a record may have. One without a timestamp (−1) is not held to it.
    pub timestamp_min: TimestampMs,
    /// The latest timestamp that a record may have.
    pub timestamp_max: TimestampMs,
}

impl RecordRules {
    /// Any key, any time.
    pub const NONE: Self = Self {
        needs_key: false,
        broker_sets_time: false,
        timestamp_min: TimestampMs(i64::MIN),
        timestamp_max: TimestampMs(i64::MAX),
    };
}

/// What is wrong with a record that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFaultKind {
    /// It has no key, and the topic is compacted.
    NoKey,
    /// Its timestamp lies outside what the topic allows.
    TimestampRange(TimestampMs),
    /// It claims a timestamp that only a broker may set.
    TimestampType,
}

/// A record that the topic refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordFault {
    /// The record, counted from the first of its batch.
    pub index: i32,
    /// What is wrong with it.
    pub kind: RecordFaultKind,
}

/// What looking at the records has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordsFacts {
    /// The largest timestamp; −1 where no record has one.
    pub max_timestamp: TimestampMs,
    /// The first [`RECORD_FAULTS_MAX`] records that the topic refuses, in order.
    pub faults: Vec<RecordFault>,
    /// All records that the topic refuses.
    pub fault_count: usize,
    /// Bytes of the records, not compressed.
    pub records_bytes: usize,
}

/// Takes the inflated bytes as they come by.
pub(super) trait Sink {
    fn take(&mut self, bytes: &[u8]) -> Result<(), BatchError>;
}

/// Nobody wants the bytes.
pub(super) struct Discard;

impl Sink for Discard {
    fn take(&mut self, _: &[u8]) -> Result<(), BatchError> {
        Ok(())
    }
}

/// Looks at every record of `batch`, whose header is `header`: there must be as many as the header says, at offsets that
/// count up from 0, each well formed, and nothing behind the last. Records that break a rule are in the result.
pub fn inspect_records(
    batch: &[u8],
    header: &BatchHeader,
    rules: &RecordRules,
    inflated_bytes_max: usize,
) -> Result<RecordsFacts, BatchError> {
    inspect_into(batch, header, rules, inflated_bytes_max, &mut Discard)
}

/// Like [`inspect_records`], and gives the records' bytes, inflated, to `sink`.
pub(super) fn inspect_into(
    batch: &[u8],
    header: &BatchHeader,
    rules: &RecordRules,
    inflated_bytes_max: usize,
    sink: &mut impl Sink,
) -> Result<RecordsFacts, BatchError> {
    let records = batch.get(BATCH_HEADER_BYTES..header.size_bytes).unwrap_or_default();
    let codec = header.attributes.compression().ok_or(BatchError::Codec(header.attributes.0))?;
    let mut inspection = Inspection::new(header, *rules);
    if codec == Compression::None {
        let mut cursor = Cursor::new(records);
        for _ in 0..header.record_count {
            // Each round takes a byte at least, so a count that is too large ends with the batch.
            let length = record_length(cursor.varint()?)?;
            inspection.add(Shape::of(cursor.bytes(length)?)?)?;
        }
        if !cursor.rest().is_empty() {
            return Err(BatchError::Inconsistent("there are bytes after the last record"));
        }
        sink.take(records)?;
        inspection.facts.records_bytes = records.len();
    } else {
        let mut window = Window::new(Inflate::new(codec, records, inflated_bytes_max)?, records.len(), sink);
        for _ in 0..header.record_count {
            // Each round takes a byte at least, so a count that is too large ends with the stream.
            inspection.add(window.next_shape()?)?;
        }
        if !window.peek(1)?.is_empty() {
            return Err(BatchError::Inconsistent("there are bytes after the last record"));
        }
        inspection.facts.records_bytes = window.inflated_bytes;
    }
    Ok(inspection.facts)
}

/// The first record of a stored batch at or after both `timestamp` and `offset`: its timestamp and its offset. Keys and
/// values are passed over and never held, and inflating ends with the record or with an error at `inflated_bytes_max`.
pub fn find_record(
    batch: &[u8],
    timestamp: TimestampMs,
    offset: Offset,
    inflated_bytes_max: usize,
) -> Result<Option<(TimestampMs, Offset)>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let records = batch
        .get(BATCH_HEADER_BYTES..header.size_bytes)
        .ok_or(BatchError::Truncated { needed_bytes: header.size_bytes, available_bytes: batch.len() })?;
    let codec = header.attributes.compression().ok_or(BatchError::Codec(header.attributes.0))?;
    // Compaction leaves batches without records, and without even a compressed nothing.
    if records.is_empty() {
        return Ok(None);
    }
    let mut sink = Discard;
    let mut window = Window::new(Inflate::new(codec, records, inflated_bytes_max)?, records.len(), &mut sink);
    for _ in 0..header.record_count {
        let shape = window.next_shape()?;
        let found_offset = header.base_offset.checked_add(i64::from(shape.offset_delta));
        let found_offset =
            found_offset.ok_or(BatchError::Inconsistent("a record has an offset beyond the last"))?;
        let found_timestamp = record_timestamp(&header, shape.timestamp_delta)?;
        if timestamp <= found_timestamp && offset <= found_offset {
            return Ok(Some((found_timestamp, found_offset)));
        }
    }
    Ok(None)
}

fn record_timestamp(header: &BatchHeader, delta: i64) -> Result<TimestampMs, BatchError> {
    match header.attributes.timestamp_type() {
        TimestampType::LogAppendTime => Ok(header.max_timestamp),
        TimestampType::CreateTime => header
            .base_timestamp
            .get()
            .checked_add(delta)
            .map(TimestampMs)
            .ok_or(BatchError::Inconsistent("a record has a timestamp beyond the last")),
    }
}

fn record_length(length: i32) -> Result<usize, BatchError> {
    usize::try_from(length).map_err(|_| BatchError::Inconsistent("a record has a negative length"))
}

/// What is looked at of one record.
#[derive(Clone, Copy, Debug)]
struct Shape {
    timestamp_delta: i64,
    offset_delta: i32,
    has_key: bool,
}

impl Shape {
    /// Passes over all fields of a record that is there as a whole, behind its length.
    #[inline]
    fn of(body: &[u8]) -> Result<Self, BatchError> {
        match Self::of_plain(body) {
            Some(shape) => Ok(shape),
            None => Self::of_any(body),
        }
    }

    /// A record as most are: sound, without headers, its numbers of 3 bytes at most. Anything else is left to the
    /// reader that says what is wrong.
    #[inline]
    fn of_plain(body: &[u8]) -> Option<Self> {
        let (_attributes, rest) = body.split_first()?;
        let (timestamp_delta, rest) = short_varint(rest)?;
        let (offset_delta, rest) = short_varint(rest)?;
        let (key_length, rest) = short_varint(rest)?;
        let rest = rest.get(usize::try_from(key_length).unwrap_or(0)..)?;
        let (value_length, rest) = short_varint(rest)?;
        let rest = rest.get(usize::try_from(value_length).unwrap_or(0)..)?;
        (rest == [0]).then_some(Self {
            timestamp_delta: i64::from(timestamp_delta),
            offset_delta,
            has_key: key_length >= 0,
        })
    }

    #[cold]
    fn of_any(body: &[u8]) -> Result<Self, BatchError> {
        let mut cursor = Cursor::new(body);
        let _attributes = cursor.byte()?;
        let timestamp_delta = cursor.varlong()?;
        let offset_delta = cursor.varint()?;
        let has_key = cursor.nullable_bytes()?.is_some();
        cursor.nullable_bytes()?;
        let header_count = header_count(cursor.varint()?)?;
        for _ in 0..header_count {
            header_key_length(cursor.varint()?).and_then(|length| cursor.bytes(length))?;
            cursor.nullable_bytes()?;
        }
        if cursor.rest().is_empty() {
            Ok(Self { timestamp_delta, offset_delta, has_key })
        } else {
            Err(BatchError::Inconsistent("a record is longer than its fields"))
        }
    }
}

/// A signed varint of up to 3 bytes, and what follows it.
#[inline]
fn short_varint(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (value, rest) = match bytes {
        [first, rest @ ..] if *first < 0x80 => (u32::from(*first), rest),
        [first, second, rest @ ..] if *second < 0x80 => {
            (u32::from(*first & 0x7f) | u32::from(*second) << 7, rest)
        }
        [first, second, third, rest @ ..] if *third < 0x80 => {
            (u32::from(*first & 0x7f) | u32::from(*second & 0x7f) << 7 | u32::from(*third) << 14, rest)
        }
        _ => return None,
    };
    Some(((value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg(), rest))
}

fn header_count(count: i32) -> Result<usize, BatchError> {
    usize::try_from(count).map_err(|_| BatchError::Inconsistent("a record has a negative number of headers"))
}

fn header_key_length(length: i32) -> Result<usize, BatchError> {
    usize::try_from(length).map_err(|_| BatchError::Inconsistent("a record header has no key"))
}

/// Holds the records against the header and the rules, one after another.
struct Inspection<'h> {
    rules: RecordRules,
    header: &'h BatchHeader,
    next_index: i32,
    facts: RecordsFacts,
}

impl<'h> Inspection<'h> {
    fn new(header: &'h BatchHeader, rules: RecordRules) -> Self {
        let facts = RecordsFacts { max_timestamp: TimestampMs::NONE, ..RecordsFacts::default() };
        Self { rules, header, next_index: 0, facts }
    }

    #[inline]
    fn add(&mut self, shape: Shape) -> Result<(), BatchError> {
        let index = self.next_index;
        if shape.offset_delta != index {
            return Err(BatchError::Inconsistent("the offsets of the records do not count up from 0"));
        }
        self.next_index = index.saturating_add(1);
        let timestamp = record_timestamp(self.header, shape.timestamp_delta)?;
        self.facts.max_timestamp = self.facts.max_timestamp.max(timestamp);
        let in_range = self.rules.timestamp_min <= timestamp && timestamp <= self.rules.timestamp_max;
        if self.rules.needs_key && !shape.has_key {
            self.fault(index, RecordFaultKind::NoKey);
        } else if self.rules.broker_sets_time || timestamp == TimestampMs::NONE {
            // A record without a time is as good as any, but then no broker can have set it.
            if self.header.attributes.timestamp_type() == TimestampType::LogAppendTime {
                self.fault(index, RecordFaultKind::TimestampType);
            }
        } else if !in_range {
            self.fault(index, RecordFaultKind::TimestampRange(timestamp));
        }
        Ok(())
    }

    #[cold]
    fn fault(&mut self, index: i32, kind: RecordFaultKind) {
        self.facts.fault_count = self.facts.fault_count.saturating_add(1);
        if self.facts.faults.len() < RECORD_FAULTS_MAX {
            self.facts.faults.push(RecordFault { index, kind });
        }
    }
}

/// A few inflated bytes at a time.
struct Window<'a, 's, S> {
    stream: Inflate<'a>,
    buffer: Vec<u8>,
    /// The bytes of the buffer that hold what has not been looked at.
    start: usize,
    end: usize,
    inflated_bytes: usize,
    sink: &'s mut S,
}

impl<'a, 's, S: Sink> Window<'a, 's, S> {
    fn new(stream: Inflate<'a>, compressed_bytes: usize, sink: &'s mut S) -> Self {
        let window_bytes = compressed_bytes.saturating_mul(4).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        Self { stream, buffer: vec![0; window_bytes], start: 0, end: 0, inflated_bytes: 0, sink }
    }

    /// What the next record looks like. One that fits the window is looked at as a whole, a larger one field by field.
    #[inline]
    fn next_shape(&mut self) -> Result<Shape, BatchError> {
        let head = self.peek(VARINT_BYTES_MAX)?;
        let mut cursor = Cursor::new(head);
        let length = record_length(cursor.varint()?)?;
        if let Some((body, _)) = cursor.rest().split_at_checked(length) {
            let shape = Shape::of(body)?;
            let taken = head.len().saturating_sub(cursor.rest().len()).saturating_add(length);
            self.start = self.start.saturating_add(taken);
            return Ok(shape);
        }
        let prefix_bytes = head.len().saturating_sub(cursor.rest().len());
        self.start = self.start.saturating_add(prefix_bytes);
        if length <= self.buffer.len() {
            let body = self.peek(length)?.get(..length).ok_or(TOO_LONG)?;
            let shape = Shape::of(body)?;
            self.start = self.start.saturating_add(length);
            return Ok(shape);
        }
        self.large_shape(length)
    }

    fn large_shape(&mut self, length: usize) -> Result<Shape, BatchError> {
        let mut left = length;
        self.skip(1, &mut left)?;
        let timestamp_delta = self.varlong(&mut left)?;
        let offset_delta = self.varint(&mut left)?;
        let has_key = self.skip_nullable(&mut left)?;
        self.skip_nullable(&mut left)?;
        let header_count = header_count(self.varint(&mut left)?)?;
        for _ in 0..header_count {
            let key_length = header_key_length(self.varint(&mut left)?)?;
            self.skip(key_length, &mut left)?;
            self.skip_nullable(&mut left)?;
        }
        if left == 0 {
            Ok(Shape { timestamp_delta, offset_delta, has_key })
        } else {
            Err(BatchError::Inconsistent("a record is longer than its fields"))
        }
    }

    fn varint(&mut self, left: &mut usize) -> Result<i32, BatchError> {
        let head = self.head(VARINT_BYTES_MAX, *left)?;
        let mut cursor = Cursor::new(head);
        let value = cursor.varint()?;
        let taken = head.len().saturating_sub(cursor.rest().len());
        self.pass(taken, left);
        Ok(value)
    }

    fn varlong(&mut self, left: &mut usize) -> Result<i64, BatchError> {
        let head = self.head(VARLONG_BYTES_MAX, *left)?;
        let mut cursor = Cursor::new(head);
        let value = cursor.varlong()?;
        let taken = head.len().saturating_sub(cursor.rest().len());
        self.pass(taken, left);
        Ok(value)
    }

    /// Up to `bytes_max` bytes of a record that has `left` bytes left.
    fn head(&mut self, bytes_max: usize, left: usize) -> Result<&[u8], BatchError> {
        let wanted = bytes_max.min(left);
        let ready = self.peek(wanted)?;
        Ok(ready.get(..wanted).unwrap_or(ready))
    }

    fn pass(&mut self, count: usize, left: &mut usize) {
        self.start = self.start.saturating_add(count);
        *left = left.saturating_sub(count);
    }

    /// Passes over bytes behind their length; whether there are any, or null.
    fn skip_nullable(&mut self, left: &mut usize) -> Result<bool, BatchError> {
        let Ok(length) = usize::try_from(self.varint(left)?) else { return Ok(false) };
        self.skip(length, left)?;
        Ok(true)
    }

    fn skip(&mut self, count: usize, left: &mut usize) -> Result<(), BatchError> {
        *left = left.checked_sub(count).ok_or(TOO_LONG)?;
        let mut missing = count;
        while missing > 0 {
            let ready = self.peek(1)?.len();
            if ready == 0 {
                return Err(TOO_LONG);
            }
            let step = ready.min(missing);
            self.start = self.start.saturating_add(step);
            missing = missing.saturating_sub(step);
        }
        Ok(())
    }

    /// What has not been looked at: at least `wanted_bytes` bytes, which the buffer can hold, fewer only at the end.
    #[inline]
    fn peek(&mut self, wanted_bytes: usize) -> Result<&[u8], BatchError> {
        if self.end.saturating_sub(self.start) < wanted_bytes {
            self.fill(wanted_bytes)?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn fill(&mut self, wanted_bytes: usize) -> Result<(), BatchError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end = self.end.saturating_sub(self.start);
        self.start = 0;
        while self.end < wanted_bytes {
            let target = self.buffer.get_mut(self.end..).unwrap_or_default();
            let read = self.stream.read(target)?;
            if read == 0 {
                break;
            }
            self.sink.take(target.get(..read).unwrap_or_default())?;
            self.end = self.end.saturating_add(read);
            self.inflated_bytes = self.inflated_bytes.saturating_add(read);
        }
        Ok(())
    }
}

const TOO_LONG: BatchError = BatchError::Inconsistent("a record is longer than what is left of the batch");

#[cfg(test)]
mod tests;
