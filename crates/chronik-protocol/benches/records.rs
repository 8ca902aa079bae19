//! Times the hot paths: `cargo bench -p chronik-protocol [-- inspect]`. Prints the best of many rounds; nothing is asserted.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops or prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use chronik_protocol::fetch::{FetchPartitionResponse, FetchResponse, FetchTopicResponse, TopicRef};
use chronik_protocol::frame::{RequestHeader, encode_request};
use chronik_protocol::messages::{Message, produce_request};
use chronik_protocol::produce::ProduceRequest;
use chronik_protocol::records::{
    BatchBuilder, BatchHeader, BatchOptions, ClientBatchLimits, Compression, RECORDS_INFLATED_BYTES_MAX,
    Recompression, RecordIter, RecordRules, check_client_batch, inspect_records, patch_append, recompress,
};
use chronik_protocol::wire::Reader;
use chronik_types::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};

const ROUNDS: u32 = 200;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// The shortest time of one run of `work`, each on an input of its own.
fn best<I, O>(mut input: impl FnMut() -> I, mut work: impl FnMut(I) -> O) -> Duration {
    let round = || {
        let prepared = input();
        let start = Instant::now();
        let output = black_box(work(prepared));
        let elapsed = start.elapsed();
        drop(output);
        elapsed
    };
    std::iter::repeat_with(round).take(ROUNDS as usize).min().unwrap()
}

fn report(what: &str, bytes: usize, time: Duration) {
    let gigabytes_per_second = bytes as f64 / time.as_secs_f64() / 1e9;
    println!("{what:62} {:>10} ns {gigabytes_per_second:8.2} GB/s", time.as_nanos());
}

/// Values of `value_bytes` for a batch of about `bytes` bytes; they compress like text does.
fn values(bytes: usize, value_bytes: usize) -> Vec<Vec<u8>> {
    let mut state = 1_u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b"etaoin shrdlu etaoin            "[usize::try_from(state >> 59).unwrap()]
    };
    let count = (bytes / (value_bytes + 10)).max(1);
    (0..count).map(|_| (0..value_bytes).map(|_| letter()).collect()).collect()
}

fn batch(values: &[Vec<u8>], compression: Compression) -> BytesMut {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for value in values {
        builder.append(TimestampMs(1_700_000_000_000), None, Some(value), &[]).unwrap();
    }
    builder.finish().unwrap()
}

fn request(partitions: usize, batch: &BytesMut) -> BytesMut {
    let partition = |index: usize| produce_request::PartitionProduceData {
        index: i32::try_from(index).unwrap(),
        records: Some(Bytes::copy_from_slice(batch)),
    };
    let request = produce_request::ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![produce_request::TopicProduceData {
            topic_id: TopicId(7),
            partition_data: (0..partitions).map(partition).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    BytesMut::from(&encode_request(1, Some("client"), &request, 13).unwrap()[4..])
}

fn produce(partitions: usize, batch_bytes: usize, value_bytes: usize) {
    let frame = request(partitions, &batch(&values(batch_bytes, value_bytes), Compression::None));
    let bytes = frame.len();
    let label = |what: &str| format!("{what}, {partitions} x {batch_bytes} B of {value_bytes} B");

    let generated = best(
        || frame.clone().freeze(),
        |frame| {
            let mut reader = Reader::new(&frame);
            let header = RequestHeader::decode(&mut reader).unwrap();
            produce_request::ProduceRequest::decode(&mut reader, header.api_version).unwrap()
        },
    );
    report(&label("generated decode"), bytes, generated);
    let parse = best(|| frame.clone(), |frame| ProduceRequest::parse_frame(frame).unwrap());
    report(&label("parse"), bytes, parse);
    let limits = ClientBatchLimits { batch_bytes_max: 1 << 30, produce_version: 13 };
    let all = best(
        || frame.clone(),
        |frame| {
            let (_, mut request) = ProduceRequest::parse_frame(frame).unwrap();
            for partition in request.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                let records = partition.records.as_mut().unwrap();
                let header = check_client_batch(records, limits).unwrap();
                inspect_records(records, &header, &RecordRules::NONE, RECORDS_INFLATED_BYTES_MAX).unwrap();
                patch_append(records, Offset(1), LeaderEpoch(1));
            }
            request
        },
    );
    report(&label("parse, validate with CRC, stamp"), bytes, all);
}

fn fetch(partitions: usize) {
    let data = Bytes::from(vec![0; 100_000]);
    let response = || FetchResponse {
        topics: vec![FetchTopicResponse {
            topic: TopicRef::Id(TopicId(7)),
            partitions: (0..partitions)
                .map(|index| {
                    let index = PartitionIndex(i32::try_from(index).unwrap());
                    let mut partition = FetchPartitionResponse::error(index, ErrorCode::None);
                    partition.records = vec![data.clone()];
                    partition
                })
                .collect(),
        }],
        ..FetchResponse::default()
    };
    let time = best(response, |response| response.into_segments(1, 18).unwrap());
    report(&format!("fetch response of {partitions} partitions"), partitions * data.len(), time);
}

/// What a broker spends on a batch that it stores as it came: without looking inside, and with.
fn inspect(codec: Compression, batch_bytes: usize, value_bytes: usize) {
    let values = values(batch_bytes, value_bytes);
    let records_bytes = batch(&values, Compression::None).len();
    let bytes = batch(&values, codec);
    let label = |what: &str| format!("{what}, {batch_bytes} B of {value_bytes} B, {}", codec.name());
    let limits = ClientBatchLimits { batch_bytes_max: 1 << 30, produce_version: 13 };
    let verbatim = best(|| (), |()| check_client_batch(&bytes, limits).unwrap());
    report(&label("header and CRC"), records_bytes, verbatim);
    let look = |bytes: &[u8]| {
        let header = check_client_batch(bytes, limits).unwrap();
        inspect_records(bytes, &header, &RecordRules::NONE, RECORDS_INFLATED_BYTES_MAX).unwrap()
    };
    let inspected = best(|| (), |()| look(&bytes));
    report(&label("header, CRC and records"), records_bytes, inspected);
    let seconds_per_gb = |time: Duration, bytes: usize| time.as_secs_f64() * 1e9 / bytes as f64;
    println!(
        "{:62} {:.2} s a GB of records, {:.2} s a GB as it came ({:.1} to 1)",
        label("  looking inside costs"),
        seconds_per_gb(inspected.saturating_sub(verbatim), records_bytes),
        seconds_per_gb(inspected.saturating_sub(verbatim), bytes.len()),
        records_bytes as f64 / bytes.len() as f64,
    );
}

/// What a broker spends on a batch that has to be in another codec.
fn repack(from: Compression, codec: Compression) {
    let values = values(1 << 20, 1_000);
    let records_bytes = batch(&values, Compression::None).len();
    let bytes = batch(&values, from);
    let header = BatchHeader::parse(&bytes).unwrap();
    let wanted = Recompression {
        codec,
        level: None,
        log_append_time: None,
        inflated_bytes_max: RECORDS_INFLATED_BYTES_MAX,
        batch_bytes_max: 1 << 30,
    };
    let time = best(|| (), |()| recompress(&bytes, &header, &RecordRules::NONE, wanted).unwrap());
    report(&format!("recompress 1 MiB of 1000 B, {} to {}", from.name(), codec.name()), records_bytes, time);
}

fn main() {
    if std::env::args().any(|argument| argument == "inspect") {
        for codec in CODECS {
            for (batch_bytes, value_bytes) in [(1 << 20, 1_000), (1 << 20, 100), (16 << 10, 100), (200, 100)]
            {
                inspect(codec, batch_bytes, value_bytes);
            }
        }
        for from in CODECS {
            for to in CODECS.into_iter().filter(|&to| to != from) {
                repack(from, to);
            }
        }
        return;
    }
    for size in [1 << 10, 16 << 10, 64 << 10, 1 << 20] {
        let data = vec![0xa5; size];
        report(&format!("CRC-32C of {size} B"), size, best(|| (), |()| crc32c::crc32c(black_box(&data))));
    }
    for (partitions, batch_bytes, value_bytes) in [
        (1, 1 << 20, 1_000),
        (1, 1 << 20, 100),
        (6, 16 << 10, 1_000),
        (6, 16 << 10, 100),
        (1, 200, 100),
        (100, 200, 100),
    ] {
        produce(partitions, batch_bytes, value_bytes);
    }
    for partitions in [1, 6, 100] {
        fetch(partitions);
    }
    for compression in CODECS {
        let name = compression.name();
        let values = values(1 << 20, 100);
        let records_bytes = batch(&values, Compression::None).len();
        let build = best(|| (), |()| batch(&values, compression));
        report(&format!("build 1 MiB of 100 B, {name}"), records_bytes, build);
        let bytes = batch(&values, compression);
        let read_all = best(
            || (),
            |()| {
                let mut records = RecordIter::new(&bytes, 1 << 30).unwrap();
                let mut count = 0;
                while records.next_record().unwrap().is_some() {
                    count += 1;
                }
                count
            },
        );
        report(&format!("read 1 MiB of 100 B, {name}"), records_bytes, read_all);
        let first =
            best(|| (), |()| RecordIter::new(&bytes, 1 << 30).unwrap().next_record().unwrap().is_some());
        report(&format!("read the first record of 1 MiB, {name}"), records_bytes, first);
    }
}
