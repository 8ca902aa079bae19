//! Where a client finds what it looks for: topics by name, their ids, their leaders.

use std::collections::BTreeMap;

use chronik_protocol::messages::metadata_request::MetadataRequestTopic;
use chronik_protocol::messages::{MetadataRequest, MetadataResponse};
use chronik_types::{ErrorCode, TopicId};

use super::Context;
use crate::cluster::network::Answer;

/// The version that names topics by id.
const VERSION: i16 = 12;

/// A topic as a client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownTopic {
    pub(super) id: TopicId,
    /// The node that leads each partition, if one does.
    pub(super) leaders: Vec<Option<usize>>,
}

/// What a client knows of topics.
#[derive(Default)]
pub(super) struct Routing {
    names: Vec<String>,
    pub(super) topics: BTreeMap<String, KnownTopic>,
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
        let Some(response) = context.read::<MetadataResponse>(answer, VERSION) else {
            self.is_stale = true;
            return;
        };
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
            let mut leaders = vec![None; topic.partitions.len()];
            for partition in topic.partitions {
                let leader = usize::try_from(partition.leader_id - 1).ok();
                let index = usize::try_from(partition.partition_index).unwrap_or(usize::MAX);
                if let Some(slot) = leaders.get_mut(index) {
                    *slot = leader;
                }
                self.is_stale |= leader.is_none();
            }
            self.topics.insert(name, KnownTopic { id: topic.topic_id, leaders });
        }
    }

    /// The topic of this id, if it is still known under any name.
    pub(super) fn by_id(&self, id: TopicId) -> Option<&KnownTopic> {
        self.topics.values().find(|topic| topic.id == id)
    }
}
