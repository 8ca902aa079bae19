//! Requests as bytes, through the one way in, against a whole broker: metadata in memory, logs on a disk in memory,
//! a clock that stands still until it is moved.

mod cluster;
mod config_changes;
mod configs;
mod contact;
mod disk;
mod duties;
mod fetch;
mod fetchers;
mod first_batches;
mod followers;
mod group_shards;
mod groups;
pub(crate) mod leadership;
mod log_dirs;
mod meetings;
mod offers;
mod offsets;
mod produce;
mod producers;
mod records;
mod registration;
mod topic_partitions;
mod topics;
mod waiting;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_log::{AppendOrigin, LogConfig, LogManager, ManagerOptions};
use chronik_protocol::frame::{FRAME_LENGTH_BYTES, decode_response, encode_request};
use chronik_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use chronik_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, Message};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_raft::metadata::{
    CommandBatch, Endpoint, FenceBroker, MetadataImage, RegisterBroker, UnfenceBroker,
};
use chronik_raft::{
    BarrierDone, InMemoryMetadata, LivenessChange, MetadataListener, MetadataLog, ProposalDone, ProposeError,
    QuorumState,
};
use chronik_types::{ErrorCode, MonotonicMs, NodeId, Now, Offset, Term, TimestampMs};
use parking_lot::Mutex;

use crate::PreviousLife;
use crate::broker::{Broker, BrokerParts};
use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::connection::{Connection, ConnectionId};
use crate::partition::Partition;
use crate::reply::{Reply, ResponsePart};

use disk::TestDisk;

/// The broker under test.
const NODE: NodeId = NodeId(1);
/// Where its logs are.
const LOG_DIR: &str = "/data";
/// The address that the client dialled.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9092);

/// A clock that is moved by hand.
#[derive(Default)]
struct ManualClock(Mutex<u64>);

impl Clock for ManualClock {
    fn now(&self) -> Now {
        let ms = *self.0.lock();
        Now { monotonic: MonotonicMs(ms), wall: TimestampMs(1_000_000 + i64::try_from(ms).unwrap()) }
    }
}

/// A metadata log that keeps proposals back for as long as it is told to.
struct HeldMetadata {
    inner: InMemoryMetadata,
    held: Mutex<Option<Vec<(CommandBatch, ProposalDone)>>>,
    /// An image that can be seen already, and of which the listener has not been told.
    ahead: Mutex<Option<Arc<MetadataImage>>>,
    contact_until: Mutex<MonotonicMs>,
}

impl HeldMetadata {
    fn new() -> Self {
        Self {
            inner: InMemoryMetadata::new(NODE),
            held: Mutex::new(None),
            ahead: Mutex::new(None),
            contact_until: Mutex::new(MonotonicMs(u64::MAX)),
        }
    }

    fn hold(&self) {
        *self.held.lock() = Some(Vec::new());
    }

    /// Loses what was kept back, and holds no more; gives how many proposals there were.
    fn refuse(&self) -> usize {
        self.end_hold(|_, done| done(Err(ProposeError::Busy)))
    }

    /// Applies what was kept back, and holds no more; gives how many proposals there were.
    fn release(&self) -> usize {
        self.end_hold(|batch, done| self.inner.propose(batch, done))
    }

    fn end_hold(&self, deal_with: impl Fn(CommandBatch, ProposalDone)) -> usize {
        let held = self.held.lock().take().unwrap_or_default();
        let count = held.len();
        for (batch, done) in held {
            deal_with(batch, done);
        }
        count
    }
}

impl MetadataLog for HeldMetadata {
    fn propose(&self, batch: CommandBatch, done: ProposalDone) {
        if let Some(held) = &mut *self.held.lock() {
            held.push((batch, done));
            return;
        }
        self.inner.propose(batch, done);
    }

    fn propose_as_leader(&self, term: Term, batch: CommandBatch, done: ProposalDone) {
        self.inner.propose_as_leader(term, batch, done);
    }

    fn barrier(&self, done: BarrierDone) {
        self.inner.barrier(done);
    }

    fn contact_until(&self) -> MonotonicMs {
        *self.contact_until.lock()
    }

    fn image(&self) -> Arc<MetadataImage> {
        self.ahead.lock().clone().unwrap_or_else(|| self.inner.image())
    }

    fn quorum(&self) -> QuorumState {
        self.inner.quorum()
    }

    fn subscribe(&self, listener: MetadataListener) {
        self.inner.subscribe(listener);
    }
}

/// A broker and a client of it.
pub(crate) struct Fixture {
    pub(crate) broker: Arc<Broker>,
    metadata: Arc<HeldMetadata>,
    clock: Arc<ManualClock>,
    connection: Arc<Connection>,
    disk: TestDisk,
}

/// The answer to a request that may still be under way.
type Pending = Arc<Mutex<Option<Reply>>>;

impl Fixture {
    fn new() -> Self {
        Self::with_config(BrokerConfig::default())
    }

    fn with_config(config: BrokerConfig) -> Self {
        let metadata = Arc::new(HeldMetadata::new());
        Self::start(config, metadata, Arc::default(), TestDisk::default())
    }

    /// The same node after an orderly end: another broker on the same disk and metadata.
    fn restart(self) -> Self {
        let Self { broker, metadata, clock, disk, .. } = self;
        broker.stop_waiting(clock.now());
        broker.logs.shutdown(clock.now()).unwrap();
        Self::start(broker.config.clone(), metadata, clock, disk)
    }

    fn start(
        config: BrokerConfig,
        metadata: Arc<HeldMetadata>,
        clock: Arc<ManualClock>,
        disk: TestDisk,
    ) -> Self {
        let broker = Self::begin(config, &metadata, &clock, &disk, None);
        Self::enter(broker, metadata, clock, disk)
    }

    /// Registers the broker and brings it into service.
    fn enter(
        broker: Arc<Broker>,
        metadata: Arc<HeldMetadata>,
        clock: Arc<ManualClock>,
        disk: TestDisk,
    ) -> Self {
        broker.register(Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")));
        // A single node is in service once it is registered; in a cluster the controller has to hear of it.
        broker.liveness_changed(Term(1), &[LivenessChange::Returned { node: NODE }]);
        let fixture = Self { broker, metadata, clock, connection: connection(1), disk };
        assert!(fixture.image().broker(NODE).is_some_and(|broker| !broker.fenced));
        fixture
    }

    /// A broker that has not registered yet.
    fn begin(
        config: BrokerConfig,
        metadata: &Arc<HeldMetadata>,
        clock: &Arc<ManualClock>,
        disk: &TestDisk,
        previous_life: Option<PreviousLife>,
    ) -> Arc<Broker> {
        Self::begin_with(config, metadata, clock, disk, previous_life, Arc::new(crate::NoPeerClient))
    }

    /// One that reaches others by `peers`.
    fn begin_with(
        config: BrokerConfig,
        metadata: &Arc<HeldMetadata>,
        clock: &Arc<ManualClock>,
        disk: &TestDisk,
        previous_life: Option<PreviousLife>,
        peers: Arc<dyn crate::PeerClient>,
    ) -> Arc<Broker> {
        let starting = LogManager::open(
            Arc::new(disk.clone()),
            vec![PathBuf::from(LOG_DIR)],
            ManagerOptions::default(),
            Arc::new(|_: &str| Arc::new(LogConfig::default())),
            clock.now(),
        )
        .unwrap();
        while starting.recover_next(clock.now()) {}
        // Another process has another incarnation.
        let seed = if previous_life.is_some() { [8; 32] } else { [7; 32] };
        let broker = Broker::new(BrokerParts {
            config,
            metadata: Arc::clone(metadata) as Arc<dyn MetadataLog>,
            logs: starting.finish(clock.now()),
            peers,
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            previous_life,
            seed,
        });
        let told = Arc::downgrade(&broker);
        metadata.subscribe(Box::new(move |image, delta| {
            if let Some(broker) = told.upgrade() {
                broker.metadata_changed(image, delta);
            }
        }));
        broker
    }

    fn image(&self) -> Arc<MetadataImage> {
        self.metadata.image()
    }

    /// Adds another broker to the cluster.
    fn add_broker(&self, id: i32, is_fenced: bool) {
        let endpoint = Endpoint {
            listener: "PLAINTEXT".to_owned(),
            host: format!("host-{id}"),
            port: 9092,
            security_protocol: 0,
        };
        let node = NodeId(id);
        let mut commands =
            vec![RegisterBroker::new(node, 5, vec![endpoint]).into(), UnfenceBroker::new(node, None).into()];
        if is_fenced {
            commands.push(FenceBroker::new(node, None).into());
        }
        self.metadata.propose(CommandBatch::new(commands), Box::new(|outcome| assert!(outcome.is_ok())));
    }

    /// Sends a request; the answer comes into the slot, at once or later.
    fn send<Q: Message>(&self, version: i16, request: &Q) -> Pending {
        let frame = encode_request(77, Some("tests"), request, version).unwrap();
        self.send_frame(&frame.slice(FRAME_LENGTH_BYTES..))
    }

    fn send_frame(&self, frame: &Bytes) -> Pending {
        let pending = Pending::default();
        let slot = Arc::clone(&pending);
        let responder = Box::new(move |reply| {
            let earlier = slot.lock().replace(reply);
            assert!(earlier.is_none(), "a request is answered once");
        });
        self.broker.handle(self.clock.now(), &self.connection, BytesMut::from(frame.as_ref()), responder);
        pending
    }

    /// Sends a request that is answered at once.
    fn call<Q: Message, R: Message>(&self, version: i16, request: &Q) -> R {
        response(&self.send(version, request), version)
    }

    /// Moves the clock and lets what is due happen.
    fn pass(&self, ms: u64) {
        *self.clock.0.lock() += ms;
        self.broker.run_timers(self.clock.now());
    }

    /// Makes a topic by request.
    fn create_topic(&self, name: &str, partition_count: i32, configs: &[(&str, &str)]) {
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partition_count,
            replication_factor: 1,
            configs: configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig {
                    name: (*name).to_owned(),
                    value: Some((*value).to_owned()),
                })
                .collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let response: CreateTopicsResponse = self.call(7, &request);
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    fn partition(&self, topic: &str, index: i32) -> Arc<Partition> {
        self.broker.partition_by_name(topic, index).unwrap()
    }

    /// Appends one batch with a record at each of these times; gives its first offset.
    fn append(&self, topic: &str, index: i32, timestamps: &[i64], options: BatchOptions) -> i64 {
        let mut builder = BatchBuilder::new(options);
        for timestamp in timestamps {
            builder.append(TimestampMs(*timestamp), None, Some(b"value"), &[]).unwrap();
        }
        let first = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&first);
        self.partition(topic, index).append(
            self.clock.now(),
            builder.finish().unwrap(),
            AppendOrigin::Client,
            Box::new(move |_, appended| *slot.lock() = Some(appended.unwrap().first_offset)),
        );
        let first: Offset = first.lock().take().expect("appended at once");
        first.get()
    }
}

fn connection(id: u64) -> Arc<Connection> {
    let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_000);
    Arc::new(Connection::new(ConnectionId(id), LOCAL, peer))
}

/// The answer that has come.
fn response<R: Message>(pending: &Pending, version: i16) -> R {
    let reply = pending.lock().take();
    let Some(Reply::Response(answer)) = reply else { panic!("{} is not answered: {reply:?}", R::NAME) };
    let mut frame = BytesMut::new();
    for part in &answer.parts {
        match part {
            ResponsePart::Bytes(bytes) => frame.extend_from_slice(bytes),
            ResponsePart::File { .. } => panic!("these answers hold no records"),
        }
    }
    let frame = frame.freeze();
    let length = i32::from_be_bytes(frame[..FRAME_LENGTH_BYTES].try_into().unwrap());
    assert_eq!(usize::try_from(length), Ok(frame.len() - FRAME_LENGTH_BYTES));
    let (correlation_id, message) = decode_response(&frame.slice(FRAME_LENGTH_BYTES..), version).unwrap();
    assert_eq!(correlation_id, 77);
    message
}

/// An error code by its number, for assertions that read well.
fn code(number: i16) -> ErrorCode {
    ErrorCode::from_code(number).unwrap()
}

/// Errors by name, for answers whose order says nothing.
fn by_name<'a>(results: impl Iterator<Item = (&'a str, i16)>) -> BTreeMap<&'a str, ErrorCode> {
    results.map(|(name, number)| (name, code(number))).collect()
}
