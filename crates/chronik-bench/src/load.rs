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

/// Where one connection goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) port: u16,
    /// The partitions that each of its produce requests has a batch for. The requests take turns.
    pub(crate) requests: Vec<Vec<i32>>,
}

impl Target {
    /// `connection_count` connections to one broker that share its partitions, each request for one of them.
    pub(crate) fn shared(port: u16, partition_count: i32, connection_count: i32) -> Vec<Self> {
        let requests = |number| {
            (0..partition_count).filter(|at| at % connection_count == number).map(|at| vec![at]).collect()
        };
        (0..connection_count).map(|number| Self { port, requests: requests(number) }).collect()
    }

    fn partitions(&self) -> impl Iterator<Item = i32> {
        self.requests.iter().flatten().copied()
    }
}

/// What a throughput run moves.
#[derive(Clone, Copy)]
pub(crate) struct Volume {
    pub(crate) record_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) total_bytes: u64,
    /// It ends then, however little has been moved.
    pub(crate) time_max: Duration,
}

impl Volume {
    /// All of it, however long that takes.
    pub(crate) fn new(record_bytes: usize, batch_bytes: usize, total_bytes: u64) -> Self {
        Self { record_bytes, batch_bytes, total_bytes, time_max: Duration::MAX }
    }
}

/// What a throughput run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) seconds: f64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// What brokers and clients take for the time of day.
pub(crate) fn wall_clock() -> Result<TimestampMs> {
    Ok(TimestampMs(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?))
}

fn batch(volume: &Volume) -> Result<(Bytes, u64)> {
    // Kafka's Java producer counts what a record takes beyond its value, so batches hold about this many.
    let count = (volume.batch_bytes / (volume.record_bytes + 8)).max(1);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    // A broker refuses timestamps far from its clock.
    let now = wall_clock()?;
    for position in 0..count {
        let value: Vec<u8> = (0..volume.record_bytes)
            .map(|at| u8::try_from((at * 31 + position * 7) % 251).unwrap_or(0))
            .collect();
        builder.append(now, None, Some(&value), &[])?;
    }
    Ok((builder.finish()?.freeze(), count as u64))
}

/// A Produce request with `acks=all` that has a batch for each of some partitions.
pub(crate) fn produce_frame(topic: &str, batches: &[(i32, Bytes)]) -> Result<Bytes> {
    let partition_data = batches
        .iter()
        .map(|(partition, records)| PartitionProduceData {
            index: *partition,
            records: Some(records.clone()),
        })
        .collect();
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData { name: topic.to_owned(), partition_data, ..Default::default() }],
        ..Default::default()
    };
    Ok(frame::encode_request(1, Some("chronik-bench"), &request, VERSION)?)
}

/// Produces one batch to each partition, again and again until its leader takes it: a topic that has just been made is
/// known before its leaders are.
pub(crate) fn warm_up(targets: &[Target], topic: &str, volume: &Volume) -> Result<()> {
    let (records, _) = batch(volume)?;
    let mut buffer = BytesMut::new();
    for target in targets {
        let mut connection = Connection::open(target.port)?;
        for partition in target.partitions() {
            let frame = produce_frame(topic, &[(partition, records.clone())])?;
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
    }
    Ok(())
}

/// Produces with `acks=all`: each connection has its partitions, and a few requests on the way.
pub(crate) fn produce(targets: &[Target], topic: &str, volume: Volume) -> Result<Moved> {
    let (records, record_count) = batch(&volume)?;
    let batch_bytes = records.len() as u64;
    let batches_each = (volume.total_bytes / batch_bytes / targets.len() as u64).max(1);
    let began = Instant::now();
    let mut threads = Vec::new();
    for target in targets {
        let mut frames = Vec::with_capacity(target.requests.len());
        for partitions in &target.requests {
            let batches: Vec<_> = partitions.iter().map(|partition| (*partition, records.clone())).collect();
            frames.push((produce_frame(topic, &batches)?, batches.len() as u64));
        }
        let (port, time_max) = (target.port, volume.time_max);
        threads.push(thread::spawn(move || produce_on_one(port, &frames, batches_each, began, time_max)));
    }
    let mut batches = 0;
    for thread in threads {
        batches += thread.join().map_err(|_| anyhow::anyhow!("a producer panicked"))??;
    }
    Ok(Moved {
        seconds: began.elapsed().as_secs_f64(),
        records: batches * record_count,
        bytes: batches * batch_bytes,
    })
}

/// Gives how many batches were acknowledged.
fn produce_on_one(
    port: u16,
    frames: &[(Bytes, u64)],
    batches_max: u64,
    began: Instant,
    time_max: Duration,
) -> Result<u64> {
    let mut connection = Connection::open(port)?;
    let mut buffer = BytesMut::new();
    let mut in_flight = 0;
    let mut batches = 0;
    for (frame, batch_count) in frames.iter().cycle() {
        if batches >= batches_max || began.elapsed() > time_max {
            break;
        }
        if in_flight >= IN_FLIGHT_MAX {
            check_produced(&mut connection, &mut buffer)?;
            in_flight -= 1;
        }
        connection.send(frame)?;
        in_flight += 1;
        batches += batch_count;
    }
    for _ in 0..in_flight {
        check_produced(&mut connection, &mut buffer)?;
    }
    Ok(batches)
}

/// Reads the answer to a Produce request, and fails unless every partition has taken its batch.
pub(crate) fn check_produced(connection: &mut Connection, buffer: &mut BytesMut) -> Result<()> {
    connection.receive(buffer)?;
    let (_, answer) = frame::decode_response::<ProduceResponse>(&buffer.split().freeze(), VERSION)?;
    let partitions = || answer.responses.iter().flat_map(|topic| &topic.partition_responses);
    if let Some(failed) = partitions().find(|partition| partition.error_code != 0) {
        bail!("a produce failed with error {}", failed.error_code);
    }
    if partitions().next().is_none() {
        bail!("a produce was answered with nothing");
    }
    Ok(())
}

/// Consumes all of a topic from its beginning.
pub(crate) fn consume(targets: &[Target], topic: &str) -> Result<Moved> {
    let began = Instant::now();
    let threads: Vec<_> = targets
        .iter()
        .map(|target| {
            let positions = target.partitions().map(|partition| (partition, 0)).collect();
            let (port, topic) = (target.port, topic.to_owned());
            thread::spawn(move || consume_on_one(port, &topic, positions))
        })
        .collect();
    let mut moved = Moved::default();
    for thread in threads {
        let one = thread.join().map_err(|_| anyhow::anyhow!("a consumer panicked"))??;
        moved.records += one.records;
        moved.bytes += one.bytes;
    }
    moved.seconds = began.elapsed().as_secs_f64();
    Ok(moved)
}

/// What a fetch found of one partition.
pub(crate) struct Found {
    pub(crate) partition: i32,
    /// Whole batches, the last perhaps cut off.
    pub(crate) records: Bytes,
    high_watermark: i64,
}

/// Asks for what follows each of `positions`, partition and offset, waiting for it for up to half a second.
pub(crate) fn fetch(
    connection: &mut Connection,
    topic: &str,
    positions: &[(i32, i64)],
    buffer: &mut BytesMut,
) -> Result<Vec<Found>> {
    let partitions = positions
        .iter()
        .map(|(partition, offset)| FetchPartition {
            partition: *partition,
            fetch_offset: *offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        })
        .collect();
    let request = FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 50 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic { topic: topic.to_owned(), partitions, ..Default::default() }],
        ..Default::default()
    };
    connection.send(&frame::encode_request(1, Some("chronik-bench"), &request, VERSION)?)?;
    connection.receive(buffer)?;
    let (_, answer) = frame::decode_response::<FetchResponse>(&buffer.split().freeze(), VERSION)?;
    let partitions = answer.responses.into_iter().flat_map(|topic| topic.partitions);
    partitions
        .map(|partition| {
            if partition.error_code != 0 {
                bail!("a fetch failed with error {}", partition.error_code);
            }
            Ok(Found {
                partition: partition.partition_index,
                records: partition.records.unwrap_or_default(),
                high_watermark: partition.high_watermark,
            })
        })
        .collect()
}

/// Calls `each` with every whole batch of `records`, and gives the offset that follows the last.
pub(crate) fn walk(records: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<Option<i64>> {
    let mut rest = records;
    let mut next_offset = None;
    while let Ok(header) = chronik_protocol::records::BatchHeader::parse(rest) {
        let Some((batch, after)) = rest.split_at_checked(header.size_bytes) else { break };
        each(batch)?;
        next_offset = Some(header.last_offset().context("an offset")?.get() + 1);
        rest = after;
    }
    Ok(next_offset)
}

fn consume_on_one(port: u16, topic: &str, mut open: Vec<(i32, i64)>) -> Result<Moved> {
    let mut connection = Connection::open(port)?;
    let mut moved = Moved::default();
    let mut buffer = BytesMut::new();
    while !open.is_empty() {
        let found = fetch(&mut connection, topic, &open, &mut buffer)?;
        for Found { partition, records, .. } in &found {
            let Some((_, offset)) = open.iter_mut().find(|(open, _)| open == partition) else {
                bail!("a fetch was answered for a partition that it did not ask for");
            };
            let before = *offset;
            *offset = walk(records, |_| Ok(()))?.unwrap_or(before);
            moved.records += u64::try_from(*offset - before).unwrap_or(0);
            moved.bytes += records.len() as u64;
        }
        open.retain(|(partition, offset)| {
            !found.iter().any(|found| found.partition == *partition && found.high_watermark <= *offset)
        });
    }
    Ok(moved)
}
