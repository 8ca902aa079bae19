//! `Fetch`: what a request may name, and what it leaves behind.

use chronik_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use chronik_protocol::messages::{FetchRequest, FetchResponse};
use chronik_protocol::records::BatchOptions;
use chronik_raft::metadata::{AssignPartition, CreateTopic, SetPartitionLeader, UpdateIsr};
use chronik_types::{ErrorCode, NodeId, PartitionIndex, TopicId};

use super::leadership::apply;
use super::{Fixture, NODE, Pending, code, response};

fn partition(index: i32, fetch_offset: i64) -> FetchPartition {
    FetchPartition {
        partition: index,
        current_leader_epoch: -1,
        fetch_offset,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    }
}

/// A full fetch that asks for a session, by name.
fn request(max_wait_ms: i32, topics: &[(&str, &[(i32, i64)])]) -> FetchRequest {
    FetchRequest {
        replica_id: -1,
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: 0,
        topics: topics
            .iter()
            .map(|(topic, partitions)| FetchTopic {
                topic: (*topic).to_owned(),
                partitions: partitions.iter().map(|&(index, offset)| partition(index, offset)).collect(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for topic in ["a", "b"] {
        fixture.create_topic(topic, 2, &[]);
    }
    fixture
}

/// Index, error and whether there are records, of each partition in the answer.
fn places(answer: &FetchResponse) -> Vec<(&str, i32, ErrorCode, bool)> {
    let topics = answer.responses.iter();
    topics
        .flat_map(|topic| {
            topic.partitions.iter().map(|found| {
                let has_records = found.records.as_ref().is_some_and(|records| !records.is_empty());
                (&*topic.topic, found.partition_index, code(found.error_code), has_records)
            })
        })
        .collect()
}

#[test]
fn a_partition_named_twice_is_answered_once() {
    let fixture = fixture();
    fixture.append("a", 0, &[1], BatchOptions::default());
    let asked: [(&str, &[(i32, i64)]); 3] = [("a", &[(0, 0)]), ("b", &[(1, 0)]), ("a", &[(0, 1), (1, 0)])];
    let answer: FetchResponse = fixture.call(11, &request(0, &asked));
    // The first place counts, and the last offset.
    let none = ErrorCode::None;
    assert_eq!(places(&answer), [("a", 0, none, false), ("b", 1, none, false), ("a", 1, none, false)]);
    let again = [("a", &[(0, 1), (0, 5), (0, 0)][..])];
    let answer: FetchResponse = fixture.call(11, &request(0, &again));
    assert_eq!(places(&answer), [("a", 0, none, true)]);
}

/// Makes a topic that broker 2 has replicas of, which lack everything.
fn share(fixture: &Fixture, name: &str, id: TopicId, partition_count: i32) {
    let mut commands = vec![CreateTopic::new(name, id, partition_count, 2).into()];
    for index in (0..partition_count).map(PartitionIndex) {
        commands.push(AssignPartition::new(id, index, &[NODE, NodeId(2)]).into());
        commands.push(SetPartitionLeader::new(id, index, Some(NODE)).into());
        commands.push(UpdateIsr::new(id, index, &[NODE], None).into());
    }
    apply(fixture, commands);
}

/// A full answer takes twenty partitions of which a follower lacks much, ten at a time. One that has just come under this
/// leader is not the twenty-first: a producer may wait for it.
#[test]
fn what_is_new_to_a_follower_is_in_the_next_answer() {
    let fixture = Fixture::new();
    fixture.add_broker(2, false);
    share(&fixture, "lagging", TopicId(1), 20);
    share(&fixture, "new", TopicId(2), 1);
    for index in 0..20 {
        fixture.append("lagging", index, &[1], BatchOptions::default());
    }
    fixture.append("new", 0, &[1], BatchOptions::default());
    let batch_bytes = i32::try_from(fixture.partition("new", 0).log().size_bytes()).unwrap();
    let ask = |session_id: i32, session_epoch: i32, topics: &[(&str, &[(i32, i64)])]| -> FetchResponse {
        let request = FetchRequest {
            replica_id: 2,
            max_bytes: 10 * batch_bytes,
            session_id,
            session_epoch,
            ..request(0, topics)
        };
        fixture.call(11, &request)
    };
    let served = |answer: &FetchResponse| -> Vec<(String, i32)> {
        let places = places(answer).into_iter().filter(|place| place.3);
        places.map(|(topic, index, ..)| (topic.to_owned(), index)).collect()
    };
    let lagging: Vec<(i32, i64)> = (0..20).map(|index| (index, 0)).collect();
    let first = ask(0, 0, &[("lagging", &lagging)]);
    assert_eq!(served(&first), (0..10).map(|index| ("lagging".to_owned(), index)).collect::<Vec<_>>());
    let next = served(&ask(first.session_id, 1, &[("new", &[(0, 0)])]));
    assert!(next.contains(&("new".to_owned(), 0)), "{next:?}");
    assert_eq!(next.len(), 10, "the others go on meanwhile");
    let after = served(&ask(first.session_id, 2, &[]));
    assert!(!after.contains(&("new".to_owned(), 0)), "it has had its turn: {after:?}");
}

#[test]
fn a_client_that_goes_before_its_answer_leaves_no_session() {
    let fixture = fixture();
    let session_of = |pending: &Pending| -> i32 {
        let answer: FetchResponse = response(pending, 11);
        answer.session_id
    };
    let pending = fixture.send(11, &request(1_000, &[("a", &[(0, 0)])]));
    assert!(pending.lock().is_none() && fixture.broker.fetch_sessions.is_empty());
    fixture.broker.connection_closed(&fixture.connection);
    fixture.pass(1_000);
    assert!(fixture.broker.fetch_sessions.is_empty());
    let fixture = fixture.restart();
    let pending = fixture.send(11, &request(1_000, &[("a", &[(0, 0)])]));
    fixture.pass(1_000);
    let session_id = session_of(&pending);
    assert!(session_id != 0 && !fixture.broker.fetch_sessions.is_empty());
    let next = FetchRequest { session_id, session_epoch: 1, topics: Vec::new(), ..request(0, &[]) };
    let answer: FetchResponse = fixture.call(11, &next);
    assert_eq!((answer.error_code, answer.session_id, places(&answer).len()), (0, session_id, 0));
}

#[test]
fn only_what_does_not_exist_waits_with_the_others() {
    let fixture = fixture();
    fixture.add_broker(2, false);
    fixture.create_topic("spread", 2, &[]);
    let image = fixture.image();
    let topic = image.topic("spread").unwrap();
    let elsewhere = topic.partitions().find(|(_, found)| !found.replicas.contains(&NODE)).unwrap().0;
    let missing = fixture.send(11, &request(1_000, &[("a", &[(0, 0)]), ("none", &[(0, 0)])]));
    assert!(missing.lock().is_none());
    let at_once: FetchResponse =
        fixture.call(11, &request(1_000, &[("a", &[(0, 0)]), ("spread", &[(elsewhere.get(), 0)])]));
    let codes: Vec<_> = places(&at_once).iter().map(|place| place.2).collect();
    assert_eq!(codes, [ErrorCode::None, ErrorCode::NotLeaderOrFollower]);
    fixture.pass(1_000);
    let missing: FetchResponse = response(&missing, 11);
    let codes: Vec<_> = places(&missing).iter().map(|place| place.2).collect();
    assert_eq!(codes, [ErrorCode::None, ErrorCode::UnknownTopicOrPartition]);
}
