use chronik_types::ProducerId;

use super::*;
use crate::records::header::write_header;
use crate::records::varint::put_varint;
use crate::records::{BatchBuilder, BatchOptions, Header, RecordIter, compress};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const MAX: usize = RECORDS_INFLATED_BYTES_MAX;

/// A pseudo-random sequence that is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % u64::try_from(limit).unwrap()).unwrap()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| b"abcdefgh"[self.below(8)]).collect()
    }
}

/// A batch around these bytes, taken for `record_count` records.
fn with_records(records: &[u8], codec: Compression, record_count: i32) -> Vec<u8> {
    let model = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
    let mut model = {
        let mut builder = model;
        builder.append(TimestampMs(1_000), None, None, &[]).unwrap();
        builder.finish().unwrap()
    };
    let header = BatchHeader::parse(&model).unwrap();
    model.truncate(BATCH_HEADER_BYTES);
    let mut batch = model.to_vec();
    compress(codec, None, records, &mut batch).unwrap();
    let header = BatchHeader {
        size_bytes: batch.len(),
        record_count,
        last_offset_delta: record_count - 1,
        producer_id: ProducerId::NONE,
        ..header
    };
    write_header(&mut batch, &header);
    batch
}

fn inspect(batch: &[u8], rules: &RecordRules) -> Result<RecordsFacts, BatchError> {
    inspect_records(batch, &BatchHeader::parse(batch).unwrap(), rules, MAX)
}

/// The same by the reader that keeps every record, as far as the two are to agree.
fn read(batch: &[u8]) -> Result<TimestampMs, BatchError> {
    let mut records = RecordIter::new(batch, MAX)?;
    let mut expected = Offset(0);
    let mut max_timestamp = TimestampMs::NONE;
    while let Some(record) = records.next_record()? {
        if record.offset != expected {
            return Err(BatchError::Inconsistent("the offsets of the records do not count up from 0"));
        }
        expected = expected.next();
        max_timestamp = max_timestamp.max(record.timestamp);
    }
    Ok(max_timestamp)
}

/// Records of all sizes, some larger than the window, some with headers.
fn records(random: &mut Random, codec: Compression, count: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
    for _ in 0..count {
        let length =
            [3, 100, 3_000, WINDOW_BYTES_MAX, 2 * WINDOW_BYTES_MAX][(random.below(6) * random.below(6)) / 6];
        let length = random.below(length);
        let (key, value) = (random.bytes(length), random.bytes(70_000 % (length + 7)));
        let header_key = random.bytes(length / 2);
        let headers = [
            Header { key: &header_key, value: Some(&value) },
            Header { key: &[0xff, 0xfe], value: None },
            Header { key: &header_key, value: Some(b"") },
        ];
        let headers = &headers[..random.below(4)];
        let timestamp = TimestampMs(1_000 + i64::try_from(random.below(1_000)).unwrap());
        builder.append(timestamp, random.below(2).eq(&0).then_some(&key), Some(&value), headers).unwrap();
    }
    builder.finish().unwrap().to_vec()
}

#[test]
fn good_batches_pass_whatever_their_records_size() {
    let mut random = Random(3);
    for codec in CODECS {
        for round in 0..20 {
            let count = 1 + random.below(1 + 3 * round);
            let batch = records(&mut random, codec, count);
            let facts = inspect(&batch, &RecordRules::NONE).unwrap();
            assert_eq!(Ok(facts.max_timestamp), read(&batch), "{codec:?}");
            assert_eq!(facts.fault_count, 0);
            let inflated = crate::records::decompress(codec, &batch[BATCH_HEADER_BYTES..], MAX).unwrap();
            assert_eq!(facts.records_bytes, inflated.len());
        }
    }
}

#[test]
fn what_the_reader_refuses_is_refused() {
    let mut random = Random(11);
    let mut refused = 0;
    for round in 0..1_000 {
        let count = 1 + random.below(3);
        let mut inner = records(&mut random, Compression::None, count)[BATCH_HEADER_BYTES..].to_vec();
        for _ in 0..random.below(3) {
            // Mostly near the front of a record, where its fields are.
            let position = random.below(inner.len().min(40));
            inner[position] = [0, 1, 2, 0x7f, 0x80, 0xff][random.below(6)];
        }
        if random.below(4) == 0 {
            inner.truncate(random.below(inner.len()));
        }
        let codec = CODECS[round % CODECS.len()];
        let record_count = i32::try_from(count + random.below(2)).unwrap();
        let batch = with_records(&inner, codec, record_count);
        let (ours, reader) = (inspect(&batch, &RecordRules::NONE), read(&batch));
        assert_eq!(ours.as_ref().map(|facts| facts.max_timestamp).ok(), reader.ok(), "{codec:?} {ours:?}");
        refused += usize::from(ours.is_err());
    }
    assert!((250..950).contains(&refused), "{refused} of the batches were bad");
}

#[test]
fn offsets_that_do_not_count_up_are_refused() {
    for codec in CODECS {
        for deltas in [&[1_i64][..], &[0, 2], &[0, 0], &[0, 1, 1]] {
            let mut inner = Vec::new();
            for &delta in deltas {
                let mut body = vec![0, 0];
                put_varint(&mut body, delta);
                body.extend_from_slice(&[1, 1, 0]);
                put_varint(&mut inner, i64::try_from(body.len()).unwrap());
                inner.extend_from_slice(&body);
            }
            let batch = with_records(&inner, codec, i32::try_from(deltas.len()).unwrap());
            let error = inspect(&batch, &RecordRules::NONE).unwrap_err();
            assert_eq!(error, BatchError::Inconsistent("the offsets of the records do not count up from 0"));
        }
    }
}

#[test]
fn rules_name_the_records_that_break_them() {
    let rules = RecordRules {
        needs_key: true,
        timestamp_min: TimestampMs(50),
        timestamp_max: TimestampMs(100),
        ..RecordRules::NONE
    };
    for compression in CODECS {
        let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        for (timestamp, key) in
            [(50, Some(b"k")), (49, Some(b"k")), (60, None), (101, None), (-1, Some(b"k")), (101, Some(b"k"))]
        {
            builder.append(TimestampMs(timestamp), key.map(|key| &key[..]), Some(b"v"), &[]).unwrap();
        }
        let batch = builder.finish().unwrap();
        let facts = inspect(&batch, &rules).unwrap();
        let fault = |index, kind| RecordFault { index, kind };
        assert_eq!(
            facts.faults,
            [
                fault(1, RecordFaultKind::TimestampRange(TimestampMs(49))),
                fault(2, RecordFaultKind::NoKey),
                fault(3, RecordFaultKind::NoKey),
                fault(5, RecordFaultKind::TimestampRange(TimestampMs(101))),
            ]
        );
        assert_eq!((facts.fault_count, facts.max_timestamp), (4, TimestampMs(101)));
        let by_broker = inspect(&batch, &RecordRules { broker_sets_time: true, ..rules }).unwrap();
        assert_eq!(by_broker.fault_count, 2, "only the keys count");
    }
}

#[test]
fn a_producer_must_not_play_the_broker() {
    let stamped = |time| {
        let options = BatchOptions { log_append_time: Some(TimestampMs(time)), ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        builder.append(TimestampMs(5), None, None, &[]).unwrap();
        builder.finish().unwrap()
    };
    let count = |time, broker_sets_time| {
        let rules = RecordRules { broker_sets_time, timestamp_max: TimestampMs(100), ..RecordRules::NONE };
        inspect(&stamped(time), &rules).unwrap().faults.first().map(|fault| fault.kind)
    };
    assert_eq!(count(7, true), Some(RecordFaultKind::TimestampType));
    assert_eq!(count(7, false), None, "Kafka takes it for the producer's own time");
    assert_eq!(count(101, false), Some(RecordFaultKind::TimestampRange(TimestampMs(101))));
    assert_eq!(count(-1, false), Some(RecordFaultKind::TimestampType));
}

#[test]
fn faults_are_counted_and_the_first_are_named() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..3 * RECORD_FAULTS_MAX {
        builder.append(TimestampMs(5), None, None, &[]).unwrap();
    }
    let batch = builder.finish().unwrap();
    let facts = inspect(&batch, &RecordRules { needs_key: true, ..RecordRules::NONE }).unwrap();
    assert_eq!((facts.fault_count, facts.faults.len()), (3 * RECORD_FAULTS_MAX, RECORD_FAULTS_MAX));
}

#[test]
fn inflating_ends_at_the_bound() {
    for compression in &CODECS[1..] {
        let mut builder =
            BatchBuilder::new(BatchOptions { compression: *compression, ..BatchOptions::default() });
        builder.append(TimestampMs(5), None, Some(&vec![0; 1_000_000]), &[]).unwrap();
        let batch = builder.finish().unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        let bytes = inspect(&batch, &RecordRules::NONE).unwrap().records_bytes;
        for (bytes_max, fits) in [(bytes, true), (bytes - 1, false), (0, false)] {
            let result = inspect_records(&batch, &header, &RecordRules::NONE, bytes_max);
            assert_eq!(result.is_ok(), fits, "{compression:?}");
            assert!(fits || result == Err(BatchError::Inflated { bytes_max }), "{compression:?}");
        }
    }
}

#[test]
fn a_record_is_found_by_time_and_offset() {
    for compression in CODECS {
        let options = BatchOptions { compression, base_offset: Offset(100), ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        for (offset, timestamp, bytes) in [(100, 5, 9), (103, 9, 200_000), (104, 7, 0), (109, 20, 70_000)] {
            let value = vec![b'v'; bytes];
            builder.append_at(Offset(offset), TimestampMs(timestamp), None, Some(&value), &[]).unwrap();
        }
        let batch = builder.finish().unwrap();
        let find = |timestamp, offset| {
            let found = find_record(&batch, TimestampMs(timestamp), Offset(offset), MAX).unwrap();
            found.map(|(timestamp, offset)| (timestamp.get(), offset.get()))
        };
        assert_eq!(find(0, 0), Some((5, 100)));
        assert_eq!(find(6, 0), Some((9, 103)));
        assert_eq!(find(6, 104), Some((7, 104)));
        assert_eq!(find(10, 0), Some((20, 109)));
        assert_eq!(find(21, 0), None);
        assert_eq!(find(0, 110), None);
        // What lies behind the record that is found is not inflated.
        assert!(find_record(&batch, TimestampMs(0), Offset(0), 100_000).is_ok());
        let is_late = find_record(&batch, TimestampMs(10), Offset(0), 100_000);
        assert!(compression == Compression::None || is_late.is_err());
    }
    let empty = crate::records::empty_batch(
        &BatchHeader::parse(&records(&mut Random(1), Compression::Lz4, 1)).unwrap(),
    );
    assert_eq!(find_record(&empty, TimestampMs(0), Offset(0), MAX), Ok(None));
}
