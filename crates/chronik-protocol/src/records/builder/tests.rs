use super::*;
use crate::records::{BatchError, BatchIter, RecordIter};

const INFLATED_BYTES_MAX: usize = 1 << 20;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

type Owned = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn read(batch: &[u8]) -> Result<Vec<Owned>, BatchError> {
    let mut iter = RecordIter::new(batch, INFLATED_BYTES_MAX)?;
    let mut out = Vec::new();
    while let Some(record) = iter.next_record()? {
        let headers =
            record.headers.iter().map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)));
        out.push((
            record.offset.get(),
            record.timestamp.get(),
            record.key.map(<[u8]>::to_vec),
            record.value.map(<[u8]>::to_vec),
            headers.collect(),
        ));
    }
    Ok(out)
}

/// Three records with every kind of absence, at offsets with gaps.
fn append_all(builder: &mut BatchBuilder) {
    let headers = [
        Header { key: b"twice", value: Some(b"1") },
        Header { key: b"twice", value: None },
        Header { key: &[0xff, 0xfe], value: Some(&[0x80]) },
        Header { key: b"", value: Some(b"") },
    ];
    builder.append_at(Offset(100), TimestampMs(5_000), Some(b"k"), Some(b"v"), &headers).unwrap();
    builder.append_at(Offset(103), TimestampMs(4_000), Some(b""), None, &[]).unwrap();
    builder.append_at(Offset(104), TimestampMs(6_000), None, Some(&vec![7; 70_000]), &[]).unwrap();
}

#[test]
fn what_is_written_is_read() {
    for compression in CODECS {
        let options = BatchOptions {
            base_offset: Offset(98),
            partition_leader_epoch: LeaderEpoch(3),
            compression,
            producer_id: ProducerId(9),
            producer_epoch: ProducerEpoch(2),
            base_sequence: 41,
            is_transactional: true,
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        append_all(&mut builder);
        let batch = builder.finish_at(Offset(110)).unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        header.check_crc(&batch).unwrap();
        assert_eq!(BatchOptions::like(&header), options);
        assert_eq!((header.record_count, header.last_offset()), (3, Some(Offset(110))));
        assert_eq!((header.base_timestamp, header.max_timestamp), (TimestampMs(5_000), TimestampMs(6_000)));
        assert_eq!(header.last_sequence(), 53);

        let records = read(&batch).unwrap();
        assert_eq!(records[0].4.len(), 4);
        assert_eq!(records[0].4[1], (b"twice".to_vec(), None));
        assert_eq!(records[0].4[2], (vec![0xff, 0xfe], Some(vec![0x80])));
        assert_eq!(records[1], (103, 4_000, Some(Vec::new()), None, Vec::new()));
        assert_eq!(records[2], (104, 6_000, None, Some(vec![7; 70_000]), Vec::new()));

        // Copied record by record, as compaction does it, nothing is lost.
        let mut copy = BatchBuilder::new(BatchOptions::like(&header));
        let mut iter = RecordIter::new(&batch, INFLATED_BYTES_MAX).unwrap();
        while let Some(record) = iter.next_record().unwrap() {
            copy.append_record(&record).unwrap();
        }
        assert_eq!(copy.finish_at(Offset(110)).unwrap(), batch);
    }
}

#[test]
fn the_brokers_time_holds_for_every_record() {
    let mut builder =
        BatchBuilder::new(BatchOptions { log_append_time: Some(TimestampMs(99)), ..BatchOptions::default() });
    builder.append(TimestampMs(1), None, None, &[]).unwrap();
    builder.append(TimestampMs(2), None, None, &[]).unwrap();
    let records = read(&builder.finish().unwrap()).unwrap();
    assert_eq!(records.iter().map(|record| record.1).collect::<Vec<_>>(), [99, 99]);
}

#[test]
fn a_delete_horizon_takes_the_place_of_the_base_timestamp() {
    let mut builder = BatchBuilder::new(BatchOptions {
        delete_horizon: Some(TimestampMs(1_000_000)),
        ..BatchOptions::default()
    });
    builder.append(TimestampMs(7), Some(b"k"), None, &[]).unwrap();
    let batch = builder.finish().unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert!(header.attributes.has_delete_horizon());
    assert_eq!(header.base_timestamp, TimestampMs(1_000_000));
    assert_eq!(header.max_timestamp, TimestampMs(7));
    assert_eq!(read(&batch).unwrap()[0].1, 7);
}

#[test]
fn an_empty_batch_keeps_the_producer() {
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: Offset(50),
        compression: Compression::Zstd,
        producer_id: ProducerId(4),
        producer_epoch: ProducerEpoch(1),
        base_sequence: 10,
        is_transactional: true,
        ..BatchOptions::default()
    });
    builder.append(TimestampMs(77), Some(b"k"), Some(b"v"), &[]).unwrap();
    builder.append(TimestampMs(76), Some(b"k"), Some(b"v"), &[]).unwrap();
    let original = BatchHeader::parse(&builder.finish().unwrap()).unwrap();
    let batch = empty_batch(&original);
    let header = BatchHeader::parse(&batch).unwrap();
    header.check_crc(&batch).unwrap();
    assert_eq!(header.size_bytes, BATCH_HEADER_BYTES);
    assert_eq!(header.last_offset(), Some(Offset(51)));
    assert_eq!(header.last_sequence(), 11);
    assert_eq!(header.producer_id, ProducerId(4));
    assert_eq!(header.max_timestamp, TimestampMs(77));
    assert!(header.attributes.is_transactional());
    assert_eq!(header.attributes.compression(), Some(Compression::None));
    assert!(read(&batch).unwrap().is_empty());
}

#[test]
fn markers_are_read_back() {
    for control_type in [ControlType::Commit, ControlType::Abort] {
        let marker = EndTxnMarker { control_type, coordinator_epoch: 12 };
        let mut builder = BatchBuilder::new(BatchOptions {
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(0),
            is_transactional: true,
            is_control: true,
            ..BatchOptions::default()
        });
        builder.append_marker(TimestampMs(1), marker).unwrap();
        let batch = builder.finish().unwrap();
        let mut iter = RecordIter::new(&batch, 0).unwrap();
        let record = iter.next_record().unwrap().unwrap();
        assert_eq!(EndTxnMarker::from_record(&record), Ok(Some(marker)));
    }
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let mut builder = BatchBuilder::new(BatchOptions { base_offset: Offset(10), ..BatchOptions::default() });
    let mut append =
        |offset, timestamp| builder.append_at(Offset(offset), TimestampMs(timestamp), None, None, &[]);
    assert!(matches!(append(9, 0), Err(BuildError::OffsetOrder { .. })));
    assert!(matches!(append(10 + (1 << 31), 0), Err(BuildError::OffsetRange { .. })));
    assert!(matches!(append(10, -2), Err(BuildError::Timestamp(_))));
    append(12, -1).unwrap();
    assert!(matches!(append(12, 0), Err(BuildError::OffsetOrder { .. })));
    assert!(matches!(append(11, 0), Err(BuildError::OffsetOrder { .. })));
    assert!(matches!(builder.finish_at(Offset(11)), Err(BuildError::OffsetOrder { .. })));
    assert!(matches!(BatchBuilder::new(BatchOptions::default()).finish(), Err(BuildError::Empty)));
}

#[test]
fn batches_in_a_row_end_at_the_torn_one() {
    let mut log = Vec::new();
    let mut ends = vec![0];
    for base_offset in 0..3 {
        let options = BatchOptions { base_offset: Offset(base_offset), ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        builder.append(TimestampMs(0), None, Some(&[1; 20]), &[]).unwrap();
        log.extend_from_slice(&builder.finish().unwrap());
        ends.push(log.len());
    }
    for cut in 0..=log.len() {
        let mut iter = BatchIter::new(&log[..cut]);
        let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
        for (index, end) in ends.iter().skip(1).enumerate().take(whole) {
            let batch = iter.next().unwrap().unwrap();
            assert_eq!(batch.header.base_offset, Offset(i64::try_from(index).unwrap()));
            assert_eq!(batch.position + batch.bytes.len(), *end);
        }
        assert!(iter.next().is_none());
        assert_eq!(iter.position(), ends[whole]);
        assert_eq!(iter.remaining_bytes(), cut - ends[whole]);
    }
    log[ends[1] + 16] = 3;
    let mut iter = BatchIter::new(&log);
    assert!(iter.next().unwrap().is_ok());
    assert_eq!(iter.next().unwrap().unwrap_err(), BatchError::Magic(3));
    assert!(iter.next().is_none());
    assert_eq!(iter.position(), ends[1]);
}
