//! What each command does, and what it refuses.

use chronik_types::{LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex};

use super::super::command::*;
use super::super::image::{ConfigResource, PartitionImage};
use super::*;
use crate::metadata::requests::REQUESTS_OUTSTANDING_MAX;

const ORDERS: TopicId = TopicId(0x1111_2222_3333_4444_5555_6666_7777_8888);

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn register(id: i32, incarnation: u128) -> Command {
    let endpoint = Endpoint {
        listener: "PLAINTEXT".to_owned(),
        host: format!("node{id}"),
        port: 9092,
        security_protocol: 0,
    };
    RegisterBroker::new(NodeId(id), incarnation, vec![endpoint]).into()
}

fn assign(partition: i32, replicas: &[i32]) -> Command {
    AssignPartition::new(ORDERS, PartitionIndex(partition), &nodes(replicas)).into()
}

fn lead(partition: i32, leader: Option<i32>) -> SetPartitionLeader {
    SetPartitionLeader::new(ORDERS, PartitionIndex(partition), leader.map(NodeId))
}

fn isr(partition: i32, isr: &[i32], epoch: Option<i32>) -> UpdateIsr {
    UpdateIsr::new(ORDERS, PartitionIndex(partition), &nodes(isr), epoch.map(PartitionEpoch))
}

fn create(name: &str, id: TopicId) -> Command {
    CreateTopic::new(name, id, 9, 3).into()
}

/// Applies a batch at the next index; checks that the delta is the difference, and that a snapshot keeps it all.
fn step(image: &MetadataImage, commands: Vec<Command>) -> Application {
    apply_batch(image, &CommandBatch::new(commands))
}

fn apply_batch(image: &MetadataImage, batch: &CommandBatch) -> Application {
    let index = LogIndex(image.applied_index().get() + 1);
    let encoded = batch.encode_to_vec();
    assert_eq!(CommandBatch::decode_entry(index, &encoded).unwrap(), *batch);
    let application = image.apply(index, Term(3), batch).unwrap();
    assert_eq!(application.delta, Delta::between(image, &application.image));
    assert_eq!(application.image.applied_index(), index);
    let restored = MetadataImage::decode_snapshot(&application.image.encode_snapshot()).unwrap();
    assert_eq!(restored, application.image);
    application
}

/// Applies commands that must be accepted.
fn accept(image: &MetadataImage, commands: Vec<Command>) -> MetadataImage {
    let application = step(image, commands);
    assert!(matches!(application.outcome, BatchOutcome::Applied(_)), "{:?}", application.outcome);
    application.image
}

/// Applies a command that must be refused, and gives the reason.
fn refuse(image: &MetadataImage, command: impl Into<Command>) -> CommandError {
    // A harmless command before it shows that the whole batch is undone.
    let harmless = SetConfig::new(&ConfigResource::BrokerDefault, "seen", Some("1".to_owned()));
    let application = step(image, vec![harmless.into(), command.into()]);
    assert!(application.delta.is_empty());
    assert_eq!(application.image, image.skip(application.image.applied_index(), Term(3)));
    match application.outcome {
        BatchOutcome::Refused { command_position: 1, error } => {
            assert!(!error.to_string().is_empty());
            assert!(!error.error_code().is_none());
            error
        }
        other @ (BatchOutcome::Applied(_) | BatchOutcome::Refused { .. }) => panic!("not refused: {other:?}"),
    }
}

fn brokers() -> MetadataImage {
    let registered = (1..=3_i32).map(|id| register(id, id.unsigned_abs().into())).collect();
    let image = accept(&MetadataImage::default(), registered);
    accept(&image, (1..=3).map(|id| UnfenceBroker::new(NodeId(id), None).into()).collect())
}

/// Three brokers and the topic `orders` with two partitions, created as a controller does.
fn orders() -> MetadataImage {
    let mut commands = vec![create("orders", ORDERS)];
    for (partition, replicas) in [(0, [1, 2, 3]), (1, [2, 3, 1])] {
        commands.push(assign(partition, &replicas));
        commands.push(lead(partition, Some(replicas[0])).into());
        commands.push(isr(partition, &replicas, Some(1)).into());
    }
    accept(&brokers(), commands)
}

/// An image with something of everything.
pub(crate) fn busy_image() -> MetadataImage {
    let mut topic = CreateTopic::new("busy", TopicId(9), 1, 1);
    topic.configs.insert("retention.ms".to_owned(), "5".to_owned());
    let batch = CommandBatch::new(vec![
        topic.into(),
        SetConfig::new(&ConfigResource::Broker(NodeId(2)), "log.retention.ms", Some("7".to_owned())).into(),
        AllocateProducerIds::new(NodeId(1), BrokerEpoch(1), 1000).into(),
        SetClusterId::new("the-cluster").into(),
        SetPartitionLeader::new(ORDERS, PartitionIndex(1), None).into(),
    ])
    .with_request_id(RequestId { node_id: 2, incarnation: 77, sequence: 1 });
    apply_batch(&orders(), &batch).image
}

fn partition(image: &MetadataImage, index: i32) -> PartitionImage {
    PartitionImage::clone(image.topic_by_id(ORDERS).unwrap().partition(PartitionIndex(index)).unwrap())
}

#[test]
fn a_topic_is_created_with_its_partitions_in_one_batch() {
    let image = orders();
    let topic = image.topic("orders").unwrap();
    assert_eq!((topic.id, topic.partition_count(), topic.requested_partition_count), (ORDERS, 2, 9));
    let second = partition(&image, 1);
    assert_eq!(*second.replicas, nodes(&[2, 3, 1]));
    assert_eq!(second.isr, second.replicas);
    assert_eq!(second.leader, Some(NodeId(2)));
    assert_eq!((second.leader_epoch, second.partition_epoch), (LeaderEpoch(0), PartitionEpoch(2)));
    assert_eq!(image.partition_count(), 2);

    let delta = Delta::between(&brokers(), &image);
    assert_eq!(delta.topics_created.len(), 1);
    assert_eq!(delta.partitions_changed.len(), 2);
    assert!(delta.partitions_changed.iter().all(|change| change.old.is_none() && &*change.topic == "orders"));
}

#[test]
fn a_partition_is_assigned_once_and_in_order() {
    let image = orders();
    assert!(matches!(refuse(&image, assign(1, &[1])), CommandError::PartitionAssigned { .. }));
    assert!(matches!(refuse(&image, assign(-1, &[1])), CommandError::PartitionAssigned { .. }));
    assert!(matches!(refuse(&image, assign(3, &[1])), CommandError::PartitionGap { .. }));
    assert!(matches!(refuse(&image, assign(2, &[])), CommandError::InvalidReplicas { .. }));
    assert!(matches!(refuse(&image, assign(2, &[1, 1])), CommandError::InvalidReplicas { .. }));
    assert!(matches!(refuse(&image, assign(2, &[-1])), CommandError::InvalidReplicas { .. }));
    assert!(matches!(refuse(&image, assign(2, &[1, 4])), CommandError::UnknownBroker { node: NodeId(4) }));
    let image = accept(&image, vec![assign(2, &[3])]);
    let fresh = partition(&image, 2);
    assert_eq!((fresh.leader, fresh.leader_epoch), (None, LeaderEpoch::NONE));
    assert!(fresh.isr.is_empty());
}

#[test]
fn leaders_come_from_the_in_sync_replicas() {
    let image = accept(&orders(), vec![isr(0, &[1, 3], Some(2)).into()]);
    assert!(matches!(refuse(&image, lead(0, Some(2))), CommandError::LeaderNotInSync { .. }));
    assert!(matches!(refuse(&image, lead(0, Some(4))), CommandError::NotReplica { .. }));
    assert!(matches!(refuse(&image, lead(7, Some(1))), CommandError::UnknownPartition { .. }));
    let mut stale = lead(0, Some(3));
    stale.partition_epoch = Some(2);
    let error = refuse(&image, stale);
    assert!(matches!(error, CommandError::StalePartitionEpoch { proposed: 2, current: 3, .. }), "{error}");

    let moved = accept(&image, vec![lead(0, Some(3)).into()]);
    let now = partition(&moved, 0);
    assert_eq!((now.leader, now.leader_epoch.get(), now.partition_epoch.get()), (Some(NodeId(3)), 1, 4));
    assert_eq!(accept(&moved, vec![lead(0, Some(3)).into()]).topic("orders"), moved.topic("orders"));
    let mut again = lead(0, Some(3));
    again.always_new_epoch = true;
    assert_eq!(partition(&accept(&moved, vec![again.into()]), 0).leader_epoch, LeaderEpoch(2));

    let none = accept(&moved, vec![lead(0, None).into()]);
    let now = partition(&none, 0);
    assert_eq!((now.leader, now.leader_epoch.get(), now.isr.len()), (None, 2, 2));

    let mut unclean = lead(0, Some(2));
    unclean.unclean = true;
    let now = partition(&accept(&none, vec![unclean.into()]), 0);
    assert_eq!((now.leader, now.leader_epoch.get()), (Some(NodeId(2)), 3));
    assert_eq!(*now.isr, nodes(&[2]));
}

#[test]
fn the_isr_is_compared_and_set() {
    let image = orders();
    for epoch in [0, 1, 3] {
        let error = refuse(&image, isr(0, &[1], Some(epoch)));
        assert!(matches!(error, CommandError::StalePartitionEpoch { current: 2, .. }), "{error}");
        assert_eq!(error.error_code(), chronik_types::ErrorCode::InvalidUpdateVersion);
    }
    let mut fenced = isr(0, &[1], None);
    fenced.leader_epoch = Some(1);
    assert!(matches!(refuse(&image, fenced), CommandError::StaleLeaderEpoch { current: 0, .. }));
    assert!(matches!(refuse(&image, isr(0, &[], None)), CommandError::InvalidIsr { .. }));
    assert!(matches!(refuse(&image, isr(0, &[1, 1], None)), CommandError::InvalidIsr { .. }));
    assert!(matches!(refuse(&image, isr(0, &[2, 3], None)), CommandError::LeaderNotInSync { .. }));
    assert!(matches!(refuse(&image, isr(0, &[1, 9], None)), CommandError::NotReplica { .. }));
    assert!(matches!(refuse(&image, isr(2, &[1], None)), CommandError::UnknownPartition { .. }));
    let shrunk = accept(&image, vec![isr(0, &[1, 2], Some(2)).into()]);
    let now = partition(&shrunk, 0);
    assert_eq!((now.isr.to_vec(), now.partition_epoch.get(), now.leader_epoch.get()), (nodes(&[1, 2]), 3, 0));
    let unchanged = step(&shrunk, vec![isr(0, &[1, 2], Some(3)).into()]);
    assert!(unchanged.delta.is_empty());
}

#[test]
fn topics_keep_their_names_and_ids_apart() {
    let image = orders();
    assert!(matches!(refuse(&image, create("orders", TopicId(1))), CommandError::TopicExists { .. }));
    assert!(matches!(refuse(&image, create("other", ORDERS)), CommandError::TopicIdExists { .. }));
    assert!(matches!(refuse(&image, create("a/b", TopicId(1))), CommandError::InvalidTopicName(_)));
    assert!(matches!(refuse(&image, DeleteTopic::new(TopicId(1))), CommandError::UnknownTopicId { .. }));

    let topic = ConfigResource::Topic("orders".into());
    let image = accept(&image, vec![SetConfig::new(&topic, "retention.ms", Some("1".to_owned())).into()]);
    assert_eq!(image.config(&topic, "retention.ms"), Some("1"));
    // Deleted and created again in one batch: a new topic under the old name, without the old one's configs.
    let recreated = step(&image, vec![DeleteTopic::new(ORDERS).into(), create("orders", TopicId(1))]);
    assert_eq!(recreated.image.topic("orders").unwrap().id, TopicId(1));
    assert!(recreated.image.topic_by_id(ORDERS).is_none());
    assert_eq!(recreated.image.configs(&topic), None);
    assert_eq!(recreated.delta.topics_deleted.len(), 1);
    assert_eq!(recreated.delta.topics_created.len(), 1);

    let gone = accept(&image, vec![DeleteTopic::new(ORDERS).into()]);
    assert!(gone.topic("orders").is_none() && gone.configs(&topic).is_none());
    assert!(matches!(refuse(&gone, lead(0, Some(1))), CommandError::UnknownTopicId { .. }));
    let twice = step(&image, vec![DeleteTopic::new(ORDERS).into(), DeleteTopic::new(ORDERS).into()]);
    assert!(matches!(twice.outcome, BatchOutcome::Refused { command_position: 1, .. }));
    let reused = step(&image, vec![DeleteTopic::new(ORDERS).into(), create("orders", ORDERS)]);
    assert!(matches!(reused.outcome, BatchOutcome::Refused { command_position: 1, .. }));
    let short_lived = accept(&image, vec![create("brief", TopicId(2)), DeleteTopic::new(TopicId(2)).into()]);
    assert_eq!(short_lived.topic_count(), 1);
}

#[test]
fn brokers_register_under_epochs_and_are_fenced() {
    let image = brokers();
    let first = image.broker(NodeId(1)).unwrap();
    assert_eq!((first.epoch, first.fenced), (BrokerEpoch(1), false));
    let again = step(&image, vec![register(1, 1)]);
    assert_eq!(
        again.outcome,
        BatchOutcome::Applied(vec![CommandOutput::BrokerRegistered { epoch: BrokerEpoch(1) }])
    );
    assert!(again.delta.is_empty(), "the same incarnation is registered already");

    let restarted = step(&again.image, vec![register(1, 99)]);
    assert_eq!(restarted.delta.brokers_changed, nodes(&[1]));
    let now = restarted.image.broker(NodeId(1)).unwrap();
    assert_eq!((now.epoch, now.fenced), (BrokerEpoch(4), true));
    assert_eq!(restarted.image.live_brokers().count(), 2);
    let stale = FenceBroker::new(NodeId(1), Some(BrokerEpoch(1)));
    assert!(matches!(refuse(&restarted.image, stale), CommandError::StaleBrokerEpoch { current: 4, .. }));
    let unfenced = accept(&restarted.image, vec![UnfenceBroker::new(NodeId(1), Some(BrokerEpoch(4))).into()]);
    assert_eq!(unfenced.live_brokers().count(), 3);
    assert!(matches!(
        refuse(&unfenced, FenceBroker::new(NodeId(9), None)),
        CommandError::UnknownBroker { node: NodeId(9) }
    ));
    let nowhere = RegisterBroker::new(NodeId(5), 0, Vec::new());
    assert!(matches!(refuse(&unfenced, nowhere), CommandError::InvalidRegistration { .. }));
}

#[test]
fn configs_are_set_and_removed() {
    let image = orders();
    let resource = ConfigResource::Broker(NodeId(2));
    let set = step(&image, vec![SetConfig::new(&resource, "a", Some("1".to_owned())).into()]);
    assert_eq!(set.delta.configs_changed, vec![resource.clone()]);
    assert_eq!(set.image.config(&resource, "a"), Some("1"));
    let removed = accept(&set.image, vec![SetConfig::new(&resource, "a", None).into()]);
    assert_eq!(removed.configs(&resource), None);
    // A change may depend on what is there.
    let one = "1".to_owned();
    let change = SetConfig::new(&resource, "a", Some("2".to_owned()));
    let onto_one = change.clone().expecting(Some(&one));
    assert_eq!(accept(&set.image, vec![onto_one.clone().into()]).config(&resource, "a"), Some("2"));
    assert!(matches!(refuse(&removed, onto_one), CommandError::ConfigChanged { .. }));
    let onto_nothing = change.expecting(None);
    assert_eq!(accept(&removed, vec![onto_nothing.clone().into()]).config(&resource, "a"), Some("2"));
    assert!(matches!(refuse(&set.image, onto_nothing), CommandError::ConfigChanged { .. }));
    let nameless = SetConfig::new(&resource, "", None);
    assert!(matches!(refuse(&image, nameless), CommandError::EmptyConfigKey));
    let absent = SetConfig::new(&ConfigResource::Topic("none".into()), "a", None);
    assert!(matches!(refuse(&image, absent), CommandError::UnknownTopic { .. }));
    let mut odd = SetConfig::new(&resource, "a", None);
    odd.resource_type = 3;
    assert!(matches!(refuse(&image, odd), CommandError::UnknownConfigResource { .. }));
    // A topic of the same batch may have configs at once.
    let topic = ConfigResource::Topic("new".into());
    let value = Some("2".to_owned());
    let image = accept(&image, vec![create("new", TopicId(3)), SetConfig::new(&topic, "b", value).into()]);
    assert_eq!(image.config(&topic, "b"), Some("2"));
}

#[test]
fn producer_ids_are_given_once() {
    let image = brokers();
    let block = |count| AllocateProducerIds::new(NodeId(1), BrokerEpoch(1), count);
    let two = step(&image, vec![block(1000).into(), block(500).into()]);
    let expected = [(0, 1000), (1000, 500)]
        .map(|(first, count)| CommandOutput::ProducerIdsAllocated { first: ProducerId(first), count });
    assert_eq!(two.outcome, BatchOutcome::Applied(expected.to_vec()));
    assert_eq!(two.image.next_producer_id(), ProducerId(1500));
    for count in [0, -1] {
        assert!(matches!(refuse(&image, block(count)), CommandError::InvalidProducerIdBlock { .. }));
    }
    let stale = AllocateProducerIds::new(NodeId(1), BrokerEpoch(0), 1);
    assert!(matches!(refuse(&image, stale), CommandError::StaleBrokerEpoch { .. }));
}

#[test]
fn the_cluster_is_named_once() {
    let image = accept(&MetadataImage::default(), vec![SetClusterId::new("one").into()]);
    assert_eq!(image.cluster_id(), Some("one"));
    accept(&image, vec![SetClusterId::new("one").into()]);
    assert!(matches!(refuse(&image, SetClusterId::new("two")), CommandError::ClusterIdSet { .. }));
    assert!(matches!(refuse(&image, SetClusterId::new("")), CommandError::EmptyClusterId));
}

#[test]
fn a_request_sent_twice_is_applied_once() {
    let request_id = RequestId { node_id: 1, incarnation: 5, sequence: 9 };
    let block = AllocateProducerIds::new(NodeId(1), BrokerEpoch(1), 10);
    let batch =
        CommandBatch::new(vec![SetClusterId::new("x").into(), block.into()]).with_request_id(request_id);
    let first = apply_batch(&brokers(), &batch);
    let other = accept(&first.image, vec![SetConfig::new(&ConfigResource::BrokerDefault, "a", None).into()]);
    let second = apply_batch(&other, &batch);
    assert_eq!(second.outcome, first.outcome);
    assert_eq!(second.first_index, first.first_index);
    assert!(second.delta.is_empty());
    assert_eq!(second.image.next_producer_id(), ProducerId(10));

    // A refused request stays refused, even where it could take effect later.
    let again = RequestId { sequence: 10, ..request_id };
    let refused = CommandBatch::new(vec![SetClusterId::new("y").into()]).with_request_id(again);
    let first = apply_batch(&second.image, &refused);
    let BatchOutcome::Refused { command_position: 0, error } = &first.outcome else { panic!("{first:?}") };
    let mut image = first.image.clone();
    image.cluster_id = None;
    let second = apply_batch(&image, &refused);
    let BatchOutcome::Refused { command_position: 0, error: now } = &second.outcome else {
        panic!("{second:?}")
    };
    assert_eq!((now.to_string(), now.error_code()), (error.to_string(), error.error_code()));
    assert_eq!((second.first_index, second.image.cluster_id()), (first.first_index, None));
}

#[test]
fn requests_are_remembered_while_they_may_come_again() {
    let mut image = MetadataImage::default();
    let mut send = |incarnation, sequence, answered_below| {
        let id = RequestId { node_id: 1, incarnation, sequence };
        let mut batch = CommandBatch::new(Vec::new()).with_request_id(id);
        batch.answered_below = answered_below;
        let index = LogIndex(image.applied_index().get() + 1);
        let step = image.apply(index, Term(1), &batch).unwrap();
        image = step.image;
        if sequence < 5 || incarnation != 5 {
            assert_eq!(MetadataImage::decode_snapshot(&image.encode_snapshot()).unwrap(), image);
        }
        let count: usize = image.requests.sessions().map(|(_, session)| session.outcomes.size()).sum();
        (index.get() - step.first_index.get(), step.outcome, count)
    };
    let done = BatchOutcome::Applied(Vec::new());
    let expired = BatchOutcome::Refused { command_position: 0, error: CommandError::RequestExpired };
    assert_eq!(send(5, 1, 0), (0, done.clone(), 1));
    assert_eq!(send(5, 2, 0), (0, done.clone(), 2));
    assert_eq!(send(5, 3, 2), (0, done.clone(), 2));
    assert_eq!(send(5, 2, 2), (2, done.clone(), 2), "it is still waited for");
    assert_eq!(send(5, 1, 0), (0, expired.clone(), 2), "its sender has given it up");
    // Even a process that never says so is not remembered without end.
    for sequence in 4..4 + REQUESTS_OUTSTANDING_MAX {
        send(5, sequence, 2);
    }
    assert_eq!(send(5, 2, 2).1, expired);
    assert_eq!(send(5, 5, 2), (REQUESTS_OUTSTANDING_MAX, done.clone(), 4096));
    // Other processes of the node are others, until too many have come after.
    for (incarnation, count) in [(6, 4097), (7, 4098), (8, 4099)] {
        assert_eq!(send(incarnation, 5, 0), (0, done.clone(), count));
    }
    assert_ne!(send(5, 6, 0).0, 0);
    assert_eq!(send(9, 1, 0), (0, done.clone(), 4));
    assert_eq!(send(6, 5, 0).2, 4);
}

#[test]
fn what_a_newer_node_wrote_is_refused_by_name() {
    let image = MetadataImage::default();
    let mut batch = CommandBatch::new(Vec::new());
    batch.format_version = FORMAT_VERSION_MAX + 1;
    let error = image.apply(LogIndex(4), Term(1), &batch).unwrap_err();
    assert!(error.to_string().contains("entry 4 has format version 2"), "{error}");
    let batch = CommandBatch::new(vec![SetClusterId::new("x").into(), Command { kind: None }]);
    let error = image.apply(LogIndex(4), Term(1), &batch).unwrap_err();
    assert_eq!(error, ApplyError::UnknownCommand { index: LogIndex(4), command_position: 1 });
    let newer = SetFormatVersion { format_version: FORMAT_VERSION_MAX + 1 };
    let error = image.apply(LogIndex(4), Term(1), &CommandBatch::new(vec![newer.into()])).unwrap_err();
    assert!(matches!(error, ApplyError::UnknownFormat { found: 2, .. }));
    let older = SetFormatVersion { format_version: 0 };
    assert!(matches!(refuse(&image, older), CommandError::FormatDowngrade { .. }));
    assert!(CommandBatch::decode_entry(LogIndex(4), &[0xff; 9]).is_err());
}

#[test]
#[should_panic(expected = "META-1")]
fn an_entry_is_applied_once() {
    let image = brokers();
    drop(image.apply(image.applied_index(), Term(1), &CommandBatch::new(Vec::new())));
}

#[test]
fn ten_thousand_partitions_are_one_batch() {
    let count = 10_000;
    let mut commands = vec![create("orders", ORDERS)];
    for partition in 0..count {
        commands.push(assign(partition, &[1, 2, 3]));
        commands.push(lead(partition, Some(1)).into());
        commands.push(isr(partition, &[1, 2, 3], Some(1)).into());
    }
    assert!(commands.len() < COMMANDS_PER_BATCH_MAX);
    let image = accept(&brokers(), commands);
    assert_eq!(image.partition_count(), 10_000);
    assert!(image.topic("orders").unwrap().partitions().all(|(_, partition)| partition.isr.len() == 3));
}

#[test]
fn kip_841_a_broker_that_is_about_to_stop_enters_no_isr_until_it_registers_anew() {
    let image = orders();
    let epoch = image.broker(NodeId(3)).unwrap().epoch;
    let begin = BeginControlledShutdown::new(NodeId(3), epoch);
    let stale = BeginControlledShutdown::new(NodeId(3), BrokerEpoch(epoch.get() + 1));
    assert!(matches!(refuse(&image, stale), CommandError::StaleBrokerEpoch { .. }));
    let image = accept(&image, vec![isr(0, &[1, 2], None).into(), begin.clone().into()]);
    let stopping = image.broker(NodeId(3)).unwrap();
    assert!(!stopping.fenced && stopping.in_controlled_shutdown && !stopping.is_active());
    assert_eq!(accept(&image, vec![begin.into()]).brokers, image.brokers);
    let back = isr(0, &[1, 2, 3], None).with_broker_epochs([None; 3]);
    assert!(matches!(refuse(&image, back.clone()), CommandError::IneligibleReplica { node: NodeId(3), .. }));
    let image = accept(&image, vec![register(3, 77), UnfenceBroker::new(NodeId(3), None).into()]);
    assert!(image.broker(NodeId(3)).unwrap().is_active());
    accept(&image, vec![back.into()]);
}

/// Registers broker `id` anew, with logs that were last written under `previous`.
fn register_again(id: i32, incarnation: u128, previous: i64) -> Command {
    register_after(id, incarnation, previous, &[])
}

fn register_after(id: i32, incarnation: u128, previous: i64, between: &[u128]) -> Command {
    let Some(CommandKind::RegisterBroker(mut command)) = register(id, incarnation).kind else {
        unreachable!()
    };
    command.previous_broker_epoch = Some(previous);
    command.previous_incarnations = between.iter().copied().map(Into::into).collect();
    command.into()
}

fn elr_of(image: &MetadataImage, index: i32) -> Vec<i32> {
    partition(image, index).elr.iter().map(|node| node.get()).collect()
}

fn isr_of(image: &MetadataImage, index: i32) -> Vec<i32> {
    partition(image, index).isr.iter().map(|node| node.get()).collect()
}

#[test]
fn kip_966_the_elr_is_told_with_the_isr_and_leads_like_it() {
    let image = orders();
    let image = accept(&image, vec![isr(0, &[1], None).with_elr(&nodes(&[2])).into()]);
    assert_eq!((isr_of(&image, 0), elr_of(&image, 0)), (vec![1], vec![2]));
    assert!(matches!(
        refuse(&image, isr(0, &[1], None).with_elr(&nodes(&[1]))),
        CommandError::InvalidIsr { .. }
    ));
    assert!(matches!(
        refuse(&image, isr(0, &[1], None).with_elr(&nodes(&[9]))),
        CommandError::NotReplica { .. }
    ));
    assert!(matches!(refuse(&image, lead(0, Some(3))), CommandError::LeaderNotInSync { .. }));
    let elected = accept(&image, vec![lead(0, Some(2)).into()]);
    assert_eq!((isr_of(&elected, 0), elr_of(&elected, 0)), (vec![2], vec![1]), "both have everything");
    let unclean = SetPartitionLeader { unclean: true, ..lead(0, Some(3)) };
    let lost = accept(&image, vec![unclean.into()]);
    assert_eq!((isr_of(&lost, 0), elr_of(&lost, 0)), (vec![3], vec![]), "nobody is known to have more");
    let before = partition(&image, 0).partition_epoch;
    let whole = accept(&image, vec![isr(0, &[1], None).into()]);
    assert_eq!(elr_of(&whole, 0), []);
    assert_eq!(partition(&whole, 0).partition_epoch.get(), before.get() + 1);
}

#[test]
fn kip_966_a_broker_that_may_have_lost_records_leaves_every_isr_and_elr() {
    let image = orders();
    let image = accept(&image, vec![isr(1, &[2], None).with_elr(&nodes(&[1])).into()]);
    let epoch = image.broker(NodeId(1)).unwrap().epoch.get();
    let clean = accept(&image, vec![register_again(1, 50, epoch)]);
    assert_eq!((isr_of(&clean, 0), elr_of(&clean, 1)), (vec![1, 2, 3], vec![1]), "its records are all there");
    assert_eq!(partition(&clean, 0).leader, Some(NodeId(1)));
    for previous in [-1, epoch - 1, epoch + 1] {
        let image = accept(&image, vec![register_again(1, 50, previous)]);
        assert_eq!((isr_of(&image, 0), elr_of(&image, 1)), (vec![2, 3], vec![]));
        assert_eq!(partition(&image, 0).leader, None);
        assert_eq!(partition(&image, 0).leader_epoch, LeaderEpoch(1));
        assert_eq!(partition(&image, 1).leader, Some(NodeId(2)));
        // The process that has told it once may tell it again.
        let again = accept(&image, vec![register_again(1, 50, previous)]);
        assert_eq!(partition(&again, 0), partition(&image, 0));
    }
}

/// A registration can be committed long after the process that asked for it has ended.
#[test]
fn kip_966_a_process_that_was_registered_after_its_end_has_lost_nothing() {
    let image = orders();
    let epoch = image.broker(NodeId(1)).unwrap().epoch.get();
    let image = accept(&image, vec![register_again(1, 50, epoch)]);
    let next = |between: &[u128]| accept(&image, vec![register_after(1, 52, epoch, between)]);
    assert_eq!(isr_of(&next(&[50, 51]), 0), vec![1, 2, 3], "process 51 was never registered");
    assert_eq!(isr_of(&next(&[51]), 0), vec![2, 3], "nobody knows what process 50 has written");
    assert_eq!(isr_of(&next(&[]), 0), vec![2, 3]);
}

#[test]
fn kip_966_the_last_in_sync_that_may_have_lost_records_gives_way_to_the_elr() {
    let image = orders();
    let image = accept(&image, vec![isr(0, &[1], None).with_elr(&nodes(&[3])).into()]);
    let given = accept(&image, vec![register_again(1, 50, -1)]);
    assert_eq!((isr_of(&given, 0), elr_of(&given, 0)), (vec![3], vec![]));
    assert_eq!(partition(&given, 0).leader, None);
    let alone = accept(&image, vec![isr(0, &[1], None).into()]);
    let kept = accept(&alone, vec![register_again(1, 50, -1)]);
    assert_eq!(isr_of(&kept, 0), [1], "there is nobody better");
    assert_eq!(partition(&kept, 0).leader, None, "what it writes from now on is another epoch's");
}

/// Replication point 10.
#[test]
fn kip_704_an_unclean_election_begins_a_recovery_which_the_leader_ends() {
    let image = orders();
    let unclean = SetPartitionLeader { unclean: true, ..lead(0, Some(3)) };
    let in_sync = accept(&image, vec![unclean.clone().into()]);
    assert!(!partition(&in_sync, 0).is_recovering, "replica 3 is in sync, and nothing is lost");
    let image = accept(&image, vec![isr(0, &[1], None).into()]);
    let image = accept(&image, vec![unclean.into()]);
    assert!(partition(&image, 0).is_recovering);
    assert!(matches!(refuse(&image, isr(0, &[3, 1], None)), CommandError::InvalidIsr { .. }));
    // Leaders come and go, and the next one knows that nobody has said so yet.
    let image = accept(&image, vec![lead(0, None).into()]);
    let image = accept(&image, vec![lead(0, Some(3)).into()]);
    assert!(partition(&image, 0).is_recovering);
    let kept = MetadataImage::decode_snapshot(&image.encode_snapshot()).unwrap();
    assert_eq!(kept, image);
    let before = partition(&image, 0).partition_epoch;
    let image = accept(&image, vec![isr(0, &[3], None).with_recovery(true).into()]);
    assert!(!partition(&image, 0).is_recovering);
    assert_eq!(partition(&image, 0).partition_epoch.get(), before.get() + 1, "META-2");
    accept(&image, vec![isr(0, &[3, 1], None).into()]);
    // The last known leader has lost its unsynced records, and there is nobody better.
    let image = accept(&image, vec![register_again(3, 50, -1)]);
    let lost = partition(&image, 0);
    assert_eq!((isr_of(&image, 0), lost.leader, lost.is_recovering), (vec![3], None, true));
}

/// Replication points 4 and 5: what was decided on an older state of affairs has no effect, whenever it arrives.
#[test]
fn kip_497_late_changes_of_the_isr_are_refused() {
    let image = orders();
    let state = partition(&image, 0);
    let of_epoch =
        |leader_epoch: i32, command: UpdateIsr| UpdateIsr { leader_epoch: Some(leader_epoch), ..command };
    let seen = Some(state.partition_epoch.get());
    let late = of_epoch(state.leader_epoch.get(), isr(0, &[1, 2], seen));
    let moved = accept(&image, vec![lead(0, Some(2)).into()]);
    assert!(matches!(refuse(&moved, late.clone()), CommandError::StalePartitionEpoch { .. }));
    let for_any = UpdateIsr { partition_epoch: None, ..late.clone() };
    assert!(matches!(refuse(&moved, for_any), CommandError::StaleLeaderEpoch { .. }));
    let once = accept(&image, vec![late.clone().into()]);
    assert!(
        matches!(refuse(&once, late), CommandError::StalePartitionEpoch { .. }),
        "a copy that came later"
    );
}

/// Replication point 5: what was heard of an earlier life of a broker says nothing about the present one.
#[test]
fn kip_903_late_words_about_an_earlier_life_of_a_broker_are_refused() {
    let image = orders();
    let earlier = image.broker(NodeId(3)).unwrap().epoch;
    let image = accept(&image, vec![register(3, 88)]);
    let epoch = image.broker(NodeId(3)).unwrap().epoch;
    assert!(earlier < epoch && image.broker(NodeId(3)).unwrap().fenced, "it is fenced until it is heard of");
    let unfence = UnfenceBroker::new(NodeId(3), Some(earlier));
    assert!(matches!(refuse(&image, unfence), CommandError::StaleBrokerEpoch { .. }));
    let image = accept(&image, vec![UnfenceBroker::new(NodeId(3), Some(epoch)).into()]);
    let fence = FenceBroker::new(NodeId(3), Some(earlier));
    assert!(matches!(refuse(&image, fence), CommandError::StaleBrokerEpoch { .. }));
    let whole = isr(0, &[1, 2, 3], None);
    let stale = whole.clone().with_broker_epochs([None, None, Some(earlier)]);
    assert!(matches!(refuse(&image, stale), CommandError::IneligibleReplica { node: NodeId(3), .. }));
    accept(
        &image,
        vec![isr(0, &[1, 2], None).into(), whole.with_broker_epochs([None, None, Some(epoch)]).into()],
    );
}
