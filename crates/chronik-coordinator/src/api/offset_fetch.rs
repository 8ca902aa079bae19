//! `OffsetFetch` (9), versions 1–10. A partition without a committed offset is answered with −1 and no error.
//!
//! From version 8 on a request names several groups, which may live in several shards: the broker takes it apart
//! with [`offset_fetch_groups`], asks each group's shard, and puts the answer together with
//! [`offset_fetch_response`].

use std::sync::Arc;

use chronik_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use chronik_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use chronik_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use chronik_types::{ErrorCode, TopicId};

use crate::coordinator::GroupCoordinator;
use crate::effects::Topics;
use crate::offsets::CommittedOffset;

/// The first version that names several groups.
const BATCH_VERSION: i16 = 8;
/// The first version that names topics by id.
const TOPIC_ID_VERSION: i16 = 10;
/// The first version with an error for the whole group.
const GROUP_ERROR_VERSION: i16 = 2;

/// The groups that a request asks for, in the form of its latest version.
pub fn offset_fetch_groups(request: &OffsetFetchRequest, api_version: i16) -> Vec<OffsetFetchRequestGroup> {
    if api_version >= BATCH_VERSION {
        return request.groups.clone();
    }
    let topics = request.topics.as_ref().map(|topics| {
        let topic = |topic: &chronik_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic| {
            OffsetFetchRequestTopics {
                name: topic.name.clone(),
                partition_indexes: topic.partition_indexes.clone(),
                ..Default::default()
            }
        };
        topics.iter().map(topic).collect()
    });
    vec![OffsetFetchRequestGroup { group_id: request.group_id.clone(), topics, ..Default::default() }]
}

/// The answer of `groups` in the form of a version. Below version 8 there is one group.
pub fn offset_fetch_response(groups: Vec<OffsetFetchResponseGroup>, api_version: i16) -> OffsetFetchResponse {
    if api_version >= BATCH_VERSION {
        return OffsetFetchResponse { groups, ..Default::default() };
    }
    let Some(group) = groups.into_iter().next() else { return OffsetFetchResponse::default() };
    let partition = |partition: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        // Older versions have no place for it.
        committed_leader_epoch: if api_version < 5 { -1 } else { partition.committed_leader_epoch },
        metadata: partition.metadata,
        error_code: partition.error_code,
    };
    let topic = |topic: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
    };
    OffsetFetchResponse {
        topics: group.topics.into_iter().map(topic).collect(),
        error_code: if api_version < GROUP_ERROR_VERSION { 0 } else { group.error_code },
        ..Default::default()
    }
}

impl GroupCoordinator {
    /// Answers for one group. `require_stable` (version 7, KIP-447) refuses a partition with
    /// `UNSTABLE_OFFSET_COMMIT` while another offset is on its way to be committed.
    pub fn offset_fetch(
        &self,
        api_version: i16,
        request: &OffsetFetchRequestGroup,
        require_stable: bool,
        topics: &dyn Topics,
    ) -> OffsetFetchResponseGroup {
        if let Err(error) = self.check_serving() {
            return refuse_group(request, api_version, error);
        }
        let by_id = api_version >= TOPIC_ID_VERSION;
        let topics = match &request.topics {
            Some(asked) => {
                let topic = |topic| self.fetch_topic(&request.group_id, topic, by_id, require_stable, topics);
                asked.iter().map(topic).collect()
            }
            None => self.fetch_all(&request.group_id, by_id, require_stable, topics),
        };
        OffsetFetchResponseGroup { group_id: request.group_id.clone(), topics, ..Default::default() }
    }

    fn fetch_topic(
        &self,
        group: &str,
        asked: &OffsetFetchRequestTopics,
        by_id: bool,
        require_stable: bool,
        topics: &dyn Topics,
    ) -> OffsetFetchResponseTopics {
        let name: Option<Arc<str>> =
            if by_id { topics.name_of(asked.topic_id) } else { Some(asked.name.as_str().into()) };
        let partition = |index: &i32| {
            let Some(name) = &name else { return none(*index, ErrorCode::UnknownTopicId) };
            if require_stable && self.offsets.is_unstable(group, name, *index) {
                return none(*index, ErrorCode::UnstableOffsetCommit);
            }
            match self.offsets.committed(group, name, *index) {
                Some(committed) if is_of_topic(committed, asked.topic_id) => found(*index, committed),
                _ => none(*index, ErrorCode::None),
            }
        };
        OffsetFetchResponseTopics {
            topic_id: asked.topic_id,
            partitions: asked.partition_indexes.iter().map(partition).collect(),
            name: asked.name.clone(),
        }
    }

    fn fetch_all(
        &self,
        group: &str,
        by_id: bool,
        require_stable: bool,
        topics: &dyn Topics,
    ) -> Vec<OffsetFetchResponseTopics> {
        let mut answer: Vec<OffsetFetchResponseTopics> = Vec::new();
        for (name, index, committed, is_unstable) in self.offsets.of_group(group) {
            let partition = if require_stable && is_unstable {
                none(index, ErrorCode::UnstableOffsetCommit)
            } else if let Some(committed) = committed {
                found(index, committed)
            } else {
                continue;
            };
            match answer.last_mut() {
                Some(topic) if *topic.name == **name => topic.partitions.push(partition),
                _ => answer.push(OffsetFetchResponseTopics {
                    topic_id: if by_id { topics.id_of(name).unwrap_or(TopicId::ZERO) } else { TopicId::ZERO },
                    partitions: vec![partition],
                    name: name.to_string(),
                }),
            }
        }
        // A topic that does not exist any more has no id to be named by.
        answer.retain(|topic| !by_id || topic.topic_id != TopicId::ZERO);
        answer
    }
}

/// An offset that was committed by topic id does not hold for another topic of the same name.
fn is_of_topic(committed: &CommittedOffset, asked: TopicId) -> bool {
    asked == TopicId::ZERO || committed.topic_id == TopicId::ZERO || committed.topic_id == asked
}

fn found(partition_index: i32, committed: &CommittedOffset) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: committed.offset,
        committed_leader_epoch: committed.leader_epoch,
        metadata: Some(committed.metadata.to_string()),
        error_code: 0,
    }
}

fn none(partition_index: i32, error: ErrorCode) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(String::new()),
        error_code: error.code(),
    }
}

/// Version 1 can name an error with partitions only.
fn refuse_group(
    request: &OffsetFetchRequestGroup,
    api_version: i16,
    error: ErrorCode,
) -> OffsetFetchResponseGroup {
    let topic = |topic: &OffsetFetchRequestTopics| OffsetFetchResponseTopics {
        name: topic.name.clone(),
        partitions: topic.partition_indexes.iter().map(|index| none(*index, error)).collect(),
        ..Default::default()
    };
    let topics = if api_version < GROUP_ERROR_VERSION {
        request.topics.iter().flatten().map(topic).collect()
    } else {
        Vec::new()
    };
    OffsetFetchResponseGroup { group_id: request.group_id.clone(), topics, error_code: error.code() }
}
