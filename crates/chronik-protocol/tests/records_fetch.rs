//! The hand-written Fetch against the generated one, over valid and broken bytes, at every version.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use bytes::{Bytes, BytesMut};
use chronik_protocol::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartitionResponse, FetchRequest, FetchResponse,
    FetchTopicResponse, LeaderIdAndEpoch, NodeEndpoint, Payload, Segment, SnapshotId, TopicRef,
};
use chronik_protocol::frame::{decode_response, encode_response};
use chronik_protocol::messages::{Message, fetch_request as generated, fetch_response as answered};
use chronik_protocol::wire::{DecodeError, Reader, Writer};
use chronik_types::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerId, TopicId};

const VERSIONS: std::ops::RangeInclusive<i16> = 4..=18;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 17
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap() % limit
    }

    fn i64(&mut self) -> i64 {
        self.next().wrapping_mul(0x9e37_79b9_7f4a_7c15).cast_signed()
    }

    fn i32(&mut self) -> i32 {
        u32::try_from(self.next() & 0xffff_ffff).unwrap().cast_signed()
    }

    fn id(&mut self) -> TopicId {
        TopicId(u128::from(self.next()) << 64 | u128::from(self.next()))
    }

    fn text(&mut self, length_max: usize) -> String {
        (0..self.below(length_max + 1)).map(|_| ['a', 'é', '.', '漢', '7'][self.below(5)]).collect()
    }

    fn some<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| value(self))
    }

    fn list<T>(&mut self, count_max: usize, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(count_max + 1)).map(|_| value(self)).collect()
    }

    /// A topic's name or id, whichever the version has.
    fn topic(&mut self, version: i16) -> (String, TopicId) {
        if version >= 13 { (String::new(), self.id()) } else { (self.text(60), TopicId::ZERO) }
    }
}

fn random_request(random: &mut Random, version: i16) -> generated::FetchRequest {
    let since = |first| version >= first;
    generated::FetchRequest {
        cluster_id: random.some(|random| random.text(9)).filter(|_| since(12)),
        replica_id: if since(15) { -1 } else { random.i32() },
        replica_state: if since(15) && random.below(2) == 0 {
            generated::ReplicaState { replica_id: random.i32(), replica_epoch: random.i64() }
        } else {
            generated::ReplicaState::default()
        },
        max_wait_ms: random.i32(),
        min_bytes: random.i32(),
        max_bytes: random.i32(),
        isolation_level: i8::try_from(random.below(2)).unwrap(),
        session_id: if since(7) { random.i32() } else { 0 },
        session_epoch: if since(7) { random.i32() } else { -1 },
        topics: random.list(4, |random| {
            let (topic, topic_id) = random.topic(version);
            let partitions = random.list(5, |random| generated::FetchPartition {
                partition: random.i32(),
                current_leader_epoch: if since(9) { random.i32() } else { -1 },
                fetch_offset: random.i64(),
                last_fetched_epoch: if since(12) { random.i32() } else { -1 },
                log_start_offset: if since(5) { random.i64() } else { -1 },
                partition_max_bytes: random.i32(),
                replica_directory_id: if since(17) && random.below(2) == 0 {
                    random.id()
                } else {
                    TopicId::ZERO
                },
                high_watermark: if since(18) && random.below(2) == 0 { random.i64() } else { i64::MAX },
            });
            generated::FetchTopic { topic, topic_id, partitions }
        }),
        forgotten_topics_data: random.list(if since(7) { 3 } else { 0 }, |random| {
            let (topic, topic_id) = random.topic(version);
            generated::ForgottenTopic { topic, topic_id, partitions: random.list(4, Random::i32) }
        }),
        rack_id: if since(11) { random.text(9) } else { String::new() },
    }
}

/// What was parsed, in the generated structure.
fn as_generated(request: &FetchRequest, version: i16) -> generated::FetchRequest {
    let name = |topic: &TopicRef| match topic {
        TopicRef::Name(name) => (name.clone(), TopicId::ZERO),
        TopicRef::Id(id) => (String::new(), *id),
    };
    let (replica_id, tagged_replica_id) =
        if version >= 15 { (-1, request.replica_id.get()) } else { (request.replica_id.get(), -1) };
    generated::FetchRequest {
        cluster_id: request.cluster_id.clone(),
        replica_id,
        replica_state: generated::ReplicaState {
            replica_id: tagged_replica_id,
            replica_epoch: request.replica_epoch,
        },
        max_wait_ms: request.max_wait_ms,
        min_bytes: request.min_bytes,
        max_bytes: request.max_bytes,
        isolation_level: request.isolation_level,
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        topics: request
            .topics
            .iter()
            .map(|topic| {
                let (name, topic_id) = name(&topic.topic);
                let partitions = topic.partitions.iter().map(|partition| generated::FetchPartition {
                    partition: partition.index.get(),
                    current_leader_epoch: partition.current_leader_epoch.get(),
                    fetch_offset: partition.fetch_offset.get(),
                    last_fetched_epoch: partition.last_fetched_epoch.get(),
                    log_start_offset: partition.log_start_offset.get(),
                    partition_max_bytes: partition.max_bytes,
                    replica_directory_id: partition.replica_directory_id,
                    high_watermark: partition.high_watermark.get(),
                });
                generated::FetchTopic { topic: name, topic_id, partitions: partitions.collect() }
            })
            .collect(),
        forgotten_topics_data: request
            .forgotten_topics
            .iter()
            .map(|topic| {
                let (name, topic_id) = name(&topic.topic);
                let partitions = topic.partitions.iter().map(|partition| partition.get()).collect();
                generated::ForgottenTopic { topic: name, topic_id, partitions }
            })
            .collect(),
        rack_id: request.rack_id.clone(),
    }
}

/// Both readers on the same bytes; they must agree to the last word of an error. Says whether there was a request.
fn check(body: &[u8], version: i16) -> bool {
    let shared = Bytes::copy_from_slice(body);
    let mut reader = Reader::new(&shared);
    let expected = generated::FetchRequest::decode(&mut reader, version)
        .and_then(|request| reader.finish().map(|()| request));
    let found = FetchRequest::parse(&mut Reader::new(&shared), version)
        .map(|request| as_generated(&request, version));
    match (&found, &expected) {
        // What a structure takes in memory differs.
        (Err(DecodeError::Budget { .. }), _) | (_, Err(DecodeError::Budget { .. })) => {}
        _ => assert_eq!(found, expected, "version {version} of {body:02x?}"),
    }
    found.is_ok()
}

#[test]
fn requests_are_read_like_the_generated_codec_reads_them() {
    let mut random = Random(1);
    let mut failures = 0;
    for version in VERSIONS {
        for _ in 0..100 {
            let mut writer = Writer::new();
            random_request(&mut random, version).encode(&mut writer, version).unwrap();
            let body = writer.into_bytes_mut();
            assert!(check(&body, version));
            for _ in 0..10 {
                assert!(!check(&body[..random.below(body.len())], version));
                let mut flipped = body.clone();
                for _ in 0..=random.below(3) {
                    let position = random.below(flipped.len());
                    flipped[position] = [0, 0x7f, 0x80, 0xff, flipped[position] ^ 1][random.below(5)];
                }
                failures += usize::from(!check(&flipped, version));
            }
            let mut longer = body.clone();
            longer.extend_from_slice(&[0]);
            assert!(!check(&longer, version));
        }
    }
    assert!(failures > 1_000, "the bytes were broken {failures} times only");
    for version in [3, 19] {
        assert!(!check(&[0; 64], version));
    }
}

/// Record data of which the writer may know nothing but the length.
#[derive(Clone, Debug, PartialEq)]
struct Opaque(Vec<u8>);

impl Payload for Opaque {
    fn len_bytes(&self) -> usize {
        self.0.len()
    }
}

fn random_response(random: &mut Random, version: i16) -> FetchResponse<Opaque> {
    FetchResponse {
        throttle_time_ms: random.i32(),
        error_code: ErrorCode::ALL[random.below(ErrorCode::ALL.len())],
        session_id: random.i32(),
        topics: random.list(3, |random| FetchTopicResponse {
            topic: match random.topic(version) {
                (_, id) if version >= 13 => TopicRef::Id(id),
                (name, _) => TopicRef::Name(name),
            },
            partitions: random.list(4, |random| FetchPartitionResponse {
                index: PartitionIndex(random.i32()),
                error_code: ErrorCode::ALL[random.below(ErrorCode::ALL.len())],
                high_watermark: Offset(random.i64()),
                last_stable_offset: Offset(random.i64()),
                log_start_offset: Offset(random.i64()),
                diverging_epoch: random.some(|random| EpochEndOffset {
                    epoch: LeaderEpoch(random.i32()),
                    end_offset: Offset(random.i64()),
                }),
                current_leader: random.some(|random| LeaderIdAndEpoch {
                    leader_id: NodeId(random.i32()),
                    leader_epoch: LeaderEpoch(random.i32()),
                }),
                snapshot_id: random.some(|random| SnapshotId {
                    end_offset: Offset(random.i64()),
                    epoch: LeaderEpoch(random.i32()),
                }),
                aborted_transactions: random.some(|random| {
                    random.list(2, |random| AbortedTransaction {
                        producer_id: ProducerId(random.i64()),
                        first_offset: Offset(random.i64()),
                    })
                }),
                preferred_read_replica: NodeId(random.i32()),
                // None, one or several pieces, some of them empty.
                records: random.list(3, |random| Opaque(vec![9; random.below(3) * random.below(200)])),
            }),
        }),
        node_endpoints: random.list(2, |random| NodeEndpoint {
            node_id: NodeId(random.i32()),
            host: random.text(200),
            port: random.i32(),
            rack: random.some(|random| random.text(5)),
        }),
    }
}

/// The same response in the generated structure, without what the version leaves out.
fn response_as_generated(response: &FetchResponse<Opaque>, version: i16) -> answered::FetchResponse {
    let since = |first| version >= first;
    let partition = |partition: &FetchPartitionResponse<Opaque>| answered::PartitionData {
        partition_index: partition.index.get(),
        error_code: partition.error_code.code(),
        high_watermark: partition.high_watermark.get(),
        last_stable_offset: partition.last_stable_offset.get(),
        log_start_offset: if since(5) { partition.log_start_offset.get() } else { -1 },
        diverging_epoch: partition
            .diverging_epoch
            .filter(|_| since(12))
            .map(|diverging| answered::EpochEndOffset {
                epoch: diverging.epoch.get(),
                end_offset: diverging.end_offset.get(),
            })
            .unwrap_or_default(),
        current_leader: partition
            .current_leader
            .filter(|_| since(12))
            .map(|leader| answered::LeaderIdAndEpoch {
                leader_id: leader.leader_id.get(),
                leader_epoch: leader.leader_epoch.get(),
            })
            .unwrap_or_default(),
        snapshot_id: partition
            .snapshot_id
            .filter(|_| since(12))
            .map(|snapshot| answered::SnapshotId {
                end_offset: snapshot.end_offset.get(),
                epoch: snapshot.epoch.get(),
            })
            .unwrap_or_default(),
        aborted_transactions: partition.aborted_transactions.as_ref().map(|transactions| {
            let transactions = transactions.iter().map(|transaction| answered::AbortedTransaction {
                producer_id: transaction.producer_id.get(),
                first_offset: transaction.first_offset.get(),
            });
            transactions.collect()
        }),
        preferred_read_replica: if since(11) { partition.preferred_read_replica.get() } else { -1 },
        records: Some(partition.records.iter().flat_map(|records| records.0.clone()).collect()),
    };
    let topic = |topic: &FetchTopicResponse<Opaque>| {
        let (name, topic_id) = match &topic.topic {
            TopicRef::Name(name) => (name.clone(), TopicId::ZERO),
            TopicRef::Id(id) => (String::new(), *id),
        };
        let partitions = topic.partitions.iter().map(partition).collect();
        answered::FetchableTopicResponse { topic: name, topic_id, partitions }
    };
    answered::FetchResponse {
        throttle_time_ms: response.throttle_time_ms,
        error_code: if since(7) { response.error_code.code() } else { 0 },
        session_id: if since(7) { response.session_id } else { 0 },
        responses: response.topics.iter().map(topic).collect(),
        node_endpoints: response
            .node_endpoints
            .iter()
            .filter(|_| since(16))
            .map(|endpoint| answered::NodeEndpoint {
                node_id: endpoint.node_id.get(),
                host: endpoint.host.clone(),
                port: endpoint.port,
                rack: endpoint.rack.clone(),
            })
            .collect(),
    }
}

fn flatten(segments: &[Segment<Opaque>]) -> Bytes {
    let mut frame = BytesMut::new();
    for segment in segments {
        match segment {
            Segment::Bytes(bytes) => {
                assert!(!bytes.is_empty(), "a segment without bytes costs a write");
                frame.extend_from_slice(bytes);
            }
            Segment::Payload(payload) => {
                assert!(payload.len_bytes() > 0, "a segment without bytes costs a write");
                frame.extend_from_slice(&payload.0);
            }
        }
    }
    frame.freeze()
}

#[test]
fn responses_are_the_bytes_of_the_generated_codec() {
    let mut random = Random(2);
    for version in VERSIONS {
        for _ in 0..300 {
            let response = random_response(&mut random, version);
            let expected = response_as_generated(&response, version);
            let frame = flatten(&response.into_segments(77, version).unwrap());
            assert_eq!(frame, encode_response(77, &expected, version).unwrap(), "version {version}");
            assert_eq!(decode_response(&frame.slice(4..), version), Ok((77, expected)));
        }
    }
}

#[test]
fn record_data_is_handed_on_and_not_copied() {
    let data = Bytes::from(vec![1; 100_000]);
    let mut partition = FetchPartitionResponse::error(PartitionIndex(0), ErrorCode::None);
    partition.records = vec![data.slice(..60_000), data.slice(60_000..)];
    let response = FetchResponse {
        topics: vec![FetchTopicResponse {
            topic: TopicRef::Name("t".to_owned()),
            partitions: vec![partition],
        }],
        ..FetchResponse::default()
    };
    let segments = response.into_segments(1, 11).unwrap();
    let [Segment::Bytes(head), Segment::Payload(first), Segment::Payload(second)] = &segments[..] else {
        panic!("a head and two pieces: {segments:?}");
    };
    assert_eq!(first.as_ptr(), data.as_ptr());
    assert_eq!(second.as_ptr(), data.slice(60_000..).as_ptr());
    let length = i32::from_be_bytes(*head.first_chunk().unwrap());
    assert_eq!(usize::try_from(length), Ok(head.len() - 4 + data.len()));
    // The last field of the head is the length of the data; version 11 has nothing after the data.
    assert_eq!(head[head.len() - 4..], 100_000_i32.to_be_bytes());
}

#[test]
fn no_data_is_a_length_of_zero() {
    for (version, length) in
        [(4, &[0, 0, 0, 0][..]), (11, &[0, 0, 0, 0]), (12, &[1, 0, 0, 0]), (18, &[1, 0, 0, 0])]
    {
        let partition = FetchPartitionResponse::<Bytes>::error(PartitionIndex(0), ErrorCode::None);
        let topic = if version >= 13 { TopicRef::Id(TopicId(1)) } else { TopicRef::Name("t".to_owned()) };
        let response = FetchResponse {
            topics: vec![FetchTopicResponse { topic, partitions: vec![partition] }],
            ..FetchResponse::default()
        };
        let segments = response.into_segments(1, version).unwrap();
        let [Segment::Bytes(frame)] = &segments[..] else { panic!("one segment: {segments:?}") };
        // In flexible versions, the tags of partition, topic and response follow.
        assert!(frame.ends_with(length), "version {version}: {frame:02x?}");
    }
}

/// A file region of more than any frame can hold.
struct Huge;

impl Payload for Huge {
    fn len_bytes(&self) -> usize {
        1 << 30
    }
}

#[test]
fn more_than_a_frame_can_hold_is_an_error() {
    let response = |count| {
        let partitions = (0..count).map(|index| {
            let mut partition = FetchPartitionResponse::error(PartitionIndex(index), ErrorCode::None);
            partition.records = vec![Huge];
            partition
        });
        FetchResponse {
            topics: vec![FetchTopicResponse {
                topic: TopicRef::Name("t".to_owned()),
                partitions: partitions.collect(),
            }],
            ..FetchResponse::default()
        }
    };
    assert!(response(1).into_segments(1, 12).is_ok());
    assert!(response(2).into_segments(1, 12).is_err());
    assert!(response(0).into_segments(1, 13).is_err(), "version 13 has no names");
}
