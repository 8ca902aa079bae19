//! Where a client finds what it looks for: topics by name, their ids, their leaders.
//!
//! Nodes know different pasts. As Kafka's clients do (KIP-320), one that has heard of a leader epoch believes nobody who
//! knows an older one only, and says its epoch to those that it reads from.

use std::collections::BTreeMap;

use chronik_protocol::messages::metadata_request::MetadataRequestTopic;
use chronik_protocol::messages::{MetadataRequest, MetadataResponse};
use chronik_types::{ErrorCode, LeaderEpoch, TopicId};

use super::Context;
use crate::cluster::network::Answer;

/// The version that names topics by id.
const VERSION: i16 = 12;

/// A topic as a client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownTopic {
    pub(super) id: TopicId,
    pub(super) leaders: Vec<KnownLeader>,
}

impl KnownTopic {
    /// Who leads a partition.
    pub(super) fn leader(&self, partition: i32) -> KnownLeader {
        let index = usize::try_from(partition).ok();
        index.and_then(|index| self.leaders.get(index)).copied().unwrap_or_default()
    }
}

/// Who leads a partition, as a client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownLeader {
    /// The node, if one leads.
    pub(super) node: Option<usize>,
    pub(super) epoch: LeaderEpoch,
}

impl Default for KnownLeader {
    fn default() -> Self {
        Self { node: None, epoch: LeaderEpoch::NONE }
    }
}

/// What a client knows of topics.
#[derive(Default)]
pub(super) struct Routing {
    names: Vec<String>,
    pub(super) topics: BTreeMap<String, KnownTopic>,
    /// The last leaders that were believed, beyond answers in which their topic is missing.
    believed: BTreeMap<(TopicId, i32), KnownLeader>,
    is_asking: bool,
    /// Somebody has found it to be wrong.
    is_stale: bool,
    not_before_ms: u64,
}

impl Routing {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self { names, is_stale: true, ..Self::default() }
    }

    /// What is known is wrong.
    pub(super) fn distrust(&mut self) {
        self.is_stale = true;
    }

    /// Asks a node, if something is wrong and nobody is asked already.
    pub(super) fn refresh(&mut self, context: &mut Context<'_>, token: u64) {
        if self.is_asking || !self.is_stale || context.now_ms < self.not_before_ms {
            return;
        }
        self.is_asking = true;
        self.is_stale = false;
        self.not_before_ms = context.now_ms + 30;
        let topic =
            |name: &String| MetadataRequestTopic { topic_id: TopicId::ZERO, name: Some(name.clone()) };
        let request = MetadataRequest {
            topics: Some(self.names.iter().map(topic).collect()),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        let node = context.any_node();
        context.call(node, VERSION, &request, token);
    }

    /// Takes the answer.
    pub(super) fn answered(&mut self, context: &mut Context<'_>, answer: Option<&Answer>) {
        self.is_asking = false;
        match context.read::<MetadataResponse>(answer, VERSION) {
            Some(response) => self.learn(response),
            None => self.is_stale = true,
        }
    }

    fn learn(&mut self, response: MetadataResponse) {
        for topic in response.topics {
            let Some(name) = topic.name else { continue };
            if topic.error_code == ErrorCode::UnknownTopicOrPartition.code() {
                self.topics.remove(&name);
                self.is_stale = true;
                continue;
            }
            if topic.error_code != 0 {
                self.is_stale = true;
                continue;
            }
            let mut leaders = vec![KnownLeader::default(); topic.partitions.len()];
            for partition in topic.partitions {
                let told = KnownLeader {
                    node: usize::try_from(partition.leader_id - 1).ok(),
                    epoch: LeaderEpoch(partition.leader_epoch),
                };
                let believed =
                    self.believed.entry((topic.topic_id, partition.partition_index)).or_insert(told);
                if believed.epoch <= told.epoch {
                    *believed = told;
                }
                let index = usize::try_from(partition.partition_index).unwrap_or(usize::MAX);
                if let Some(slot) = leaders.get_mut(index) {
                    *slot = *believed;
                }
                self.is_stale |= believed.node.is_none();
            }
            self.topics.insert(name, KnownTopic { id: topic.topic_id, leaders });
        }
    }

    /// The topic of this id, if it is still known under any name.
    pub(super) fn by_id(&self, id: TopicId) -> Option<&KnownTopic> {
        self.topics.values().find(|topic| topic.id == id)
    }
}

#[cfg(test)]
mod tests {
    use chronik_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};

    use super::*;

    fn told(id: TopicId, leader_id: i32, leader_epoch: i32) -> MetadataResponse {
        let partition = MetadataResponsePartition { leader_id, leader_epoch, ..Default::default() };
        let topic = MetadataResponseTopic {
            name: Some("t".to_owned()),
            topic_id: id,
            partitions: vec![partition],
            ..Default::default()
        };
        MetadataResponse { topics: vec![topic], ..Default::default() }
    }

    fn missing() -> MetadataResponse {
        let error_code = ErrorCode::UnknownTopicOrPartition.code();
        let topic = MetadataResponseTopic { name: Some("t".to_owned()), error_code, ..Default::default() };
        MetadataResponse { topics: vec![topic], ..Default::default() }
    }

    fn leader(routing: &Routing, id: TopicId) -> (Option<usize>, i32) {
        let leader = routing.by_id(id).unwrap().leader(0);
        (leader.node, leader.epoch.get())
    }

    #[test]
    fn kip_320_a_leader_of_an_older_epoch_is_not_believed() {
        let (id, next_id) = (TopicId::from_bytes([1; 16]), TopicId::from_bytes([2; 16]));
        let mut routing = Routing::new(vec!["t".to_owned()]);
        routing.learn(told(id, 2, 0));
        assert_eq!(leader(&routing, id), (Some(1), 0));
        routing.learn(told(id, 3, 1));
        routing.learn(told(id, 2, 0));
        assert_eq!(leader(&routing, id), (Some(2), 1), "by a node that has not heard of the next leader");
        routing.learn(missing());
        assert_eq!(routing.by_id(id), None);
        routing.learn(told(id, 2, 0));
        assert_eq!(leader(&routing, id), (Some(2), 1), "nor after one that has not heard of the topic");
        routing.learn(told(id, -1, 1));
        assert_eq!(leader(&routing, id), (None, 1), "in the same epoch there may be nobody");
        routing.learn(told(next_id, 2, 0));
        assert_eq!(leader(&routing, next_id), (Some(1), 0), "another topic's epochs are its own");
    }
}
