//! What clients ask of the nodes, and what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_raft::metadata::{
    AllocateProducerIds, AssignPartition, Command, CommandBatch, CommandOutput, ConfigResource, CreateTopic,
    MetadataImage, SetConfig, SetPartitionLeader, UpdateIsr,
};
use chronik_raft::{Applied, MetadataLog, ProposeError, RaftHandle};
use chronik_types::{LogIndex, NodeId, PartitionIndex, TopicId};
use parking_lot::Mutex;

use crate::checkers::{Checkers, Rule};
use crate::random::Random;

/// How many producer ids each request takes: what was applied twice has taken twice as many.
const IDS_PER_REQUEST: i32 = 10;

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Asked,
    Applied,
    /// It was refused, and must never take effect.
    Refused,
    /// It may take effect or not.
    Unknown,
}

struct Request {
    kind: Kind,
    fate: Fate,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A topic of this number's id, under a name that another request may ask for too.
    Topic,
    /// A config of this number's name.
    Config,
}

/// All requests of a history.
#[derive(Default)]
pub(crate) struct Client {
    requests: Vec<Request>,
    /// The first ids of the blocks that were handed out.
    blocks: BTreeSet<i64>,
    /// The newest entry that any node has shown anybody.
    shown: LogIndex,
    pub(crate) barrier_count: usize,
    waiting_barrier_count: usize,
}

/// A client, as answers find it.
pub(crate) type SharedClient = Arc<Mutex<Client>>;

fn topic_id(number: usize) -> TopicId {
    TopicId(number as u128 + 1)
}

fn config_key(number: usize) -> String {
    format!("request-{number}")
}

impl Client {
    pub(crate) fn applied_count(&self) -> usize {
        self.requests.iter().filter(|request| request.fate == Fate::Applied).count()
    }

    pub(crate) fn refused_count(&self) -> usize {
        self.requests.iter().filter(|request| request.fate == Fate::Refused).count()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.requests.len()
    }

    /// Whether everything has been answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting_barrier_count == 0 && self.requests.iter().all(|request| request.fate != Fate::Asked)
    }

    /// Holds an image that nothing changes any more against what was answered.
    pub(crate) fn check(&self, image: &MetadataImage, checkers: &mut Checkers) {
        let mut effect_count = 0_i64;
        for (number, request) in self.requests.iter().enumerate() {
            let there = match request.kind {
                Kind::Topic => image.topic_by_id(topic_id(number)).is_some(),
                Kind::Config => image.config(&ConfigResource::BrokerDefault, &config_key(number)).is_some(),
            };
            effect_count += i64::from(there);
            let right = match request.fate {
                Fate::Applied => there,
                Fate::Refused => !there,
                Fate::Asked => false,
                Fate::Unknown => true,
            };
            if !right {
                let Request { kind, fate } = request;
                let text = format!("request {number} ({kind:?}) was {fate:?}; is it there: {there}");
                checkers.report(Rule::ExactlyOnce, text);
            }
        }
        let ids = image.next_producer_id().get();
        if ids != effect_count * i64::from(IDS_PER_REQUEST) {
            let text = format!("{effect_count} requests took effect, and {ids} producer ids are gone");
            checkers.report(Rule::ExactlyOnce, text);
        }
    }
}

/// Asks a node for something new.
pub(crate) fn ask(
    client: &SharedClient,
    checkers: &Arc<Mutex<Checkers>>,
    (node, handle): (NodeId, &RaftHandle),
    random: &mut Random,
    nodes: &[NodeId],
) {
    let image = handle.image();
    let Some(broker) = image.broker(node) else { return };
    let number = client.lock().requests.len();
    // Replicas are registered brokers.
    let all_known = nodes.iter().all(|node| image.broker(*node).is_some());
    let kind = if random.below(3) == 0 || !all_known { Kind::Config } else { Kind::Topic };
    let mut commands: Vec<Command> = Vec::new();
    match kind {
        Kind::Topic => {
            // Some names are asked for twice; one of the two requests must be refused.
            let name = if random.below(6) == 0 && 0 < number { number - 1 } else { number };
            let id = topic_id(number);
            commands.push(CreateTopic::new(format!("topic-{name}"), id, 1, 1).into());
            let first = random.index(nodes.len());
            let replicas: Vec<NodeId> = (0..3).map(|place| nodes[(first + place) % nodes.len()]).collect();
            commands.push(AssignPartition::new(id, PartitionIndex(0), &replicas).into());
            commands.push(SetPartitionLeader::new(id, PartitionIndex(0), Some(replicas[0])).into());
            commands.push(UpdateIsr::new(id, PartitionIndex(0), &replicas, None).into());
        }
        Kind::Config => {
            let key = config_key(number);
            commands.push(SetConfig::new(&ConfigResource::BrokerDefault, key, Some(String::new())).into());
        }
    }
    commands.push(AllocateProducerIds::new(node, broker.epoch, IDS_PER_REQUEST).into());
    client.lock().requests.push(Request { kind, fate: Fate::Asked });
    let (client, checkers, reader) = (Arc::clone(client), Arc::clone(checkers), handle.clone());
    handle.propose(
        CommandBatch::new(commands),
        Box::new(move |outcome| {
            let mut client = client.lock();
            let fate = match outcome {
                Ok(applied) => {
                    client.applied(number, &applied, &reader.image(), &mut checkers.lock());
                    Fate::Applied
                }
                Err(
                    ProposeError::Refused { .. }
                    | ProposeError::NotLeader { .. }
                    | ProposeError::Busy
                    | ProposeError::DiskFull
                    | ProposeError::TooLarge { .. }
                    | ProposeError::UnknownFormat { .. },
                ) => Fate::Refused,
                Err(
                    ProposeError::LeadershipLost
                    | ProposeError::TimedOut { .. }
                    | ProposeError::Unacceptable { .. }
                    | ProposeError::CannotApply(_)
                    | ProposeError::Stopped { .. },
                ) => Fate::Unknown,
            };
            client.requests[number].fate = fate;
        }),
    );
}

impl Client {
    fn applied(&mut self, number: usize, applied: &Applied, image: &MetadataImage, checkers: &mut Checkers) {
        if image.applied_index() < applied.index {
            let text = format!("request {number} was answered before entry {} was visible", applied.index);
            checkers.report(Rule::ExactlyOnce, text);
        }
        self.shown = self.shown.max(image.applied_index());
        for output in &applied.outputs {
            if let CommandOutput::ProducerIdsAllocated { first, .. } = output
                && !self.blocks.insert(first.get())
            {
                checkers.report(Rule::ExactlyOnce, format!("the ids from {first} were given twice"));
            }
        }
    }
}

/// Changes a partition that is there: its ISR, or its leader.
pub(crate) fn disturb(handle: &RaftHandle, random: &mut Random) {
    let image = handle.image();
    let topics: BTreeMap<TopicId, _> = image.topics().map(|topic| (topic.id, topic)).collect();
    if topics.is_empty() {
        return;
    }
    let Some(topic) = topics.values().nth(random.index(topics.len())) else { return };
    let Some((index, partition)) = topic.partitions().next() else { return };
    let command: Command = if random.below(2) == 0 {
        let mut isr: Vec<NodeId> = partition.replicas.to_vec();
        isr.truncate(1 + random.index(isr.len()));
        UpdateIsr::new(topic.id, index, &isr, Some(partition.partition_epoch)).into()
    } else {
        let leader = partition.isr.get(random.index(partition.isr.len().max(1))).copied();
        SetPartitionLeader::new(topic.id, index, leader).into()
    };
    // Whether it was refused is nobody's concern.
    handle.propose(CommandBatch::new(vec![command]), Box::new(drop));
}

/// Asks for an image that is as new as anything that anybody has been shown.
pub(crate) fn barrier(client: &SharedClient, checkers: &Arc<Mutex<Checkers>>, handle: &RaftHandle) {
    let shown = {
        let mut client = client.lock();
        client.waiting_barrier_count += 1;
        client.shown
    };
    let (client, checkers) = (Arc::clone(client), Arc::clone(checkers));
    handle.barrier(Box::new(move |outcome| {
        let mut client = client.lock();
        client.waiting_barrier_count -= 1;
        let Ok(image) = outcome else { return };
        client.barrier_count += 1;
        if image.applied_index() < shown {
            let text =
                format!("a barrier gave entry {} after entry {shown} was shown", image.applied_index());
            checkers.lock().report(Rule::Barrier, text);
        }
        client.shown = client.shown.max(image.applied_index());
    }));
}
