//! A whole node on a real directory, with its threads, asked without a socket: what the wiring must hold.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chronik_broker::{Connection, ConnectionId, Reply, ResponsePart};
use chronik_protocol::frame;
use chronik_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use chronik_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use chronik_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, Message, ProduceRequest, ProduceResponse,
};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_server::clock::Clock;
use chronik_server::config::{self, Command};
use chronik_server::metrics::Telemetry;
use chronik_server::net::Service;
use chronik_server::node;
use chronik_server::process::{Context, Node};

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_mins(1);

fn open(data_dir: &Path) -> Result<Node, String> {
    let environment = vec![(OsString::from("CHRONIK_DATA_DIR"), data_dir.as_os_str().to_owned())];
    let loaded = config::load([OsString::from("chronik-server")], environment, |_| Ok(String::new()));
    let Ok(Command::Run(config)) = loaded else { panic!("the settings are right") };
    let context = Context {
        config: *config,
        kafka_port: 9092,
        clock: Clock::start(),
        open_files_max: None,
        on_panic: Arc::new(|name, text| panic!("{name}: {text}")),
        on_failure: Arc::new(|| panic!("nothing fails here")),
        telemetry: Telemetry::new(Clock::start(), 1),
        cluster: None,
        loggers: None,
    };
    let mut node = node::open(context).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let ready = std::mem::replace(&mut node.ready, Box::pin(std::future::pending()));
    runtime.block_on(ready).map_err(|error| error.to_string())?;
    Ok(node)
}

fn close(node: Node) {
    for worker in node.workers {
        worker.stop();
    }
    (node.shut_down)(Clock::start().now()).expect("nothing is in the way of a clean end");
}

fn call<Q: Message, A: Message>(service: &Arc<dyn Service>, request: &Q, version: i16) -> A {
    let address = SocketAddr::from(([127, 0, 0, 1], 9092));
    let connection = Arc::new(Connection::new(ConnectionId(1), address, address));
    let framed = frame::encode_request(7, Some("test"), request, version).expect("the request is right");
    let (sender, answers) = mpsc::channel();
    let responder = Box::new(move |reply| sender.send(reply).expect("the test waits"));
    service.handle(Clock::start().now(), &connection, BytesMut::from(framed.slice(4..).as_ref()), responder);
    let Reply::Response(response) = answers.recv_timeout(PATIENCE).expect("an answer") else {
        panic!("no response")
    };
    let mut bytes = BytesMut::new();
    for part in response.parts {
        let ResponsePart::Bytes(part) = part else { panic!("no file is asked for") };
        bytes.extend_from_slice(&part);
    }
    frame::decode_response(&bytes.freeze().slice(4..), version).expect("a response").1
}

fn create(service: &Arc<dyn Service>, name: &str, configs: &[(&str, &str)]) -> i16 {
    let configs = configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
        })
        .collect();
    let topic = CreatableTopic {
        name: name.to_owned(),
        num_partitions: 1,
        replication_factor: 1,
        configs,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
    call::<_, CreateTopicsResponse>(service, &request, 5).topics[0].error_code
}

/// Produces one batch; gives the error code and the offset.
fn produce(service: &Arc<dyn Service>, topic: &str, records: Bytes) -> (i16, i64) {
    let partition = PartitionProduceData { index: 0, records: Some(records) };
    let topic =
        TopicProduceData { name: topic.to_owned(), partition_data: vec![partition], ..Default::default() };
    let request =
        ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() };
    let answer: ProduceResponse = call(service, &request, 9);
    let partition = &answer.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

fn batch(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Clock::start().now().wall, None, Some(&vec![b'x'; bytes]), &[]).expect("a record fits");
    builder.finish().expect("a batch").freeze()
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = open(dir.path()).expect("an empty directory");
    let refusal = open(dir.path()).err().expect("the directory is taken");
    assert!(refusal.contains("CHRONIK_DATA_DIR") && refusal.contains("process"), "{refusal}");
    close(first);
    close(open(dir.path()).expect("the directory is free again"));
}

#[test]
fn syncs_asked_for_by_upkeep_do_not_put_acknowledgements_to_sleep() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = open(dir.path()).expect("an empty directory");
    let service = Arc::clone(&node.service);
    // Upkeep queues syncs of this topic's closed segments and of what is older than a moment.
    assert_eq!(create(&service, "rolled", &[("segment.bytes", "1048576"), ("flush.ms", "1")]), 0);
    assert_eq!(create(&service, "synced", &[("flush.messages", "1")]), 0);
    for round in 0..12 {
        assert_eq!(produce(&service, "rolled", batch(400_000)), (0, round));
        assert_eq!(produce(&service, "synced", batch(100)), (0, round));
        std::thread::park_timeout(Duration::from_millis(20));
    }
    close(node);
}

#[test]
fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = open(dir.path()).expect("an empty directory");
    assert_eq!(create(&node.service, "kept", &[]), 0);
    assert_eq!(produce(&node.service, "kept", batch(100)), (0, 0));
    close(node);
    let node = open(dir.path()).expect("a directory of its own");
    assert_eq!(create(&node.service, "kept", &[]), 36, "TOPIC_ALREADY_EXISTS");
    assert_eq!(produce(&node.service, "kept", batch(100)), (0, 1));
    close(node);
}
