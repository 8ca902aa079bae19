//! This broker as a follower, fed with what a leader answers; and as the leader that answers.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_disk::{Crash, Disk as _};
use chronik_log::{AppendError, AppendOrigin, Appended, LogError, ReadData, ReadRequest};
use chronik_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use chronik_protocol::messages::fetch_response::PartitionData;
use chronik_protocol::messages::{FetchRequest, FetchResponse, ProduceResponse};
use chronik_protocol::records::{BatchBuilder, BatchOptions, patch_append};
use chronik_raft::metadata::{DeleteTopic, UpdateIsr};
use chronik_replication::follower::EpochEnd;
use chronik_types::{
    ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId, TimestampMs, TopicId,
};
use parking_lot::Mutex;

use super::leadership::{TOPIC, apply, create_shared, fetched, lead, lead_topic, produce, three_brokers};
use super::{Fixture, LOG_DIR, code, response};
use crate::clock::Clock as _;
use crate::partition::{Applied, Confirmation, LeaderAnswer, Partition};

/// A batch of one record.
pub(super) fn batch(value: &str) -> BytesMut {
    batch_with(BatchOptions::default(), value)
}

fn batch_with(options: BatchOptions, value: &str) -> BytesMut {
    let mut builder = BatchBuilder::new(options);
    builder.append(TimestampMs(1_000_000), None, Some(value.as_bytes()), &[]).unwrap();
    builder.finish().unwrap()
}

/// The same of an idempotent producer.
fn idempotent(sequence: i32, value: &str) -> BytesMut {
    let options = BatchOptions {
        producer_id: ProducerId(5),
        producer_epoch: ProducerEpoch(0),
        base_sequence: sequence,
        ..BatchOptions::default()
    };
    batch_with(options, value)
}

/// What a leader's log has at this offset.
pub(super) fn stamped(mut batch: BytesMut, offset: i64, epoch: i32) -> Bytes {
    patch_append(&mut batch, Offset(offset), LeaderEpoch(epoch));
    batch.freeze()
}

/// An answer without records to a fetch from `from` in `epoch`.
pub(super) fn answer(epoch: i32, from: i64, high_watermark: i64) -> LeaderAnswer {
    LeaderAnswer {
        leader_epoch: LeaderEpoch(epoch),
        fetched_from: Offset(from),
        error: ErrorCode::None,
        high_watermark: Offset(high_watermark),
        log_start_offset: Offset(0),
        diverging: None,
        records: Bytes::new(),
    }
}

fn diverging(epoch: i32, from: i64, (at_epoch, end): (i32, i64)) -> LeaderAnswer {
    let end = EpochEnd { leader_epoch: LeaderEpoch(at_epoch), end_offset: Offset(end) };
    LeaderAnswer { diverging: Some(end), ..answer(epoch, from, 0) }
}

/// Takes in an answer; where it goes on, and the epoch of its last record.
pub(super) fn take(fixture: &Fixture, answer: LeaderAnswer) -> (i64, i32) {
    let applied = fixture.partition("shared", 0).apply_answer(fixture.clock.now(), answer);
    let (Applied::At(position) | Applied::Wait { position, .. }) = applied else {
        panic!("it follows: {applied:?}")
    };
    (position.fetch_offset.get(), position.last_fetched_epoch.get())
}

/// Takes in a first record from the leader of epoch 1.
pub(super) fn follow_first(fixture: &Fixture, value: &str) {
    let records = stamped(batch(value), 0, 1);
    assert_eq!(take(fixture, LeaderAnswer { records, ..answer(1, 0, 1) }), (1, 1));
}

/// What a client writes to `shared-0` with `acks=1`.
pub(super) fn write(fixture: &Fixture, batch: BytesMut) -> Result<Appended, AppendError> {
    let result = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&result);
    let done = Box::new(move |_, appended| *slot.lock() = Some(appended));
    let partition = fixture.partition("shared", 0);
    partition.append_with(fixture.clock.now(), batch, AppendOrigin::Client, Confirmation::Appended, done);
    result.lock().take().expect("written at once")
}

/// All bytes of a partition's log.
fn contents(partition: &Partition) -> Vec<u8> {
    let mut found = Vec::new();
    let mut next = partition.log().log_start_offset();
    while next < partition.log().log_end_offset() {
        let read = partition
            .log()
            .read(ReadRequest {
                start_offset: next,
                max_bytes: 1 << 20,
                at_least_one_batch: true,
                upper_bound_offset: partition.log().log_end_offset(),
            })
            .unwrap();
        match read.data {
            ReadData::Memory(parts) => found.extend(parts.iter().flat_map(|part| part.to_vec())),
            ReadData::File(region) => {
                let mut bytes = vec![0; usize::try_from(region.len_bytes).unwrap()];
                assert_eq!(region.file.read_at(&mut bytes, region.position).unwrap(), bytes.len());
                found.extend(bytes);
            }
            ReadData::Empty => panic!("there is more"),
        }
        next = read.next_offset;
    }
    found
}

/// Replication point 1.
#[test]
fn kip_101_a_followers_high_watermark_is_its_leaders_within_its_log_and_is_kept() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let records = [stamped(batch("a"), 0, 1), stamped(batch("b"), 1, 1)].concat().into();
    assert_eq!(take(&fixture, LeaderAnswer { records, ..answer(1, 0, 5) }), (2, 1));
    let high_watermark = |fixture: &Fixture| fixture.partition("shared", 0).high_watermark();
    assert_eq!(high_watermark(&fixture), Offset(2), "no further than its own log");
    let records = stamped(batch("c"), 2, 1);
    assert_eq!(take(&fixture, LeaderAnswer { records, ..answer(1, 2, 1) }), (3, 1));
    assert_eq!(high_watermark(&fixture), Offset(2), "a leader that knows less takes nothing back");
    // The next leader knows less too at first; what lies above is not cut for that.
    lead(&fixture, 3);
    assert_eq!(take(&fixture, answer(2, 3, 0)), (3, 1));
    assert_eq!(high_watermark(&fixture), Offset(2));
    let fixture = fixture.restart();
    assert_eq!(high_watermark(&fixture), Offset(2), "it outlives a restart");
    assert_eq!(fixture.partition("shared", 0).log().log_end_offset(), Offset(3));
}

/// A leader takes all that lies below a follower's end for copied. A follower that lacks some of it goes back to there, once
/// nobody counts on its copy any more; a leader goes on with what it has.
#[test]
fn a_follower_with_a_hole_in_its_log_goes_on_from_the_hole() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let records = [stamped(batch("a"), 0, 1), stamped(batch("b"), 1, 1), stamped(batch("c"), 2, 1)];
    assert_eq!(take(&fixture, LeaderAnswer { records: records.concat().into(), ..answer(1, 0, 3) }), (3, 1));
    let fixture = restart_with_hole(fixture, 1);
    assert_eq!(
        hole(&fixture),
        (3, Some(1), (1, 1)),
        "it is in the ISR, and tells its leader no more than it has"
    );
    update_isr(&fixture, &[2, 3]);
    assert_eq!(hole(&fixture), (1, None, (1, 1)));
    assert_eq!(fixture.partition("shared", 0).high_watermark(), Offset(1));
    let records = records[1..].concat().into();
    assert_eq!(take(&fixture, LeaderAnswer { records, ..answer(1, 1, 3) }), (3, 1));
    update_isr(&fixture, &[1, 2, 3]);

    let fixture = restart_with_hole(fixture, 1);
    lead(&fixture, 1);
    assert_eq!(hole(&fixture), (3, None, (3, 1)));
    lead(&fixture, 3);
    assert_eq!(hole(&fixture), (3, None, (3, 1)), "what it has led with is what the others have");
    assert!(!fixture.disk.exists(&Path::new(LOG_DIR).join("shared-0/hole")).unwrap());
}

/// One that begins later than it did goes back to where it began if the leader still has that.
#[test]
fn a_follower_that_has_lost_the_beginning_of_its_log_fetches_it_where_the_leader_has_it() {
    let records = [stamped(batch("a"), 0, 1), stamped(batch("b"), 1, 1), stamped(batch("c"), 2, 1)];
    let late = || {
        let fixture = three_brokers();
        lead(&fixture, 2);
        let partition = fixture.partition("shared", 0);
        partition.log().truncate_fully_and_start_at(fixture.clock.now(), Offset(1)).unwrap();
        drop(partition);
        let behind = records[1..].concat().into();
        assert_eq!(take(&fixture, LeaderAnswer { records: behind, ..answer(1, 1, 3) }), (3, 1));
        let fixture = restart_with_hole(fixture, 0);
        assert_eq!(hole(&fixture), (3, Some(0), (0, -1)));
        fixture
    };
    let fixture = late();
    assert_eq!(take(&fixture, LeaderAnswer { log_start_offset: Offset(1), ..answer(1, 0, 3) }), (3, 1));
    assert_eq!(hole(&fixture), (3, None, (3, 1)), "what came before is deleted");

    let fixture = late();
    let all = || LeaderAnswer { records: records.concat().into(), ..answer(1, 0, 3) };
    assert_eq!(take(&fixture, all()), (0, -1));
    assert_eq!(hole(&fixture), (3, Some(0), (0, -1)), "it is in the ISR");
    update_isr(&fixture, &[2, 3]);
    assert_eq!(hole(&fixture), (3, Some(0), (0, -1)), "it waits for what the leader says");
    let not_known = LeaderAnswer {
        error: ErrorCode::NotLeaderOrFollower,
        log_start_offset: Offset(-1),
        ..answer(1, 0, 0)
    };
    assert_eq!(take(&fixture, not_known), (0, -1));
    assert_eq!(hole(&fixture), (3, Some(0), (0, -1)));
    assert_eq!(take(&fixture, all()), (0, -1));
    assert_eq!(hole(&fixture), (0, None, (0, -1)));
    assert_eq!(take(&fixture, all()), (3, 1));
    assert_eq!(fixture.partition("shared", 0).log().log_start_offset(), Offset(0));
}

/// Where the leader begins says nothing of what is missing further on.
#[test]
fn a_follower_that_lacks_more_than_its_beginning_is_cut_where_that_is_missing() {
    let records: Vec<Bytes> = (0..4).map(|at| stamped(batch("a"), at, 1)).collect();
    let late = || {
        let fixture = three_brokers();
        lead(&fixture, 2);
        let partition = fixture.partition("shared", 0);
        partition.log().truncate_fully_and_start_at(fixture.clock.now(), Offset(1)).unwrap();
        drop(partition);
        let behind = records[1..].concat().into();
        assert_eq!(take(&fixture, LeaderAnswer { records: behind, ..answer(1, 1, 4) }), (4, 1));
        let fixture = restart_with_holes(fixture, "0\n2\n");
        assert_eq!(hole(&fixture), (4, Some(0), (0, -1)));
        fixture
    };
    let out_of_range = || LeaderAnswer {
        error: ErrorCode::OffsetOutOfRange,
        log_start_offset: Offset(1),
        ..answer(1, 0, 4)
    };
    let go_on = |fixture: &Fixture| {
        assert_eq!(hole(fixture), (2, None, (2, 1)));
        let records = records[2..].concat().into();
        assert_eq!(take(fixture, LeaderAnswer { records, ..answer(1, 2, 4) }), (4, 1));
    };
    // The leader answers before it has left the ISR,
    let fixture = late();
    assert_eq!(take(&fixture, out_of_range()), (2, 1));
    assert_eq!(hole(&fixture), (4, Some(2), (2, 1)), "it is in the ISR");
    update_isr(&fixture, &[2, 3]);
    go_on(&fixture);
    // or after that.
    let fixture = late();
    update_isr(&fixture, &[2, 3]);
    assert_eq!(hole(&fixture).1, Some(0), "it waits for what the leader says of its beginning");
    assert_eq!(take(&fixture, out_of_range()), (2, 1));
    go_on(&fixture);
}

/// The node starts again, and its log lacks records from `offset` on.
fn restart_with_hole(fixture: Fixture, offset: i64) -> Fixture {
    restart_with_holes(fixture, &format!("{offset}\n"))
}

/// The same, with what the file says.
fn restart_with_holes(fixture: Fixture, file: &str) -> Fixture {
    fixture.broker.logs.shutdown(fixture.clock.now()).unwrap();
    let Fixture { broker, metadata, clock, disk, .. } = fixture;
    let path = Path::new(LOG_DIR).join("shared-0/hole");
    disk.replace_file(&path, file.as_bytes()).unwrap();
    Fixture::start(broker.config.clone(), metadata, clock, disk)
}

/// Where the log ends, where it lacks records, and where it goes on, by offset and epoch.
fn hole(fixture: &Fixture) -> (i64, Option<i64>, (i64, i32)) {
    let partition = fixture.partition("shared", 0);
    let log = partition.log();
    let position = partition.fetch_position();
    let asked = (position.fetch_offset.get(), position.last_fetched_epoch.get());
    (log.log_end_offset().get(), log.hole().map(Offset::get), asked)
}

fn update_isr(fixture: &Fixture, isr: &[i32]) {
    let isr: Vec<NodeId> = isr.iter().copied().map(NodeId).collect();
    apply(fixture, vec![UpdateIsr::new(TOPIC, PartitionIndex(0), &isr, None).into()]);
}

/// A fetch of replica 2, from where it stands.
fn follower_request(epoch: i32, (fetch_offset, last_fetched_epoch): (i64, i32)) -> FetchRequest {
    let partition = FetchPartition {
        partition: 0,
        current_leader_epoch: epoch,
        fetch_offset,
        last_fetched_epoch,
        log_start_offset: 0,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    FetchRequest {
        replica_state: ReplicaState { replica_id: 2, replica_epoch: -1 },
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic { topic_id: TOPIC, partitions: vec![partition], ..Default::default() }],
        ..Default::default()
    }
}

/// The one partition of an answer.
fn only(answer: FetchResponse) -> PartitionData {
    answer.responses.into_iter().flat_map(|topic| topic.partitions).next().expect("it is told")
}

/// Replication point 2.
#[test]
fn kip_279_logs_that_parted_more_than_once_are_cut_epoch_by_epoch() {
    let (leader, follower) = (three_brokers(), three_brokers());
    write(&leader, batch("common")).unwrap();
    // The same record under the same epoch, as if it had been replicated.
    write(&follower, batch("common")).unwrap();
    write(&follower, batch("lost in epoch 0")).unwrap();
    // Each leads in epochs that the other has not seen.
    for node in [2, 1] {
        lead(&leader, node);
    }
    write(&leader, batch("of epoch 2")).unwrap();
    write(&leader, batch("of epoch 2 too")).unwrap();
    for node in [2, 3, 1] {
        lead(&follower, node);
    }
    write(&follower, batch("lost in epoch 3")).unwrap();
    write(&follower, batch("lost in epoch 3 too")).unwrap();
    for node in [2, 1] {
        lead(&leader, node);
    }
    write(&leader, batch("of epoch 4")).unwrap();
    lead(&follower, 2);
    let mut position = (4, 3);
    let mut cuts = Vec::new();
    for _ in 0..10 {
        let told = only(leader.call(16, &follower_request(4, position)));
        assert_eq!(code(told.error_code), ErrorCode::None);
        let is_end = told.diverging_epoch.end_offset < 0 && told.records.as_ref().is_none_or(Bytes::is_empty);
        let diverging = (told.diverging_epoch.end_offset >= 0).then_some(EpochEnd {
            leader_epoch: LeaderEpoch(told.diverging_epoch.epoch),
            end_offset: Offset(told.diverging_epoch.end_offset),
        });
        if diverging.is_some() {
            assert!(told.records.as_ref().is_none_or(Bytes::is_empty), "nothing to append is sent along");
        }
        let records = told.records.unwrap_or_default();
        position = take(
            &follower,
            LeaderAnswer { diverging, records, ..answer(4, position.0, told.high_watermark) },
        );
        if diverging.is_some() {
            cuts.push(position);
        }
        if is_end {
            break;
        }
    }
    assert_eq!(cuts, [(2, 0), (1, 0)], "first to where its epoch 0 ends, then to where the leader's does");
    assert_eq!(position, (4, 4));
    let [ours, theirs] = [&follower, &leader].map(|fixture| contents(&fixture.partition("shared", 0)));
    assert_eq!(ours, theirs, "REPL-3");
}

/// Replication point 2: a follower's fetch from where the logs part says nothing about how far it has come.
#[test]
fn kip_101_a_follower_that_diverges_acknowledges_nothing() {
    let fixture = three_brokers();
    write(&fixture, batch("a")).unwrap();
    for node in [2, 1] {
        lead(&fixture, node);
    }
    write(&fixture, batch("b")).unwrap();
    fetched(&fixture, 3, 2, 0);
    let told = only(fixture.call(16, &follower_request(2, (2, 1))));
    assert_eq!((told.diverging_epoch.epoch, told.diverging_epoch.end_offset), (0, 1));
    assert_eq!(fixture.partition("shared", 0).high_watermark(), Offset(0));
    let told = only(fixture.call(16, &follower_request(2, (1, 0))));
    assert_eq!((told.high_watermark, told.diverging_epoch.end_offset), (1, -1));
}

/// Replication point 2.
#[test]
fn kip_320_who_fetches_under_another_epoch_is_told_which_of_both_is_behind() {
    let fixture = three_brokers();
    for node in [2, 1] {
        lead(&fixture, node);
    }
    let asked = |epoch: i32| {
        let told = only(fixture.call(16, &follower_request(epoch, (0, -1))));
        code(told.error_code)
    };
    assert_eq!(asked(1), ErrorCode::FencedLeaderEpoch);
    assert_eq!(asked(3), ErrorCode::UnknownLeaderEpoch);
    assert_eq!(asked(2), ErrorCode::None);
    assert_eq!(asked(-1), ErrorCode::None);
}

/// Replication point 11: what is cut is forgotten of the producers too, and what is left is known still.
#[test]
fn kip_98_a_cut_follower_that_leads_knows_its_producers_as_its_log_has_them() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let records = [stamped(idempotent(0, "a"), 0, 1), stamped(idempotent(1, "b"), 1, 1)].concat().into();
    take(&fixture, LeaderAnswer { records, ..answer(1, 0, 1) });
    lead(&fixture, 3);
    assert_eq!(take(&fixture, diverging(2, 2, (1, 1))), (1, 1));
    lead(&fixture, 1);
    let again = write(&fixture, idempotent(0, "a")).unwrap();
    assert!(again.is_duplicate && again.first_offset == Offset(0), "{again:?}");
    let early = write(&fixture, idempotent(2, "c"));
    assert!(matches!(early, Err(AppendError::SequenceAhead { last_sequence: 0, .. })), "{early:?}");
    let anew = write(&fixture, idempotent(1, "b")).unwrap();
    assert!(!anew.is_duplicate && anew.first_offset == Offset(1), "{anew:?}");
}

/// Replication point 11.
#[test]
fn kip_98_a_duplicate_waits_for_its_original_to_be_committed() {
    let fixture = three_brokers();
    let original = write(&fixture, idempotent(0, "a")).unwrap();
    let outcome = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&outcome);
    let partition = fixture.partition("shared", 0);
    partition.append(
        fixture.clock.now(),
        idempotent(0, "a"),
        AppendOrigin::Client,
        Box::new(move |_, appended| *slot.lock() = Some(appended.unwrap())),
    );
    assert!(outcome.lock().is_none(), "nobody else has it");
    fetched(&fixture, 2, 1, 0);
    fetched(&fixture, 3, 1, 0);
    let again = outcome.lock().take().expect("committed");
    assert!(again.is_duplicate);
    assert_eq!(again.first_offset, original.first_offset);
    assert_eq!(partition.log().log_end_offset(), Offset(1));
}

/// Replication point 9: whatever is decided in one epoch is not written in another.
#[test]
fn a_batch_of_an_earlier_epoch_is_not_written_in_a_later_one() {
    let fixture = three_brokers();
    let partition = fixture.partition("shared", 0);
    let append_in = |epoch: i32| {
        let outcome = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&outcome);
        let done = Box::new(move |_, appended: Result<Appended, AppendError>| {
            *slot.lock() = Some(appended.map(|appended| appended.first_offset));
        });
        partition.append_in(fixture.clock.now(), LeaderEpoch(epoch), batch("a"), done);
        outcome.lock().take()
    };
    assert!(append_in(0).is_none(), "it is written, and waits to be committed");
    assert_eq!(partition.log().log_end_offset(), Offset(1));
    for node in [2, 1] {
        lead(&fixture, node);
    }
    for epoch in [0, 1, 3] {
        let refused = append_in(epoch).expect("at once");
        assert!(matches!(refused, Err(AppendError::LeaderEpochRegressed { .. })), "{refused:?}");
    }
    assert_eq!(partition.log().log_end_offset(), Offset(1));
    assert!(append_in(2).is_none());
    assert_eq!(partition.log().log_end_offset(), Offset(2));
}

/// Replication points 16 and 17.
#[test]
fn kip_516_what_was_fetched_of_a_deleted_topic_is_not_written_to_the_next_of_its_name() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let records = stamped(batch("old"), 0, 1);
    take(&fixture, LeaderAnswer { records, ..answer(1, 0, 1) });
    let old = fixture.partition("shared", 0);
    let next_id = TopicId(8);
    apply(&fixture, vec![DeleteTopic::new(TOPIC).into()]);
    apply(&fixture, create_shared(next_id));
    for node in [2, 3] {
        lead_topic(&fixture, next_id, node);
    }
    // It has been under way for a while, and its epoch is that of the new topic too.
    let late = LeaderAnswer { records: stamped(batch("late"), 1, 1), ..answer(1, 1, 2) };
    assert_eq!(old.apply_answer(fixture.clock.now(), late), Applied::Over);
    let new = fixture.partition("shared", 0);
    assert_eq!((new.topic_id, new.log().topic_id()), (next_id, next_id));
    assert_eq!((new.log().log_end_offset(), new.high_watermark()), (Offset(0), Offset(0)));
    let directories: Vec<String> =
        fixture.disk.read_dir(Path::new(LOG_DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
    let renamed =
        directories.iter().filter(|name| name.starts_with("shared-0.") && name.ends_with("-delete"));
    assert_eq!(renamed.count(), 1, "{directories:?}");
    assert_eq!(old.log().log_end_offset(), Offset(1));
    // Who still asks for the old one by its id hears that there is none.
    let told = only(fixture.call(16, &follower_request(2, (0, -1))));
    assert_eq!(code(told.error_code), ErrorCode::UnknownTopicId);
}

/// Replication point 17.
#[test]
fn whoever_waits_for_a_topic_that_is_deleted_is_told() {
    let fixture = three_brokers();
    let produced = produce(&fixture, 9);
    let mut wanted = follower_request(0, (1, 0));
    wanted.max_wait_ms = 10_000;
    let fetching = fixture.send(16, &wanted);
    assert!(produced.lock().is_none() && fetching.lock().is_none(), "both wait");
    apply(&fixture, vec![DeleteTopic::new(TOPIC).into()]);
    let produced: ProduceResponse = response(&produced, 9);
    let error = code(produced.responses[0].partition_responses[0].error_code);
    assert!(
        matches!(error, ErrorCode::UnknownTopicOrPartition | ErrorCode::NotLeaderOrFollower),
        "{error:?}"
    );
    let told = only(response(&fetching, 16));
    assert!(
        matches!(code(told.error_code), ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId),
        "{told:?}"
    );
}

/// Replication point 18.
#[test]
fn kip_227_a_session_tells_a_high_watermark_that_moves_without_data() {
    let fixture = three_brokers();
    write(&fixture, batch("a")).unwrap();
    let mut wanted = follower_request(0, (0, -1));
    wanted.session_epoch = 0;
    let opened: FetchResponse = fixture.call(16, &wanted);
    let session_id = opened.session_id;
    assert_ne!(session_id, 0);
    assert_eq!(only(opened).high_watermark, 0);
    // It has the record now, and so has replica 3.
    let mut next = follower_request(0, (1, 0));
    (next.session_id, next.session_epoch, next.max_wait_ms) = (session_id, 1, 500);
    let waiting = fixture.send(16, &next);
    assert!(waiting.lock().is_none(), "there is nothing to read");
    fetched(&fixture, 3, 1, 0);
    fixture.pass(500);
    let told = only(response(&waiting, 16));
    assert_eq!((told.high_watermark, told.records.map(|records| records.len())), (1, Some(0)));
    let mut quiet = FetchRequest { topics: Vec::new(), ..follower_request(0, (1, 0)) };
    (quiet.session_id, quiet.session_epoch) = (session_id, 2);
    let told: FetchResponse = fixture.call(16, &quiet);
    assert!(told.responses.is_empty(), "nothing is new: {told:?}");
    let again: FetchResponse = fixture.call(16, &quiet);
    assert_eq!(code(again.error_code), ErrorCode::InvalidFetchSessionEpoch, "epochs are strict");
    let partition = fixture.partition("shared", 0);
    partition.log().delete_records(Offset(1)).unwrap();
    quiet.session_epoch = 3;
    let told: FetchResponse = fixture.call(16, &quiet);
    assert_eq!(only(told).log_start_offset, 1, "a start that moves is told without data too");
}

/// Replication point 23.
#[test]
fn only_replicas_read_what_is_not_committed() {
    let fixture = three_brokers();
    write(&fixture, batch("a")).unwrap();
    let ask = |node: i32, epoch: i32| {
        let mut request = follower_request(epoch, (0, -1));
        request.replica_state.replica_id = node;
        let answer = only(fixture.call(17, &request));
        (code(answer.error_code), answer.records.is_some_and(|records| !records.is_empty()))
    };
    let epoch = fixture.partition("shared", 0).leader_epoch().get();
    assert_eq!(ask(2, epoch), (ErrorCode::None, true));
    assert_eq!(ask(4, epoch), (ErrorCode::UnknownLeaderEpoch, false));
    assert_eq!(ask(4, -1), (ErrorCode::NotLeaderOrFollower, false));
}

#[test]
fn kip_74_a_follower_gets_a_batch_that_is_larger_than_it_asks_for() {
    let fixture = three_brokers();
    write(&fixture, batch(&"large".repeat(1_000))).unwrap();
    write(&fixture, batch("small")).unwrap();
    let mut wanted = follower_request(0, (0, -1));
    wanted.max_bytes = 100;
    wanted.topics[0].partitions[0].partition_max_bytes = 1;
    let told = only(fixture.call(16, &wanted));
    let len = told.records.map_or(0, |records| records.len());
    assert!((5_000..6_000).contains(&len), "{len} bytes");
}

/// Replication point 16: what is told under a name belongs to one topic id.
#[test]
fn kip_516_an_id_that_no_topic_has_is_refused_and_so_is_the_log_of_another() {
    let fixture = three_brokers();
    let mut wanted = follower_request(0, (0, -1));
    wanted.topics[0].topic_id = TopicId(99);
    assert_eq!(code(only(fixture.call(16, &wanted)).error_code), ErrorCode::UnknownTopicId);
    // The directory keeps the id, and another topic's log is not opened under the same name.
    let log = fixture.partition("shared", 0);
    let name = log.log().topic_partition().clone();
    let config = log.log().config();
    let refused = fixture.broker.logs.get_or_create(&name, TopicId(99), config);
    assert!(matches!(refused, Err(LogError::InconsistentTopicId { .. })));
}

/// Replication point 16.
#[test]
fn kip_516_directories_that_no_topic_owns_are_set_aside_and_never_served() {
    let fixture = Fixture::new();
    for topic in ["gone", "again"] {
        fixture.create_topic(topic, 1, &[]);
        fixture.append(topic, 0, &[1_000_000], BatchOptions::default());
    }
    let now = fixture.clock.now();
    fixture.broker.logs.shutdown(now).unwrap();
    // The node comes back into a cluster that knows one of the two, and that by another id.
    let metadata = Arc::new(super::HeldMetadata::new());
    let Fixture { broker, clock, disk, .. } = fixture;
    let fixture = Fixture::start(broker.config.clone(), metadata, clock, disk);
    fixture.create_topic("again", 1, &[]);
    let served = |topic: &str| fixture.broker.partition_by_name(topic, 0).map(|found| found.high_watermark());
    assert_eq!(served("again"), Err(ErrorCode::InconsistentTopicId), "not before it is set aside");
    fixture.broker.retire_strays();
    assert_eq!(served("again"), Ok(Offset(0)), "the new topic is empty");
    assert_eq!(served("gone"), Err(ErrorCode::UnknownTopicOrPartition));
    let names = fixture.disk.read_dir(Path::new(LOG_DIR)).unwrap().into_iter().map(|entry| entry.name);
    let strays: Vec<String> = names.filter(|name| name.ends_with("-stray")).collect();
    assert_eq!(strays.len(), 2, "an operator may look at them: {strays:?}");
}

/// Replication point 16.
#[test]
fn kip_516_a_directory_that_no_topic_owns_is_set_aside_also_when_a_full_disk_has_hidden_it() {
    let fixture = Fixture::new();
    // Ids are drawn, and the second of a test is not the first of the next broker's.
    fixture.create_topic("gone", 1, &[]);
    fixture.create_topic("again", 1, &[]);
    fixture.append("again", 0, &[1_000_000], BatchOptions::default());
    let Fixture { broker, clock, disk, .. } = fixture;
    let name = broker.partition_by_name("again", 0).unwrap().log().topic_partition().clone();
    let config = broker.config.clone();
    drop(broker);
    disk.crash(Crash::Process);
    disk.remove_file(&Path::new(LOG_DIR).join("again-0/leader-epoch-checkpoint")).unwrap();
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let metadata = Arc::new(super::HeldMetadata::new());
    let fixture = Fixture::start(config, metadata, clock, disk);
    assert!(fixture.broker.logs.get(&name).is_none());
    fixture.broker.retire_strays();
    fixture.disk.set_capacity_bytes(None);
    fixture.broker.logs.maintain(fixture.clock.now());
    assert!(fixture.broker.logs.get(&name).is_some());
    fixture.create_topic("again", 1, &[]);
    let partition = fixture.broker.partition_by_name("again", 0).unwrap();
    assert_eq!(partition.log().log_end_offset(), Offset(0), "the new topic is empty");
    let names = fixture.disk.read_dir(Path::new(LOG_DIR)).unwrap().into_iter().map(|entry| entry.name);
    assert_eq!(names.filter(|name| name.ends_with("-stray")).count(), 1);
}
