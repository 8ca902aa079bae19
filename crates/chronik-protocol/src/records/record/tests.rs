use chronik_types::{LeaderEpoch, ProducerEpoch, ProducerId};

use super::*;
use crate::records::header::write_header;
use crate::records::varint::put_varint;
use crate::records::{BatchAttributes, compress};

/// A batch with these records, each the bytes after its length, and these offsets and times in its header.
fn batch_of(bodies: &[&[u8]], codec: Compression, base_offset: i64, base_timestamp: i64) -> Vec<u8> {
    let mut records = Vec::new();
    for body in bodies {
        put_varint(&mut records, i64::try_from(body.len()).unwrap());
        records.extend_from_slice(body);
    }
    with_header(&records, codec, i32::try_from(bodies.len()).unwrap(), base_offset, base_timestamp)
}

fn with_header(
    records: &[u8],
    codec: Compression,
    record_count: i32,
    base_offset: i64,
    base_timestamp: i64,
) -> Vec<u8> {
    let mut batch = vec![0; BATCH_HEADER_BYTES];
    compress(codec, None, records, &mut batch).unwrap();
    let header = BatchHeader {
        base_offset: Offset(base_offset),
        size_bytes: batch.len(),
        partition_leader_epoch: LeaderEpoch(0),
        crc: 0,
        attributes: BatchAttributes(i16::from(codec as u8)),
        last_offset_delta: 9,
        base_timestamp: TimestampMs(base_timestamp),
        max_timestamp: TimestampMs(base_timestamp),
        producer_id: ProducerId(-1),
        producer_epoch: ProducerEpoch(-1),
        base_sequence: -1,
        record_count,
    };
    write_header(&mut batch, &header);
    batch
}

fn outcome(batch: &[u8]) -> Result<usize, BatchError> {
    let mut records = RecordIter::new(batch, 1_000)?;
    let mut count = 0;
    while records.next_record()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// One record, compressed or not, gives this error, or none.
fn check(body: &[u8], error: Option<&'static str>) {
    for codec in [Compression::None, Compression::Zstd, Compression::Snappy] {
        let result = outcome(&batch_of(&[body], codec, 0, 0));
        assert_eq!(result, error.map_or(Ok(1), |error| Err(BatchError::Inconsistent(error))), "{body:?}");
    }
}

#[test]
fn a_record_is_read_to_the_byte() {
    const TORN: &str = "a record ends in the middle of a field";
    // Attributes, timestamp delta, offset delta, key, value, header count: 18 is an offset of 9, 1 is null.
    check(&[0, 0, 18, 1, 1, 0], None);
    check(&[0, 0, 0, 2, b'k', 2, b'v', 2, 2, b'h', 1], None);
    check(&[], Some(TORN));
    check(&[0, 0, 0, 1, 1], Some(TORN));
    check(&[0, 0, 0, 4, b'k'], Some(TORN));
    check(&[0, 0, 0, 1, 1, 0, 0], Some("a record is longer than its fields"));
    check(&[0, 0, 0, 1, 1, 1], Some("a record has a negative number of headers"));
    check(&[0, 0, 0, 1, 1, 2, 1, 1], Some("a record header has no key"));
    check(&[0, 0, 0, 1, 1, 4, 0, 0], Some(TORN));
    check(&[0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f], Some(TORN));
    check(&[0, 0, 1, 1, 1, 0], Some("a record lies outside the offsets of its batch"));
    check(&[0, 0, 20, 1, 1, 0], Some("a record lies outside the offsets of its batch"));
    // A negative length of any size is null to Kafka's readers.
    check(&[0, 0, 0, 3, 5, 0], None);
    // Attributes have no meaning yet.
    check(&[0xff, 0, 0, 1, 1, 0], None);
}

#[test]
fn numbers_end_where_they_end() {
    let record: &[u8] = &[0, 2, 2, 1, 1, 0];
    let check = |base_offset, base_timestamp, error: Option<&'static str>| {
        let batch = batch_of(&[record], Compression::None, base_offset, base_timestamp);
        assert_eq!(outcome(&batch), error.map_or(Ok(1), |error| Err(BatchError::Inconsistent(error))));
    };
    check(i64::MAX - 1, i64::MAX - 1, None);
    check(i64::MAX, 0, Some("a record has an offset beyond the last"));
    check(0, i64::MAX, Some("a record has a timestamp beyond the last"));
}

#[test]
fn a_length_beyond_the_limit_inflates_nothing() {
    // The record claims 1,001 bytes, and is cut short.
    let mut records = Vec::new();
    put_varint(&mut records, 1_001);
    let claims = |codec| outcome(&with_header(&records, codec, 1, 0, 0));
    assert_eq!(claims(Compression::Zstd), Err(BatchError::Inflated { bytes_max: 1_000 }));
    // What is not compressed has the length of the batch for its limit.
    let torn = "a record is longer than what is left of the batch";
    assert_eq!(claims(Compression::None), Err(BatchError::Inconsistent(torn)));
    let negative = with_header(&[1], Compression::None, 1, 0, 0);
    assert_eq!(outcome(&negative), Err(BatchError::Inconsistent("a record has a negative length")));
}

#[test]
fn count_and_records_agree() {
    let record: &[u8] = &[0, 0, 0, 1, 1, 0];
    let mut records = Vec::new();
    for _ in 0..3 {
        put_varint(&mut records, 6);
        records.extend_from_slice(record);
    }
    for codec in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let count = |count| outcome(&with_header(&records, codec, count, 0, 0));
        let more = "there are bytes after the last record";
        assert_eq!(count(3), Ok(3));
        assert_eq!(count(2), Err(BatchError::Inconsistent(more)), "{codec:?}");
        assert_eq!(count(0), Err(BatchError::Inconsistent(more)), "{codec:?}");
        assert_eq!(count(4), Err(BatchError::Inconsistent("a record ends in the middle of a field")));
        assert_eq!(count(-1), Err(BatchError::Inconsistent("the record count is negative")));
        // The count of what is left goes down with what is read.
        let batch = with_header(&records, codec, 3, 0, 0);
        let mut iter = RecordIter::new(&batch, 1_000).unwrap();
        assert!(iter.next_record().unwrap().is_some());
        assert_eq!(iter.records_left(), 2);
    }
    // A batch whose records compaction has removed keeps its codec at most in name.
    let mut empty = with_header(&[], Compression::None, 0, 0, 0);
    empty[22] = 4;
    assert_eq!(outcome(&empty), Ok(0));
}
