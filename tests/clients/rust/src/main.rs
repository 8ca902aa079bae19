//! rskafka, a client in Rust that shares no code with Chronik: every codec, offsets, admin calls.
//!
//! Its records keep headers in a map, so doubled header keys are left to the other suites.

use std::collections::BTreeMap;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::{Record, RecordAndOffset};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const TIMEOUT_MS: i32 = 20_000;
const FETCH_BYTES: std::ops::Range<i32> = 1..4_000_000;

struct Suite {
    client: Client,
    started: DateTime<Utc>,
    topic_count: AtomicU64,
}

impl Suite {
    fn name(&self, purpose: &str) -> String {
        let number = self.topic_count.fetch_add(1, Ordering::Relaxed);
        format!("rskafka-{purpose}-{:x}-{number}", self.started.timestamp_millis())
    }

    async fn create(&self, purpose: &str, partitions: i32) -> Result<String, Error> {
        let topic = self.name(purpose);
        self.client.controller_client()?.create_topic(&topic, partitions, 1, TIMEOUT_MS).await?;
        Ok(topic)
    }

    async fn partition(&self, topic: &str, partition: i32) -> Result<Arc<PartitionClient>, Error> {
        let handling = UnknownTopicHandling::Retry;
        Ok(Arc::new(self.client.partition_client(topic, partition, handling).await?))
    }

    /// Records an hour old, one second apart: nulls, empties, bytes that are not UTF-8, headers.
    fn varied(&self, count: i32) -> Vec<Record> {
        let first = DateTime::from_timestamp_millis(self.started.timestamp_millis()).unwrap_or_default();
        let keys = [None, Some(vec![]), Some(b"key".to_vec()), Some(vec![0xff, 0xfe, 0])];
        (0..count)
            .map(|index| Record {
                key: keys[index as usize % keys.len()].clone(),
                value: match index % 5 {
                    0 => None,
                    1 => Some(vec![]),
                    2 => Some(vec![index as u8; 900]),
                    _ => Some(format!("value {index}").into_bytes()),
                },
                headers: match index % 3 {
                    0 => BTreeMap::new(),
                    1 => BTreeMap::from([("a".to_owned(), vec![0xff, 0]), ("empty".to_owned(), vec![])]),
                    _ => BTreeMap::from([("ünicode".to_owned(), b"x".to_vec())]),
                },
                timestamp: first - TimeDelta::hours(1) + TimeDelta::seconds(index.into()),
            })
            .collect()
    }

    async fn carries_everything(&self, compression: Compression) -> Outcome {
        let topic = self.create("codec", 1).await?;
        let partition = self.partition(&topic, 0).await?;
        let records = self.varied(600);
        for (round, chunk) in records.chunks(200).enumerate() {
            let offsets = partition.produce(chunk.to_vec(), compression).await?;
            let first = i64::try_from(round * 200)?;
            same("offsets", &offsets, &(first..first + 200).collect())?;
        }
        let got = read(&partition, 0, records.len()).await?;
        for (index, (got, want)) in got.iter().zip(&records).enumerate() {
            same("offset", &got.offset, &i64::try_from(index)?)?;
            same("record", &got.record, want)?;
        }
        Ok(())
    }

    async fn offsets(&self) -> Outcome {
        let topic = self.create("offsets", 1).await?;
        let partition = self.partition(&topic, 0).await?;
        let records = self.varied(20);
        partition.produce(records.clone(), Compression::NoCompression).await?;
        let between = records[7].timestamp + TimeDelta::milliseconds(1);
        same("by time", &partition.get_offset(OffsetAt::Timestamp(between)).await?, &8)?;
        partition.delete_records(5, TIMEOUT_MS).await?;
        same("earliest", &partition.get_offset(OffsetAt::Earliest).await?, &5)?;
        same("latest", &partition.get_offset(OffsetAt::Latest).await?, &20)?;
        let before = partition.fetch_records(2, FETCH_BYTES, 100).await.map(drop);
        refused("a fetch below the start", before, ProtocolError::OffsetOutOfRange)?;
        let got = read(&partition, 5, 15).await?;
        same("first offset", &got[0].offset, &5)
    }

    async fn many_partitions(&self) -> Outcome {
        let topic = self.create("many", 16).await?;
        for number in 0..16 {
            let partition = self.partition(&topic, number).await?;
            partition.produce(self.varied(number + 1), Compression::Lz4).await?;
            same("latest", &partition.get_offset(OffsetAt::Latest).await?, &i64::from(number + 1))?;
        }
        Ok(())
    }

    async fn admin(&self) -> Outcome {
        let topic = self.create("admin", 3).await?;
        let controller = self.client.controller_client()?;
        let listed = self.client.list_topics().await?;
        let found = listed.iter().find(|listed| listed.name == topic).ok_or("the topic is not listed")?;
        same("partitions", &found.partitions.len(), &3)?;
        let again = controller.create_topic(&topic, 1, 1, TIMEOUT_MS).await;
        refused("an existing topic", again, ProtocolError::TopicAlreadyExists)?;
        let illegal = controller.create_topic("a b", 1, 1, TIMEOUT_MS).await;
        refused("an illegal name", illegal, ProtocolError::InvalidTopicException)?;
        let replicas = controller.create_topic(self.name("rf"), 1, 3, TIMEOUT_MS).await;
        refused("3 replicas", replicas, ProtocolError::InvalidReplicationFactor)?;
        controller.delete_topic(&topic, TIMEOUT_MS).await?;
        let unknown = controller.delete_topic(self.name("none"), TIMEOUT_MS).await;
        refused("an unknown topic", unknown, ProtocolError::UnknownTopicOrPartition)
    }
}

async fn read(partition: &PartitionClient, from: i64, count: usize) -> Result<Vec<RecordAndOffset>, Error> {
    let mut records: Vec<RecordAndOffset> = Vec::new();
    // Each fetch waits at most a second: this bounds the whole at 60 s.
    for _ in 0..60 {
        if records.len() >= count {
            break;
        }
        let next = records.last().map_or(from, |last| last.offset + 1);
        records.extend(partition.fetch_records(next, FETCH_BYTES, 1000).await?.0);
    }
    if records.len() != count {
        return Err(Error::InvalidResponse(format!("{} records, want {count}", records.len())));
    }
    Ok(records)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}").into()) }
}

fn refused(what: &str, got: Result<(), Error>, want: ProtocolError) -> Outcome {
    match got {
        Err(Error::ServerError { protocol_error, .. }) if protocol_error == want => Ok(()),
        other => Err(format!("{what}: got {other:?}, want {want:?}").into()),
    }
}

async fn case(name: &str, run: impl Future<Output = Outcome>) -> bool {
    let started = Instant::now();
    match run.await {
        Ok(()) => println!("ok {name} ({:.1} s)", started.elapsed().as_secs_f32()),
        Err(error) => {
            println!("not ok {name}: {error}");
            return false;
        }
    }
    true
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(bootstrap) = std::env::args().nth(1) else {
        println!("usage: rskafka-suite HOST:PORT");
        return ExitCode::from(2);
    };
    let client = match ClientBuilder::new(vec![bootstrap]).build().await {
        Ok(client) => client,
        Err(error) => {
            println!("not ok connect: {error}");
            return ExitCode::FAILURE;
        }
    };
    let suite = Suite { client, started: Utc::now(), topic_count: AtomicU64::new(0) };
    let mut good = true;
    for compression in [
        Compression::NoCompression,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let name = format!("carries_everything_{compression:?}");
        good &= case(&name, suite.carries_everything(compression)).await;
    }
    good &= case("offsets", suite.offsets()).await;
    good &= case("many_partitions", suite.many_partitions()).await;
    good &= case("admin", suite.admin()).await;
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
