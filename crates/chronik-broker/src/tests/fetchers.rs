//! What this broker asks of the leaders that it follows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::{Crash, Disk as _, Fault, FaultRule, Operation};
use chronik_protocol::frame::{FRAME_LENGTH_BYTES, RequestHeader, decode_request, encode_response};
use chronik_protocol::messages::fetch_request::FetchPartition;
use chronik_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use chronik_protocol::messages::{FetchRequest, FetchResponse};
use chronik_protocol::wire::Reader;
use chronik_raft::metadata::{DeleteTopic, UpdateIsr};
use chronik_types::{NodeId, PartitionIndex};
use parking_lot::Mutex;

use super::leadership::{TOPIC, apply, create_shared, fetched, lead, three_brokers};
use super::{Fixture, LOG_DIR};
use crate::clock::Clock as _;
use crate::{Lane, PeerAnswer, PeerClient};

/// The way to leaders that never answer.
#[derive(Default)]
struct Silent(Mutex<Vec<(NodeId, Bytes, PeerAnswer)>>);

impl PeerClient for Silent {
    fn call(&self, to: NodeId, _lane: Lane, _address: (String, u16), frame: Bytes, done: PeerAnswer) {
        self.0.lock().push((to, frame, done));
    }
}

/// The way to a leader that answers what it is told to.
#[derive(Default)]
struct Told(Mutex<BTreeMap<Lane, (FetchRequest, PeerAnswer)>>);

impl PeerClient for Told {
    fn call(&self, _to: NodeId, lane: Lane, _address: (String, u16), frame: Bytes, done: PeerAnswer) {
        let earlier = self.0.lock().insert(lane, (request_of(&frame), done));
        assert!(earlier.is_none(), "one request is under way in each lane");
    }
}

impl Told {
    /// Whether the request under way in a lane names `shared-0`, if there is one under way.
    fn names(&self, lane: Lane) -> Option<bool> {
        let requests = self.0.lock();
        requests.get(&lane).map(|(request, _)| request.topics.iter().any(|topic| topic.topic_id == TOPIC))
    }

    /// Answers the request under way in a lane without records: with this high watermark of `shared-0`, or in silence.
    fn answer(&self, lane: Lane, high_watermark: Option<i64>) {
        let (_, done) = self.0.lock().remove(&lane).expect("a request is under way");
        let partition = |high_watermark| PartitionData { high_watermark, ..Default::default() };
        let topics = high_watermark.map(|high_watermark| FetchableTopicResponse {
            topic_id: TOPIC,
            partitions: vec![partition(high_watermark)],
            ..Default::default()
        });
        let session_id = if lane == Lane::Main { 1 } else { 2 };
        let body =
            FetchResponse { session_id, responses: topics.into_iter().collect(), ..Default::default() };
        done(Ok(encode_response(0, &body, 16).unwrap().slice(FRAME_LENGTH_BYTES..)));
    }
}

fn request_of(frame: &Bytes) -> FetchRequest {
    let frame = frame.slice(FRAME_LENGTH_BYTES..);
    let mut reader = Reader::new(&frame);
    let header = RequestHeader::decode(&mut reader).unwrap();
    decode_request(&mut reader, &header).unwrap()
}

impl Silent {
    /// What the leaders have been asked of [`TOPIC`].
    fn asked(&self) -> Vec<(NodeId, FetchPartition)> {
        let requests = self.0.lock();
        let of_topic = requests.iter().flat_map(|(to, frame, _)| {
            let topics = request_of(frame).topics.into_iter().filter(|topic| topic.topic_id == TOPIC);
            topics.flat_map(|topic| topic.partitions).map(|partition| (*to, partition))
        });
        of_topic.collect()
    }
}

/// Broker 2 leads `shared-0`, which is empty. What this broker holds of it cannot be recovered, for want of room or because
/// its directory cannot be read.
fn follower_of_empty(is_full: bool) -> (Fixture, Arc<Silent>) {
    let fixture = three_brokers();
    fixture.partition("shared", 0);
    lead(&fixture, 2);
    fixture.pass(60_000);
    fixture.broker.logs.maintain(fixture.clock.now());
    let Fixture { broker, metadata, clock, disk, .. } = fixture;
    let config = broker.config.clone();
    drop(broker);
    disk.crash(Crash::Process);
    if is_full {
        disk.remove_file(&Path::new(LOG_DIR).join("shared-0/partition.metadata")).unwrap();
        disk.set_capacity_bytes(Some(disk.used_bytes()));
    } else {
        disk.inject(FaultRule::always(Operation::ReadDir, "shared-0", Fault::Io));
    }
    let peers = Arc::new(Silent::default());
    let reached = Arc::clone(&peers) as Arc<dyn PeerClient>;
    let broker = Fixture::begin_with(config, &metadata, &clock, &disk, None, reached);
    assert_eq!(broker.logs.failed().len(), 1);
    let fixture = Fixture::enter(broker, metadata, clock, disk);
    fixture.broker.start_replica_checks(fixture.clock.now());
    (fixture, peers)
}

fn pass_seconds(fixture: &Fixture, count: u64) {
    for _ in 0..count {
        fixture.broker.logs.maintain(fixture.clock.now());
        fixture.pass(1_000);
    }
}

/// A leader takes who asks for what follows its last record for one who has all before it. Of an empty partition that is
/// everybody who asks from the beginning.
#[test]
fn a_replica_that_cannot_open_its_log_asks_for_nothing_and_does_not_enter_the_isr() {
    for is_full in [false, true] {
        let (fixture, peers) = follower_of_empty(is_full);
        for leader in [3, 2] {
            pass_seconds(&fixture, 3);
            lead(&fixture, leader);
        }
        pass_seconds(&fixture, 3);
        assert!(peers.asked().is_empty(), "{is_full}: {:?}", peers.asked());
        fixture.disk.clear_faults();
        fixture.disk.set_capacity_bytes(None);
        pass_seconds(&fixture, 60);
        if !is_full {
            assert!(peers.asked().is_empty(), "what could not be read is left to the next process");
            continue;
        }
        let asked = peers.asked();
        let [(leader, partition)] = asked.as_slice() else { panic!("it asks its leader: {asked:?}") };
        assert_eq!((leader.get(), partition.partition, partition.fetch_offset), (2, 0, 0));
        assert_eq!(partition.current_leader_epoch, fixture.partition("shared", 0).leader_epoch().get());
        assert!(fixture.broker.logs.failed().is_empty());

        let leader = three_brokers();
        let isr = [1, 3].map(NodeId);
        apply(&leader, vec![UpdateIsr::new(TOPIC, PartitionIndex(0), &isr, None).into()]);
        leader.partition("shared", 0);
        fetched(&leader, 2, partition.fetch_offset, partition.log_start_offset);
        let image = leader.image();
        let state = image.topic_by_id(TOPIC).and_then(|topic| topic.partition(PartitionIndex(0))).unwrap();
        assert!(state.isr.contains(&NodeId(2)), "{:?}", state.isr);
    }
}

/// An answer without records says nothing while its replica lacks committed ones: it was full before its turn came.
#[test]
fn a_partition_is_in_the_lane_of_newcomers_while_it_lacks_committed_records_and_no_longer() {
    let fixture = three_brokers();
    let Fixture { broker, metadata, clock, disk, .. } = fixture;
    let config = broker.config.clone();
    drop(broker);
    disk.crash(Crash::Process);
    let peers = Arc::new(Told::default());
    let reached = Arc::clone(&peers) as Arc<dyn PeerClient>;
    let broker = Fixture::begin_with(config, &metadata, &clock, &disk, None, reached);
    let fixture = Fixture::enter(broker, metadata, clock, disk);
    lead(&fixture, 2);
    let (main, newcomers) = (Lane::Main, Lane::Newcomers);
    assert_eq!((peers.names(newcomers), peers.names(main)), (Some(true), None));
    peers.answer(newcomers, Some(9));
    assert_eq!((peers.names(newcomers), peers.names(main)), (Some(false), None), "it lacks nine");
    peers.answer(newcomers, None);
    assert_eq!((peers.names(newcomers), peers.names(main)), (Some(false), None), "and still does");
    peers.answer(newcomers, Some(0));
    assert_eq!(peers.names(main), Some(true), "it keeps up");
    peers.answer(main, None);
    assert_eq!(peers.names(main), Some(false), "and goes on to");
    if peers.names(newcomers).is_some() {
        peers.answer(newcomers, None);
    }
    peers.answer(main, Some(3));
    assert_eq!((peers.names(newcomers), peers.names(main)), (Some(true), None), "it has fallen behind");
    peers.answer(newcomers, None);
    assert_eq!(
        (peers.names(newcomers), peers.names(main)),
        (Some(false), None),
        "and is there until it is told more"
    );
}

/// Nobody goes back to what is no business of this broker any more.
#[test]
fn a_partition_that_could_not_be_followed_is_forgotten_with_its_topic_and_when_it_is_led_here() {
    let (fixture, peers) = follower_of_empty(true);
    lead(&fixture, 1);
    fixture.disk.set_capacity_bytes(None);
    pass_seconds(&fixture, 60);
    assert!(fixture.partition("shared", 0).check_role().is_ok());
    assert!(peers.asked().is_empty(), "{:?}", peers.asked());

    let (fixture, peers) = follower_of_empty(true);
    apply(&fixture, vec![DeleteTopic::new(TOPIC).into()]);
    fixture.disk.set_capacity_bytes(None);
    pass_seconds(&fixture, 60);
    assert!(peers.asked().is_empty(), "{:?}", peers.asked());
    // The next of its name is followed at once.
    apply(&fixture, create_shared(TOPIC));
    lead(&fixture, 2);
    assert_eq!(peers.asked().len(), 1, "{:?}", peers.asked());
}
