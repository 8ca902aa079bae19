//! A client that does no more than a benchmark needs: one blocking connection, requests as bytes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use chronik_protocol::frame;
use chronik_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use chronik_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use chronik_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse, ListOffsetsRequest,
    ListOffsetsResponse, Message, MetadataRequest, MetadataResponse,
};

/// How long an answer may take before the run is given up.
const ANSWER_MAX: Duration = Duration::from_mins(2);
/// Asks ListOffsets for the end.
const LATEST_TIMESTAMP: i64 = -1;
/// How often something that takes a moment is asked for again, and how long between two tries.
const TRIES_MAX: u32 = 1_000;
const PAUSE: Duration = Duration::from_millis(20);

/// One connection to a broker on this machine.
pub(crate) struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub(crate) fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream })
    }

    /// The same connection once more, for another thread: one sends, one receives.
    pub(crate) fn another_end(&self) -> Result<Self> {
        Ok(Self { stream: self.stream.try_clone()? })
    }

    /// Sends a whole frame.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(frame)?)
    }

    /// Reads a whole frame, without its length, into `buffer`.
    pub(crate) fn receive(&mut self, buffer: &mut BytesMut) -> Result<()> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("the broker closed the connection")?;
        let length = usize::try_from(i32::from_be_bytes(length)).context("a negative frame length")?;
        buffer.resize(length, 0);
        self.stream.read_exact(buffer)?;
        Ok(())
    }

    /// Sends a request and reads its answer.
    pub(crate) fn call<Q: Message, A: Message>(&mut self, request: &Q, version: i16) -> Result<A> {
        self.send(&frame::encode_request(1, Some("chronik-bench"), request, version)?)?;
        let mut buffer = BytesMut::new();
        self.receive(&mut buffer)?;
        let (_, answer) = frame::decode_response(&buffer.freeze(), version)?;
        Ok(answer)
    }

    pub(crate) fn api_versions(&mut self) -> Result<ApiVersionsResponse> {
        self.call(&ApiVersionsRequest::default(), 0)
    }

    /// Makes a topic and waits until every partition has a leader. Where brokers are still coming up, it asks again.
    pub(crate) fn create_topic(&mut self, name: &str, layout: &Layout) -> Result<()> {
        let configs = layout.min_in_sync.map(|count| CreatableTopicConfig {
            name: "min.insync.replicas".to_owned(),
            value: Some(count.to_string()),
        });
        let assignments = layout.assignments.iter().zip(0..).map(|(replicas, partition)| {
            CreatableReplicaAssignment { partition_index: partition, broker_ids: replicas.clone() }
        });
        let is_assigned = !layout.assignments.is_empty();
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: if is_assigned { -1 } else { layout.partition_count },
            replication_factor: if is_assigned { -1 } else { layout.replication_factor },
            assignments: assignments.collect(),
            configs: configs.into_iter().collect(),
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 60_000, ..Default::default() };
        let mut tries = 0;
        loop {
            let answer: CreateTopicsResponse = self.call(&request, 5)?;
            let Some(failed) = answer.topics.iter().find(|topic| topic.error_code != 0) else { break };
            if tries == TRIES_MAX {
                bail!("cannot create {name}: error {} ({:?})", failed.error_code, failed.error_message);
            }
            tries += 1;
            thread::sleep(PAUSE);
        }
        for _ in 0..TRIES_MAX {
            let partitions = self.partitions(name)?;
            if partitions.len() == usize::try_from(layout.partition_count).unwrap_or(0)
                && partitions.iter().all(|partition| partition.leader_port.is_some())
            {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        bail!("the partitions of {name} got no leaders")
    }

    /// Where partitions that this broker leads end: partition and offset.
    pub(crate) fn ends(&mut self, topic: &str, partitions: &[i32]) -> Result<Vec<(i32, i64)>> {
        let asked = partitions.iter().map(|partition| ListOffsetsPartition {
            partition_index: *partition,
            timestamp: LATEST_TIMESTAMP,
            ..Default::default()
        });
        let topic = ListOffsetsTopic { name: topic.to_owned(), partitions: asked.collect() };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let answer: ListOffsetsResponse = self.call(&request, 5)?;
        let told = answer.topics.iter().flat_map(|topic| &topic.partitions);
        told.map(|partition| {
            if partition.error_code != 0 {
                bail!("an end cannot be told: error {}", partition.error_code);
            }
            Ok((partition.partition_index, partition.offset))
        })
        .collect()
    }

    /// The partitions of a topic, in order, as this broker sees them.
    pub(crate) fn partitions(&mut self, topic: &str) -> Result<Vec<PartitionState>> {
        let answer: MetadataResponse =
            self.call(&MetadataRequest { topics: None, ..Default::default() }, 4)?;
        let port_of = |node: i32| {
            let broker = answer.brokers.iter().find(|broker| broker.node_id == node)?;
            u16::try_from(broker.port).ok()
        };
        let mut partitions: Vec<_> = answer
            .topics
            .iter()
            .filter(|found| found.name.as_deref() == Some(topic))
            .flat_map(|found| &found.partitions)
            .map(|partition| PartitionState {
                index: partition.partition_index,
                leader_port: port_of(partition.leader_id),
                in_sync: partition.isr_nodes.clone(),
            })
            .collect();
        partitions.sort_by_key(|partition| partition.index);
        Ok(partitions)
    }
}

/// What a topic is to look like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) partition_count: i32,
    pub(crate) replication_factor: i16,
    /// `min.insync.replicas`, where the topic has its own.
    pub(crate) min_in_sync: Option<i32>,
    /// The replicas of each partition, the preferred leader first; where there are none, the cluster chooses.
    pub(crate) assignments: Vec<Vec<i32>>,
}

impl Layout {
    /// Partitions without followers.
    pub(crate) fn alone(partition_count: i32) -> Self {
        Self { partition_count, replication_factor: 1, ..Self::default() }
    }
}

/// A partition as a broker tells it.
pub(crate) struct PartitionState {
    pub(crate) index: i32,
    /// Where its leader listens, if it has one that lives.
    pub(crate) leader_port: Option<u16>,
    pub(crate) in_sync: Vec<i32>,
}
