//! The load: batches that are built once and sent again and again, and fetches that follow them.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use chronik_protocol::frame;
use chronik_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use chronik_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use chronik_protocol::messages::{FetchRequest, FetchResponse, ProduceRequest, ProduceResponse};
use chronik_protocol::records::{BatchBuilder, BatchOptions};

use chronik_types::TimestampMs;

use crate::client::Connection;

/// Produce requests on the way on one connection, as clients have it by default.
const IN_FLIGHT_MAX: u64 = 5;
/// The version of Produce and of Fetch that is sent: the last with topic names.
const VERSION: i16 = 12;

/// How often a partition of a new topic is tried, and how long between two tries.
const WARM_UP_TRIES_MAX: u32 = 500;
const WARM_UP_PAUSE: Duration = Duration::from_millis(10);

/// What a throughput run moves.
#[derive(Clone, Copy)]
pub(crate) struct Volume {
    pub(crate) record_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) total_bytes: u64,
    pub(crate) partition_count: i32,
    pub(crate) connection_count: i32,
}

/// What a throughput run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) seconds: f64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

fn batch(volume: &Volume) -> Result<(Bytes, u64)> {
    // Kafka's Java producer counts what a record takes beyond its value, so batches hold about this many.
    let count = (volume.batch_bytes / (volume.record_bytes + 8)).max(1);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    // A broker refuses timestamps far from its clock.
    let now = TimestampMs(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?);
    for position in 0..count {
        let value: Vec<u8> = (0..volume.record_bytes)
            .map(|at| u8::try_from((at * 31 + position * 7) % 251).unwrap_or(0))
            .collect();
        builder.append(now, None, Some(&value), &[])?;
    }
    Ok((builder.finish()?.freeze(), count as u64))
}

fn produce_frame(topic: &str, partition: i32, records: Bytes) -> Result<Bytes> {
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: topic.to_owned(),
            partition_data: vec![PartitionProduceData { index: partition, records: Some(records) }],
            ..Default::default()
        }],
        ..Default::default()
    };
    Ok(frame::encode_request(1, Some("chronik-bench"), &request, VERSION)?)
}

/// Produces one batch to each partition, again and again until its leader takes it: a topic that has just been made is
/// known before its leaders are.
pub(crate) fn warm_up(port: u16, topic: &str, volume: &Volume) -> Result<()> {
    let (records, _) = batch(volume)?;
    let mut connection = Connection::open(port)?;
    let mut buffer = BytesMut::new();
    for partition in 0..volume.partition_count {
        let frame = produce_frame(topic, partition, records.clone())?;
        let mut tries = 0;
        loop {
            connection.send(&frame)?;
            match check_produced(&mut connection, &mut buffer) {
                Ok(()) => break,
                Err(error) if tries == WARM_UP_TRIES_MAX => return Err(error),
                Err(_) => tries += 1,
            }
            thread::sleep(WARM_UP_PAUSE);
        }
    }
    Ok(())
}

/// Produces with `acks=all`: each connection has its partitions, and a few requests on the way.
pub(crate) fn produce(port: u16, topic: &str, volume: Volume) -> Result<Moved> {
    let (records, record_count) = batch(&volume)?;
    let batch_bytes = records.len() as u64;
    let batches_each =
        (volume.total_bytes / batch_bytes / u64::from(volume.connection_count.unsigned_abs())).max(1);
    let began = Instant::now();
    let threads: Vec<_> = (0..volume.connection_count)
        .map(|number| {
            let frames: Result<Vec<Bytes>> = (0..volume.partition_count)
                .filter(|partition| partition % volume.connection_count == number)
                .map(|partition| produce_frame(topic, partition, records.clone()))
                .collect();
            thread::spawn(move || produce_on_one(port, &frames?, batches_each))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a producer panicked"))??;
    }
    let batches = batches_each * u64::from(volume.connection_count.unsigned_abs());
    Ok(Moved {
        seconds: began.elapsed().as_secs_f64(),
        records: batches * record_count,
        bytes: batches * batch_bytes,
    })
}

fn produce_on_one(port: u16, frames: &[Bytes], count: u64) -> Result<()> {
    let mut connection = Connection::open(port)?;
    let mut buffer = BytesMut::new();
    let mut acknowledged = 0;
    for sent in 0..count {
        if sent - acknowledged >= IN_FLIGHT_MAX {
            check_produced(&mut connection, &mut buffer)?;
            acknowledged += 1;
        }
        let at = usize::try_from(sent % frames.len() as u64)?;
        connection.send(frames.get(at).context("a frame of the ring")?)?;
    }
    while acknowledged < count {
        check_produced(&mut connection, &mut buffer)?;
        acknowledged += 1;
    }
    Ok(())
}

fn check_produced(connection: &mut Connection, buffer: &mut BytesMut) -> Result<()> {
    connection.receive(buffer)?;
    let (_, answer) = frame::decode_response::<ProduceResponse>(&buffer.split().freeze(), VERSION)?;
    match answer.responses.first().and_then(|topic| topic.partition_responses.first()) {
        Some(partition) if partition.error_code == 0 => Ok(()),
        Some(partition) => bail!("a produce failed with error {}", partition.error_code),
        None => bail!("a produce was answered with nothing"),
    }
}

/// Consumes `bytes` of a topic from its beginning, with one connection for each of the volume's.
pub(crate) fn consume(port: u16, topic: &str, volume: Volume) -> Result<Moved> {
    let began = Instant::now();
    let threads: Vec<_> = (0..volume.connection_count)
        .map(|number| {
            let partitions: Vec<i32> =
                (0..volume.partition_count).filter(|at| at % volume.connection_count == number).collect();
            let topic = topic.to_owned();
            thread::spawn(move || consume_on_one(port, &topic, &partitions))
        })
        .collect();
    let mut moved = Moved { seconds: 0.0, records: 0, bytes: 0 };
    for thread in threads {
        let one = thread.join().map_err(|_| anyhow::anyhow!("a consumer panicked"))??;
        moved.records += one.records;
        moved.bytes += one.bytes;
    }
    moved.seconds = began.elapsed().as_secs_f64();
    Ok(moved)
}

fn consume_on_one(port: u16, topic: &str, partitions: &[i32]) -> Result<Moved> {
    let mut connection = Connection::open(port)?;
    let mut moved = Moved { seconds: 0.0, records: 0, bytes: 0 };
    let mut buffer = BytesMut::new();
    let mut open: Vec<(i32, i64)> = partitions.iter().map(|partition| (*partition, 0)).collect();
    while !open.is_empty() {
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 50 << 20,
            session_epoch: -1,
            topics: vec![FetchTopic {
                topic: topic.to_owned(),
                partitions: open
                    .iter()
                    .map(|(partition, offset)| FetchPartition {
                        partition: *partition,
                        fetch_offset: *offset,
                        partition_max_bytes: 1 << 20,
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        connection.send(&frame::encode_request(1, Some("chronik-bench"), &request, VERSION)?)?;
        connection.receive(&mut buffer)?;
        let (_, answer) = frame::decode_response::<FetchResponse>(&buffer.split().freeze(), VERSION)?;
        for partition in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            if partition.error_code != 0 {
                bail!("a fetch failed with error {}", partition.error_code);
            }
            let Some((_, offset)) = open.iter_mut().find(|(open, _)| *open == partition.partition_index)
            else {
                bail!("a fetch was answered for a partition that it did not ask for");
            };
            let before = *offset;
            let records = partition.records.clone().unwrap_or_default();
            let mut rest = &records[..];
            while let Ok(header) = chronik_protocol::records::BatchHeader::parse(rest) {
                if rest.len() < header.size_bytes {
                    break;
                }
                *offset = header.last_offset().context("an offset")?.get() + 1;
                rest = &rest[header.size_bytes..];
            }
            moved.records += u64::try_from(*offset - before).unwrap_or(0);
            moved.bytes += records.len() as u64;
        }
        let ends: Vec<(i32, i64)> = answer
            .responses
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| (partition.partition_index, partition.high_watermark))
            .collect();
        open.retain(|(partition, offset)| {
            !ends.iter().any(|(ended, end)| ended == partition && end <= offset)
        });
    }
    Ok(moved)
}
