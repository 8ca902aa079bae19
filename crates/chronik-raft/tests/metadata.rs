//! The laws of the metadata state machine, over random histories.

use std::collections::{BTreeMap, BTreeSet};

use chronik_raft::metadata::{
    AllocateProducerIds, AssignPartition, BatchOutcome, Command, CommandBatch, ConfigResource, CreateTopic,
    DeleteTopic, Delta, Endpoint, FenceBroker, MetadataImage, RegisterBroker, RequestId, SetClusterId,
    SetConfig, SetPartitionLeader, UnfenceBroker, UpdateIsr,
};
use chronik_types::{BrokerEpoch, LogIndex, NodeId, PartitionEpoch, PartitionIndex, Term, TopicId};
use proptest::prelude::*;

fn node() -> impl Strategy<Value = NodeId> {
    (0..5_i32).prop_map(NodeId)
}

fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::vec(node(), 0..4)
}

fn topic_id() -> impl Strategy<Value = TopicId> {
    (1..5_u128).prop_map(TopicId)
}

fn partition() -> impl Strategy<Value = PartitionIndex> {
    (-1..4_i32).prop_map(PartitionIndex)
}

fn endpoint() -> Endpoint {
    Endpoint { listener: "PLAINTEXT".to_owned(), host: "host".to_owned(), port: 9092, security_protocol: 0 }
}

/// Few names and numbers, so that commands meet each other; many of them are refused, as they should be.
fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        1 => (node(), 0..3_u128)
            .prop_map(|(id, incarnation)| RegisterBroker::new(id, incarnation, vec![endpoint()]).into()),
        1 => node().prop_map(|id| FenceBroker::new(id, None).into()),
        1 => node().prop_map(|id| UnfenceBroker::new(id, None).into()),
        2 => (0..4_u8, topic_id())
            .prop_map(|(name, id)| CreateTopic::new(format!("topic-{name}"), id, 3, 2).into()),
        4 => (topic_id(), partition(), nodes())
            .prop_map(|(id, partition, replicas)| AssignPartition::new(id, partition, &replicas).into()),
        4 => (topic_id(), partition(), prop::option::of(node()), any::<bool>(), any::<bool>()).prop_map(
            |(id, partition, leader, unclean, always_new_epoch)| {
                let command = SetPartitionLeader::new(id, partition, leader);
                SetPartitionLeader { unclean, always_new_epoch, ..command }.into()
            }
        ),
        4 => (topic_id(), partition(), nodes(), prop::option::of(0..6_i32)).prop_map(
            |(id, partition, isr, epoch)| {
                UpdateIsr::new(id, partition, &isr, epoch.map(PartitionEpoch)).into()
            }
        ),
        1 => topic_id().prop_map(|id| DeleteTopic::new(id).into()),
        1 => (0..4_u8, 0..2_u8, prop::option::of("[ab]")).prop_map(|(name, key, value)| {
            let resource = ConfigResource::Topic(format!("topic-{name}").into());
            SetConfig::new(&resource, format!("key-{key}"), value).into()
        }),
        1 => (node(), 0..9_i64, 0..100_i32)
            .prop_map(|(id, epoch, count)| AllocateProducerIds::new(id, BrokerEpoch(epoch), count).into()),
        1 => "[xy]".prop_map(|id| SetClusterId::new(id).into()),
    ]
}

fn batch() -> impl Strategy<Value = CommandBatch> {
    // Short batches, since one refused command refuses them all.
    let commands = prop::collection::vec(command(), 1..4);
    (commands, prop::option::weighted(0.3, 0..6_u64)).prop_map(|(commands, sequence)| {
        let batch = CommandBatch::new(commands);
        match sequence {
            Some(sequence) => batch.with_request_id(RequestId { node_id: 1, incarnation: 2, sequence }),
            None => batch,
        }
    })
}

/// Brokers and a topic that is assigned, so that not every history begins from nothing.
fn prelude() -> CommandBatch {
    let all = [NodeId(0), NodeId(1), NodeId(2)];
    let mut commands: Vec<Command> =
        (0..4).map(|id| RegisterBroker::new(NodeId(id), 1, vec![endpoint()]).into()).collect();
    commands.push(CreateTopic::new("topic-0", TopicId(1), 2, 3).into());
    for index in 0..2 {
        let index = PartitionIndex(index);
        commands.push(AssignPartition::new(TopicId(1), index, &all).into());
        commands.push(SetPartitionLeader::new(TopicId(1), index, Some(NodeId(0))).into());
        commands.push(UpdateIsr::new(TopicId(1), index, &all, Some(PartitionEpoch(1))).into());
    }
    CommandBatch::new(commands)
}

/// META-2 to META-4 between an image and the next.
fn check_partitions(old: &MetadataImage, new: &MetadataImage) {
    for topic in new.topics() {
        let by_id = new.topic_by_id(topic.id).expect("both maps have the same topics");
        assert_eq!(by_id, topic);
        let old_topic = old.topic_by_id(topic.id);
        assert!(old_topic.is_none_or(|old| old.partition_count() <= topic.partition_count()));
        for (index, now) in topic.partitions() {
            let distinct: BTreeSet<_> = now.replicas.iter().collect();
            assert!(!now.replicas.is_empty() && distinct.len() == now.replicas.len());
            assert!(now.isr.iter().all(|node| now.replicas.contains(node)), "META-3: {now:?}");
            assert!(now.leader.is_none_or(|leader| now.isr.contains(&leader)), "META-3: {now:?}");
            let Some(before) = old_topic.and_then(|old| old.partition(index)) else { continue };
            assert_eq!(before.replicas, now.replicas, "META-4");
            let steps = now.partition_epoch.get() - before.partition_epoch.get();
            assert_eq!(steps == 0, before == now, "META-2: {before:?} became {now:?}");
            assert!(0 <= steps && before.leader_epoch <= now.leader_epoch);
            let same_leader_epoch = before.leader_epoch == now.leader_epoch;
            assert!(!same_leader_epoch || before.leader == now.leader, "{before:?} became {now:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn histories_obey_the_laws(batches in prop::collection::vec(batch(), 1..40)) {
        let mut image = MetadataImage::default();
        let mut answered: BTreeMap<u64, (LogIndex, BatchOutcome)> = BTreeMap::new();
        for (batch, index) in std::iter::once(prelude()).chain(batches).zip(1..) {
            let (index, term) = (LogIndex(index), Term(1));
            let step = image.apply(index, term, &batch).unwrap();
            check_partitions(&image, &step.image);
            prop_assert_eq!(&step.delta, &Delta::between(&image, &step.image));
            // META-1: what a snapshot gives back goes the same way.
            let restored = MetadataImage::decode_snapshot(&image.encode_snapshot()).unwrap();
            let same = restored.apply(index, term, &batch).unwrap();
            prop_assert_eq!(same.image.encode_snapshot(), step.image.encode_snapshot());
            prop_assert_eq!(&same.outcome, &step.outcome);
            match &step.outcome {
                BatchOutcome::Applied(outputs) if step.first_index == index => {
                    prop_assert_eq!(outputs.len(), batch.commands.len());
                }
                // Another batch under the id of one that was applied is taken for that one.
                BatchOutcome::Applied(_) => prop_assert!(step.delta.is_empty()),
                BatchOutcome::Refused { .. } => {
                    prop_assert!(step.delta.is_empty());
                    prop_assert_eq!(&Delta::between(&image, &step.image), &Delta::default());
                    prop_assert_eq!(image.next_producer_id(), step.image.next_producer_id());
                    prop_assert!(batch.request_id.is_some() || step.image == image.skip(index, term));
                }
            }
            if let Some(id) = batch.request_id {
                let now = (step.first_index, step.outcome.clone());
                let (first, outcome) = answered.entry(id.sequence).or_insert(now.clone());
                prop_assert_eq!(*first, now.0, "a request takes effect once");
                let applied = |outcome: &BatchOutcome| matches!(outcome, BatchOutcome::Applied(_));
                prop_assert_eq!(applied(outcome), applied(&now.1), "what was refused stays refused");
            }
            image = step.image;
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_reason_to_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(CommandBatch::decode_entry(LogIndex(1), &bytes));
        drop(MetadataImage::decode_snapshot(&bytes));
        drop(chronik_raft::inspect::summarize_message(bytes.into()));
    }
}
