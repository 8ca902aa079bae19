//! The hand-written Produce against the generated one, over valid and broken bytes, at every version.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use bytes::{Bytes, BytesMut};
use chronik_protocol::api::ApiKey;
use chronik_protocol::frame::{FrameError, RequestHeader, encode_request, encode_response};
use chronik_protocol::messages::{Message, produce_request as generated, produce_response as answered};
use chronik_protocol::produce::{
    LeaderIdAndEpoch, NodeEndpoint, ProducePartitionResponse, ProduceRequest, ProduceResponse,
    ProduceTopicResponse, RecordError, TopicRef,
};
use chronik_protocol::wire::{DecodeError, Reader, Writer};
use chronik_types::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, TimestampMs, TopicId};

const VERSIONS: std::ops::RangeInclusive<i16> = 3..=13;

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

    fn text(&mut self, length_max: usize) -> String {
        (0..self.below(length_max + 1)).map(|_| ['a', 'é', '.', '漢', '7'][self.below(5)]).collect()
    }

    fn some<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| value(self))
    }

    fn list<T>(&mut self, count_max: usize, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(count_max + 1)).map(|_| value(self)).collect()
    }
}

fn random_request(random: &mut Random, version: i16) -> generated::ProduceRequest {
    let by_id = version >= 13;
    generated::ProduceRequest {
        transactional_id: random.some(|random| random.text(200)),
        acks: i16::try_from(random.below(5)).unwrap() - 2,
        timeout_ms: random.i32(),
        topic_data: random.list(4, |random| generated::TopicProduceData {
            name: if by_id { String::new() } else { random.text(60) },
            topic_id: if by_id { TopicId(random.next().into()) } else { TopicId::ZERO },
            partition_data: random.list(5, |random| generated::PartitionProduceData {
                index: random.i32(),
                records: random.some(|random| {
                    let (length, byte) = (random.below(300), random.below(256));
                    Bytes::from(vec![u8::try_from(byte).unwrap(); length])
                }),
            }),
        }),
    }
}

/// What was parsed, in the generated structure.
fn as_generated(request: &ProduceRequest) -> generated::ProduceRequest {
    generated::ProduceRequest {
        transactional_id: request.transactional_id.clone(),
        acks: request.acks,
        timeout_ms: request.timeout_ms,
        topic_data: request
            .topics
            .iter()
            .map(|topic| {
                let (name, topic_id) = match &topic.topic {
                    TopicRef::Name(name) => (name.clone(), TopicId::ZERO),
                    TopicRef::Id(id) => (String::new(), *id),
                };
                let partitions = topic.partitions.iter().map(|partition| generated::PartitionProduceData {
                    index: partition.index.get(),
                    records: partition.records.as_ref().map(|records| Bytes::copy_from_slice(records)),
                });
                generated::TopicProduceData { name, topic_id, partition_data: partitions.collect() }
            })
            .collect(),
    }
}

fn encode(request: &generated::ProduceRequest, version: i16) -> BytesMut {
    let mut writer = Writer::new();
    request.encode(&mut writer, version).unwrap();
    writer.into_bytes_mut()
}

/// Both readers on the same bytes; they must agree to the last word of an error. Says whether there was a request.
fn check(body: &[u8], version: i16) -> bool {
    let shared = Bytes::copy_from_slice(body);
    let mut reader = Reader::new(&shared);
    let expected = generated::ProduceRequest::decode(&mut reader, version)
        .and_then(|request| reader.finish().map(|()| request));
    let found = ProduceRequest::parse(BytesMut::from(body), version).map(|request| as_generated(&request));
    match (&found, &expected) {
        // What a structure takes in memory differs.
        (Err(DecodeError::Budget { .. }), _) | (_, Err(DecodeError::Budget { .. })) => {}
        _ => assert_eq!(found, expected, "version {version} of {body:02x?}"),
    }
    found.is_ok()
}

#[test]
fn valid_requests_are_read_like_the_generated_codec_reads_them() {
    let mut random = Random(1);
    for version in VERSIONS {
        for _ in 0..300 {
            let request = random_request(&mut random, version);
            let body = encode(&request, version);
            assert!(check(&body, version));
        }
    }
}

#[test]
fn broken_requests_fail_like_the_generated_codec_fails() {
    let mut random = Random(2);
    let mut failures = 0;
    for version in VERSIONS {
        for _ in 0..60 {
            let body = encode(&random_request(&mut random, version), version);
            for _ in 0..20 {
                let cut = random.below(body.len());
                assert!(!check(&body[..cut], version));
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
        for _ in 0..500 {
            let noise: Vec<u8> = (0..random.below(60))
                .map(|_| [0, 1, 2, 0xff, random.next().to_le_bytes()[0]][random.below(5)])
                .collect();
            check(&noise, version);
        }
    }
    assert!(failures > 1_000, "the bytes were broken {failures} times only");
}

#[test]
fn unknown_tagged_fields_are_passed_over() {
    // Version 9 by hand, with one unknown tagged field on every level.
    let tag: &[u8] = &[1, 5, 3, 0xaa, 0xbb, 0xcc];
    let body = [
        &[0][..],
        &[0xff, 0xff],
        &[0, 0, 0, 9],
        &[2],
        &[2, b't'],
        &[2],
        &[0, 0, 0, 7],
        &[4, 1, 2, 3],
        tag,
        tag,
        tag,
    ]
    .concat();
    assert!(check(&body, 9));
    let request = ProduceRequest::parse(BytesMut::from(&body[..]), 9).unwrap();
    assert_eq!((request.acks, request.timeout_ms), (-1, 9));
    assert_eq!(request.topics[0].topic, TopicRef::Name("t".to_owned()));
    assert_eq!(request.topics[0].partitions[0].index, PartitionIndex(7));
    assert_eq!(request.topics[0].partitions[0].records.as_deref(), Some(&[1, 2, 3][..]));
}

#[test]
fn record_data_stays_where_it_lies() {
    let records = Bytes::from(vec![7; 5_000]);
    let partition = |index| generated::PartitionProduceData { index, records: Some(records.clone()) };
    let request = generated::ProduceRequest {
        topic_data: vec![
            generated::TopicProduceData {
                name: "a".to_owned(),
                partition_data: vec![partition(0), partition(1)],
                ..Default::default()
            },
            generated::TopicProduceData {
                name: "b".to_owned(),
                partition_data: vec![partition(2)],
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    let frame = encode_request(3, Some("client"), &request, 9).unwrap();
    let frame = BytesMut::from(&frame[4..]);
    let within = frame.as_ptr_range();
    let (header, request) = ProduceRequest::parse_frame(frame).unwrap();
    assert_eq!(
        header,
        RequestHeader {
            api_key: ApiKey::Produce,
            api_version: 9,
            correlation_id: 3,
            client_id: Some("client".to_owned())
        }
    );
    let mut partitions: Vec<_> = request.topics.into_iter().flat_map(|topic| topic.partitions).collect();
    assert_eq!(partitions.len(), 3);
    for (index, partition) in partitions.iter_mut().enumerate() {
        assert_eq!(partition.index, PartitionIndex(i32::try_from(index).unwrap()));
        let data = partition.records.as_mut().unwrap();
        assert!(within.contains(&data.as_ptr()), "the data was copied");
        data.fill(u8::try_from(index).unwrap());
    }
    for (index, partition) in partitions.iter().enumerate() {
        let expected = vec![u8::try_from(index).unwrap(); 5_000];
        assert_eq!(partition.records.as_deref(), Some(&expected[..]), "parts do not overlap");
    }
}

#[test]
fn other_frames_are_refused_by_name() {
    let parse = |bytes: &[u8]| ProduceRequest::parse_frame(BytesMut::from(bytes)).unwrap_err();
    assert_eq!(
        parse(&[0, 1, 0, 4, 0, 0, 0, 5]),
        FrameError::UnknownApi { api_key: 1, api_version: 4, correlation_id: 5 }
    );
    for version in [2, 14] {
        assert_eq!(
            parse(&[0, 0, 0, version, 0, 0, 0, 5]),
            FrameError::UnknownVersion {
                api_key: ApiKey::Produce,
                api_version: version.into(),
                correlation_id: 5
            }
        );
    }
    assert!(matches!(parse(&[0, 0, 0, 9, 0]), FrameError::Header(_)));
    assert!(matches!(parse(&[0, 0, 0, 9, 0, 0, 0, 5, 0, 9]), FrameError::Header(_)));
    assert!(matches!(
        parse(&[0, 0, 0, 9, 0, 0, 0, 5, 0xff, 0xff, 0, 0]),
        FrameError::Body { version: 9, .. }
    ));
}

#[test]
fn hostile_counts_are_refused_before_memory_is_taken() {
    // Flexible: no transactional id, acks, timeout, then a topic count.
    for count in
        [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff, 0xff, 0xff, 0x7f], &[0x80, 0x80, 0x80, 0x80, 0x10]]
    {
        let body = [&[0, 0, 1, 0, 0, 0, 0][..], count, &[0; 40]].concat();
        assert!(!check(&body, 9));
    }
    for count in [i32::MAX, -2, 100] {
        let body = [&[0xff, 0xff, 0, 1, 0, 0, 0, 0][..], &count.to_be_bytes(), &[0; 40]].concat();
        assert!(!check(&body, 3));
    }
    // Nulls for partitions: six bytes each in the frame, and many times that in memory.
    let count = 2_000_000_u32;
    let mut body = vec![0, 0, 1, 0, 0, 0, 0, 2, 2, b't'];
    let mut rest = count + 1;
    while rest >= 0x80 {
        body.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    body.push(u8::try_from(rest).unwrap());
    body.resize(body.len() + usize::try_from(count).unwrap() * 6 + 2, 0);
    let error = ProduceRequest::parse(BytesMut::from(&body[..]), 9).unwrap_err();
    assert!(matches!(error, DecodeError::Budget { .. }), "{error}");
}

fn random_response(random: &mut Random, version: i16) -> ProduceResponse {
    let by_id = version >= 13;
    ProduceResponse {
        throttle_time_ms: random.i32(),
        topics: random.list(3, |random| ProduceTopicResponse {
            topic: if by_id {
                TopicRef::Id(TopicId(random.next().into()))
            } else {
                TopicRef::Name(random.text(40))
            },
            partitions: random.list(4, |random| ProducePartitionResponse {
                index: PartitionIndex(random.i32()),
                error_code: ErrorCode::ALL[random.below(ErrorCode::ALL.len())],
                base_offset: Offset(random.i64()),
                log_append_time: TimestampMs(random.i64()),
                log_start_offset: Offset(random.i64()),
                record_errors: random.list(2, |random| RecordError {
                    batch_index: random.i32(),
                    message: random.some(|random| random.text(90)),
                }),
                error_message: random.some(|random| random.text(200)),
                current_leader: random.some(|random| LeaderIdAndEpoch {
                    leader_id: NodeId(random.i32()),
                    leader_epoch: LeaderEpoch(random.i32()),
                }),
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
fn response_as_generated(response: &ProduceResponse, version: i16) -> answered::ProduceResponse {
    let topic = |topic: &ProduceTopicResponse| {
        let (name, topic_id) = match &topic.topic {
            TopicRef::Name(name) => (name.clone(), TopicId::ZERO),
            TopicRef::Id(id) => (String::new(), *id),
        };
        let partition = |partition: &ProducePartitionResponse| answered::PartitionProduceResponse {
            index: partition.index.get(),
            error_code: partition.error_code.code(),
            base_offset: partition.base_offset.get(),
            log_append_time_ms: partition.log_append_time.get(),
            log_start_offset: partition.log_start_offset.get(),
            record_errors: partition
                .record_errors
                .iter()
                .filter(|_| version >= 8)
                .map(|error| answered::BatchIndexAndErrorMessage {
                    batch_index: error.batch_index,
                    batch_index_error_message: error.message.clone(),
                })
                .collect(),
            error_message: partition.error_message.clone(),
            current_leader: partition
                .current_leader
                .filter(|_| version >= 10)
                .map(|leader| answered::LeaderIdAndEpoch {
                    leader_id: leader.leader_id.get(),
                    leader_epoch: leader.leader_epoch.get(),
                })
                .unwrap_or_default(),
        };
        answered::TopicProduceResponse {
            name,
            topic_id,
            partition_responses: topic.partitions.iter().map(partition).collect(),
        }
    };
    answered::ProduceResponse {
        responses: response.topics.iter().map(topic).collect(),
        throttle_time_ms: response.throttle_time_ms,
        node_endpoints: response
            .node_endpoints
            .iter()
            .filter(|_| version >= 10)
            .map(|endpoint| answered::NodeEndpoint {
                node_id: endpoint.node_id.get(),
                host: endpoint.host.clone(),
                port: endpoint.port,
                rack: endpoint.rack.clone(),
            })
            .collect(),
    }
}

#[test]
fn responses_are_the_bytes_of_the_generated_codec() {
    let mut random = Random(3);
    for version in VERSIONS {
        for _ in 0..300 {
            let mut response = random_response(&mut random, version);
            let expected = encode_response(77, &response_as_generated(&response, version), version).unwrap();
            assert_eq!(
                response.encode_frame(77, version).unwrap(),
                expected,
                "version {version}: {response:?}"
            );
            // A leader that is not known is the same as none.
            if let Some(partition) =
                response.topics.first_mut().and_then(|topic| topic.partitions.first_mut())
            {
                partition.current_leader =
                    Some(LeaderIdAndEpoch { leader_id: NodeId(-1), leader_epoch: LeaderEpoch(-1) });
                let expected =
                    encode_response(77, &response_as_generated(&response, version), version).unwrap();
                assert_eq!(response.encode_frame(77, version).unwrap(), expected);
            }
        }
    }
}

#[test]
fn a_topic_is_named_as_the_version_names_it() {
    let response = |topic| ProduceResponse {
        topics: vec![ProduceTopicResponse { topic, partitions: Vec::new() }],
        ..ProduceResponse::default()
    };
    assert!(response(TopicRef::Name("t".to_owned())).encode_frame(1, 13).is_err());
    assert!(response(TopicRef::Id(TopicId(1))).encode_frame(1, 12).is_err());
    assert!(response(TopicRef::Id(TopicId(1))).encode_frame(1, 14).is_err());
    let error = ProducePartitionResponse::error(PartitionIndex(4), ErrorCode::NotLeaderOrFollower);
    assert_eq!((error.base_offset, error.log_start_offset), (Offset(-1), Offset(-1)));
}
