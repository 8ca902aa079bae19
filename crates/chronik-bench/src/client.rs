//! A client that does no more than a benchmark needs: one blocking connection, requests as bytes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use chronik_protocol::frame;
use chronik_protocol::messages::create_topics_request::CreatableTopic;
use chronik_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse, Message,
    MetadataRequest, MetadataResponse,
};

/// How long an answer may take before the run is given up.
const ANSWER_MAX: Duration = Duration::from_mins(2);

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

    /// Makes a topic and waits until every partition has a leader.
    pub(crate) fn create_topic(&mut self, name: &str, partition_count: i32) -> Result<()> {
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partition_count,
            replication_factor: 1,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 60_000, ..Default::default() };
        let answer: CreateTopicsResponse = self.call(&request, 5)?;
        if let Some(failed) = answer.topics.iter().find(|topic| topic.error_code != 0) {
            bail!("cannot create {name}: error {} ({:?})", failed.error_code, failed.error_message);
        }
        for _ in 0..1_000 {
            let answer: MetadataResponse =
                self.call(&MetadataRequest { topics: None, ..Default::default() }, 4)?;
            let topic = answer.topics.iter().find(|topic| topic.name.as_deref() == Some(name));
            if topic.is_some_and(|topic| {
                topic.partitions.len() == usize::try_from(partition_count).unwrap_or(0)
                    && topic.partitions.iter().all(|partition| partition.leader_id >= 0)
            }) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the partitions of {name} got no leaders")
    }
}
