use chronik_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

use super::*;
use crate::records::{BatchBuilder, BatchOptions, Header, RecordIter, TimestampType};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn wanted(codec: Compression) -> Recompression {
    Recompression {
        codec,
        level: None,
        log_append_time: None,
        inflated_bytes_max: 1 << 28,
        batch_bytes_max: 1 << 28,
    }
}

/// A batch with everything that must survive, its records about `bytes` bytes.
fn batch(compression: Compression, bytes: usize) -> BytesMut {
    let mut builder = BatchBuilder::new(BatchOptions {
        compression,
        partition_leader_epoch: LeaderEpoch(4),
        producer_id: ProducerId(9),
        producer_epoch: ProducerEpoch(3),
        base_sequence: 77,
        ..BatchOptions::default()
    });
    let headers = [
        Header { key: b"twice", value: Some(b"1") },
        Header { key: &[0xff, 0], value: None },
        Header { key: b"twice", value: Some(&[0xfe]) },
    ];
    let value: Vec<u8> = (0..bytes / 4).map(|at| b"some words to pack "[at * at % 19]).collect();
    builder.append(TimestampMs(1_000), Some(b""), Some(&value), &headers).unwrap();
    builder.append(TimestampMs(900), None, Some(&value), &[]).unwrap();
    builder.append(TimestampMs(2_000), Some(b"key"), None, &headers[1..]).unwrap();
    builder.append(TimestampMs(1_500), Some(b"key"), Some(&value), &[]).unwrap();
    builder.append(TimestampMs(1_500), Some(b"key"), Some(&value), &[]).unwrap();
    builder.finish().unwrap()
}

fn contents(batch: &[u8]) -> Vec<String> {
    let mut records = RecordIter::new(batch, 1 << 28).unwrap();
    let mut out = Vec::new();
    while let Some(record) = records.next_record().unwrap() {
        let headers: Vec<_> = record.headers.iter().map(|header| format!("{header:?}")).collect();
        let (key, value) = (record.key, record.value);
        out.push(format!("{:?} {:?} {key:?} {value:?} {headers:?}", record.offset, record.timestamp));
    }
    out
}

#[test]
fn everything_but_the_codec_stays() {
    for bytes in [1_000, 2 * STREAM_FROM_BYTES] {
        for from in CODECS {
            let batch = batch(from, bytes);
            let header = BatchHeader::parse(&batch).unwrap();
            let records = contents(&batch);
            for to in CODECS.into_iter().filter(|&to| to != from) {
                let (facts, made) = recompress(&batch, &header, &RecordRules::NONE, wanted(to)).unwrap();
                assert_eq!((facts.max_timestamp, facts.fault_count), (TimestampMs(2_000), 0));
                let made = made.unwrap();
                let again = BatchHeader::parse(&made.batch).unwrap();
                assert_eq!(made.header, again);
                assert_eq!(again.check_crc(&made.batch), Ok(()));
                let expected = BatchHeader {
                    size_bytes: made.batch.len(),
                    crc: again.crc,
                    attributes: header.attributes.with_compression(to),
                    ..header
                };
                assert_eq!(again, expected, "{from:?} to {to:?}");
                assert!(contents(&made.batch) == records, "{from:?} to {to:?}");
            }
        }
    }
}

#[test]
fn the_brokers_time_is_stamped() {
    let batch = batch(Compression::Lz4, 100);
    let header = BatchHeader::parse(&batch).unwrap();
    let wanted = Recompression { log_append_time: Some(TimestampMs(5_000)), ..wanted(Compression::Zstd) };
    let (_, made) = recompress(&batch, &header, &RecordRules::NONE, wanted).unwrap();
    let made = made.unwrap();
    assert_eq!(made.header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(made.header.max_timestamp, TimestampMs(5_000));
    assert_eq!(made.header.check_crc(&made.batch), Ok(()));
    let mut records = RecordIter::new(&made.batch, 1 << 20).unwrap();
    assert_eq!(records.next_record().unwrap().unwrap().timestamp, TimestampMs(5_000));
}

#[test]
fn the_output_ends_where_the_largest_batch_does() {
    for from in CODECS {
        let batch = batch(from, 2 * STREAM_FROM_BYTES);
        let header = BatchHeader::parse(&batch).unwrap();
        for codec in CODECS.into_iter().filter(|&to| to != from) {
            let size_bytes = {
                let (_, made) = recompress(&batch, &header, &RecordRules::NONE, wanted(codec)).unwrap();
                made.unwrap().batch.len()
            };
            for (batch_bytes_max, fits) in [(size_bytes, true), (size_bytes - 1, false), (61, false)] {
                let wanted = Recompression { batch_bytes_max, ..wanted(codec) };
                let result = recompress(&batch, &header, &RecordRules::NONE, wanted);
                assert_eq!(result.is_ok(), fits, "{from:?} to {codec:?}: {batch_bytes_max}");
                if let Err(error) = result {
                    assert!(
                        matches!(&error, RecompressError::Batch(BatchError::TooLarge { bytes_max, .. }) if *bytes_max == batch_bytes_max),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_bomb_and_a_fault_give_no_batch() {
    let mut builder =
        BatchBuilder::new(BatchOptions { compression: Compression::Zstd, ..BatchOptions::default() });
    builder.append(TimestampMs(1), None, Some(&vec![0; 8 << 20]), &[]).unwrap();
    let bomb = builder.finish().unwrap();
    let header = BatchHeader::parse(&bomb).unwrap();
    let bounded = Recompression { inflated_bytes_max: 1 << 20, ..wanted(Compression::Gzip) };
    let error = recompress(&bomb, &header, &RecordRules::NONE, bounded).unwrap_err();
    assert!(matches!(error, RecompressError::Batch(BatchError::Inflated { .. })), "{error}");
    let keyed = RecordRules { needs_key: true, ..RecordRules::NONE };
    let (facts, made) = recompress(&bomb, &header, &keyed, wanted(Compression::Gzip)).unwrap();
    assert!(facts.fault_count == 1 && made.is_none());
}

#[test]
fn levels_are_passed_on() {
    let batch = batch(Compression::None, 200_000);
    let header = BatchHeader::parse(&batch).unwrap();
    let size = |codec, level| {
        let wanted = Recompression { level: Some(level), ..wanted(codec) };
        recompress(&batch, &header, &RecordRules::NONE, wanted).unwrap().1.unwrap().batch.len()
    };
    assert!(size(Compression::Gzip, 9) < size(Compression::Gzip, 1));
    assert!(size(Compression::Zstd, 19) < size(Compression::Zstd, -5));
    let wrong = Recompression { level: Some(10), ..wanted(Compression::Gzip) };
    let error = recompress(&batch, &header, &RecordRules::NONE, wrong).unwrap_err();
    assert!(matches!(error, RecompressError::Compress(CompressError::Level { .. })));
    assert_eq!(header.base_offset, Offset(0));
}
