//! Record batches against Kafka's own: what its builder wrote is read equal, and what ours writes its reader reads equal.
//!
//! `golden/records/records.golden` was written by `golden/records/RecordsGolden.java`. The other direction needs Java:
//! set `KAFKA_LIBS` to the libs directory of Apache Kafka 4.3.1.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fmt::Write as _;

use bytes::BytesMut;
use chronik_protocol::records::{
    BatchBuilder, BatchError, BatchHeader, BatchOptions, ClientBatchLimits, Compression, ControlType,
    EndTxnMarker, Header, RecordIter, TimestampType, check_client_batch, empty_batch,
};
use chronik_types::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

const GOLDEN: &str = include_str!("golden/records/records.golden");
const INFLATED_BYTES_MAX: usize = 16 << 20;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

struct Case<'a> {
    name: &'a str,
    batch: Vec<u8>,
    description: Vec<&'a str>,
}

fn cases() -> Vec<Case<'static>> {
    let mut cases: Vec<Case<'static>> = Vec::new();
    for line in GOLDEN.lines() {
        match line.split_once(' ').expect("every line has a word and a rest") {
            ("case", name) => cases.push(Case { name, batch: Vec::new(), description: Vec::new() }),
            ("batch", hex) => cases.last_mut().unwrap().batch = unhex(hex),
            ("header" | "record", _) => cases.last_mut().unwrap().description.push(line),
            ("legacy", _) => {}
            (other, _) => panic!("unknown word {other}"),
        }
    }
    cases
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).expect("a hex digit")).unwrap();
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn text(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "null".to_owned(),
        Some(bytes) if bytes.len() > 64 => format!("#{}/{:x}", bytes.len(), crc32c::crc32c(bytes)),
        Some(bytes) => format!("'{}", hex(bytes)),
    }
}

/// The words of `RecordsGolden.describe`.
fn describe(batch: &[u8]) -> Result<Vec<String>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    header.check_crc(batch)?;
    let attributes = header.attributes;
    let time = match attributes.timestamp_type() {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    };
    let horizon = if attributes.has_delete_horizon() { header.base_timestamp.get() } else { -1 };
    let mut lines = vec![format!(
        "header offsets={}..{} epoch={} codec={} time={time} max={} producer={} producer_epoch={} \
         sequences={}..{} transactional={} control={} horizon={horizon} count={}",
        header.base_offset,
        header.last_offset().expect("the last offset is an offset"),
        header.partition_leader_epoch,
        attributes.compression().expect("a known codec").name(),
        header.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.last_sequence(),
        attributes.is_transactional(),
        attributes.is_control(),
        header.record_count,
    )];
    let mut records = RecordIter::new(batch, INFLATED_BYTES_MAX)?;
    while let Some(record) = records.next_record()? {
        let mut line = format!(
            "record {} {} {} {}",
            record.offset,
            record.timestamp,
            text(record.key),
            text(record.value)
        );
        for header in record.headers.iter() {
            write!(line, " {}:{}", text(Some(header.key)), text(header.value)).unwrap();
        }
        lines.push(line);
    }
    Ok(lines)
}

/// The batch written again, record by record, from what was read of it.
fn rebuild(batch: &[u8]) -> BytesMut {
    let header = BatchHeader::parse(batch).unwrap();
    if header.record_count == 0 {
        return empty_batch(&header);
    }
    let mut builder = BatchBuilder::new(BatchOptions::like(&header));
    let mut records = RecordIter::new(batch, INFLATED_BYTES_MAX).unwrap();
    while let Some(record) = records.next_record().unwrap() {
        builder.append_record(&record).unwrap();
    }
    builder.finish_at(header.last_offset().unwrap()).unwrap()
}

#[test]
fn what_kafka_wrote_is_read_as_kafka_reads_it() {
    let cases = cases();
    assert_eq!(cases.len(), 27, "the golden file is complete");
    for case in cases {
        assert_eq!(describe(&case.batch).unwrap(), case.description, "{}", case.name);
    }
}

#[test]
fn what_is_written_again_is_the_same() {
    for case in cases() {
        let again = rebuild(&case.batch);
        assert_eq!(describe(&again).unwrap(), case.description, "{}", case.name);
        // Under LogAppendTime the producer's own times are lost to a reader, here as in Kafka.
        if !case.name.ends_with("LogAppendTime") {
            let uncompressed = BatchHeader::parse(&case.batch).unwrap().attributes.compression();
            if uncompressed == Some(Compression::None) {
                assert_eq!(hex(&again), hex(&case.batch), "{}", case.name);
            }
        }
    }
}

#[test]
fn a_marker_of_kafkas_is_understood() {
    for (name, control_type) in [("marker/ABORT", ControlType::Abort), ("marker/COMMIT", ControlType::Commit)]
    {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let mut records = RecordIter::new(&case.batch, 0).unwrap();
        let marker = EndTxnMarker::from_record(&records.next_record().unwrap().unwrap());
        assert_eq!(marker, Ok(Some(EndTxnMarker { control_type, coordinator_epoch: 12 })));
    }
}

#[test]
fn the_formats_before_v2_are_refused_by_name() {
    let limits = ClientBatchLimits { batch_bytes_max: 1 << 20, produce_version: 3 };
    let mut count = 0;
    for line in GOLDEN.lines().filter_map(|line| line.strip_prefix("legacy ")) {
        let (magic, bytes) = line.split_once(' ').unwrap();
        let error = check_client_batch(&unhex(bytes), limits).unwrap_err();
        assert_eq!(error, BatchError::Magic(magic.parse().unwrap()));
        assert_eq!(error.error_code(), ErrorCode::InvalidRecord);
        count += 1;
    }
    assert_eq!(count, 3);
}

/// Batches of every codec and kind, from a fixed seed.
fn our_batches() -> Vec<(String, BytesMut)> {
    let mut state = 0x00c0_ffee_u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut batches = Vec::new();
    for round in 0..60 {
        for compression in CODECS {
            let has_producer = below(2) == 0;
            let base_offset = Offset(below(1 << 40).cast_signed());
            let mut builder = BatchBuilder::new(BatchOptions {
                base_offset,
                partition_leader_epoch: LeaderEpoch(5),
                compression,
                log_append_time: (below(4) == 0).then_some(TimestampMs(1_800_000_000_000)),
                producer_id: ProducerId(if has_producer { 77 } else { -1 }),
                producer_epoch: ProducerEpoch(if has_producer { 3 } else { -1 }),
                base_sequence: if has_producer { 2_147_483_600 } else { -1 },
                is_transactional: has_producer && below(2) == 0,
                delete_horizon: (below(4) == 0).then_some(TimestampMs(1_900_000_000_000)),
                ..BatchOptions::default()
            });
            let mut offset = base_offset.get();
            for _ in 0..=below(if round % 10 == 0 { 400 } else { 6 }) {
                let mut bytes = |max| {
                    (below(5) != 0).then(|| {
                        let (length, alphabet) = (below(max), 1 + below(256));
                        (0..length).map(|_| u8::try_from(below(alphabet)).unwrap()).collect::<Vec<_>>()
                    })
                };
                let (key, value) = (bytes(30), bytes(if round % 7 == 0 { 20_000 } else { 200 }));
                // Kafka's reader shows a key as text, so the keys here are text.
                let owned: Vec<_> = (0..2).map(|_| (hex(&bytes(9).unwrap_or_default()), bytes(40))).collect();
                let headers: Vec<_> = owned
                    .iter()
                    .map(|(key, value)| Header { key: key.as_bytes(), value: value.as_deref() })
                    .collect();
                let timestamp = TimestampMs(1_700_000_000_000 + below(1_000_000).cast_signed());
                builder
                    .append_at(Offset(offset), timestamp, key.as_deref(), value.as_deref(), &headers)
                    .unwrap();
                offset += 1 + below(3).cast_signed();
            }
            batches.push((format!("{}/{round}", compression.name()), builder.finish().unwrap()));
        }
    }
    let (_, last) = batches.last().unwrap();
    let empty = empty_batch(&BatchHeader::parse(last).unwrap());
    batches.push(("empty".to_owned(), empty));
    batches
}

#[test]
fn what_we_write_kafka_reads() {
    let Ok(libs) = std::env::var("KAFKA_LIBS") else {
        eprintln!("skipped: set KAFKA_LIBS to the libs directory of Apache Kafka 4.3.1 to run this");
        return;
    };
    let mut text = String::new();
    let batches = our_batches();
    for (name, batch) in &batches {
        writeln!(text, "case {name}\nbatch {}", hex(batch)).unwrap();
        for line in describe(batch).unwrap() {
            writeln!(text, "{line}").unwrap();
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).unwrap();
    let output = std::process::Command::new("java")
        .args(["-cp", &format!("{libs}/*")])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/records/RecordsGolden.java"))
        .arg("check")
        .arg(file.path())
        .output()
        .expect("java starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains(&format!("{} batches are as described", batches.len())), "{stdout}{stderr}");
}
