//! `OffsetCommit` (8), versions 2–10.
//!
//! A member commits in its generation. Without a generation (−1) and a member id it is an admin tool, or a
//! consumer that assigns its partitions itself, and may commit while the group has no members; a group that does
//! not exist comes to be by it (a "simple" group). Version 10 names topics by id.

use std::sync::Arc;

use chronik_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use chronik_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use chronik_types::{ErrorCode, Now, TimestampMs, TopicId};

use crate::coordinator::{GroupCoordinator, env};
use crate::effects::{Effects, RequestContext, Response, Topics};
use crate::env::Env;
use crate::group::{Group, State};
use crate::offsets::{CommittedOffset, OffsetKey};
use crate::records::offset_record;

/// The first version that names topics by id.
const TOPIC_ID_VERSION: i16 = 10;
/// The first version that may hear that the group does not exist.
const GROUP_NOT_FOUND_VERSION: i16 = 9;

impl GroupCoordinator {
    /// Handles an `OffsetCommit`.
    pub fn offset_commit(
        &mut self,
        now: Now,
        context: &RequestContext,
        request: &OffsetCommitRequest,
        topics: &dyn Topics,
    ) -> Effects {
        let mut fx = Effects::default();
        let by_id = context.api_version >= TOPIC_ID_VERSION;
        let mut staged = Vec::new();
        let checked = self
            .check_writing()
            .and_then(|()| check_commit(self.groups.get(request.group_id.as_str()), context, request));
        let mut env = env!(self, now, fx);
        if checked.is_ok()
            && let Some(group) = self.groups.get(request.group_id.as_str())
        {
            refresh_committer(group, &mut env, request);
        }
        let commit = Commit {
            group: self
                .groups
                .get_key_value(request.group_id.as_str())
                .map_or_else(|| request.group_id.as_str().into(), |(id, _)| Arc::clone(id)),
            now,
            expire_timestamp: expire_timestamp(now, request.retention_time_ms),
            metadata_max: env.config.offset_metadata_bytes_max,
            by_id,
            topics,
        };
        let answer = |topic| match checked {
            Ok(()) => commit.topic(topic, &mut staged),
            Err(error) => refuse_topic(topic, error),
        };
        let response = OffsetCommitResponse {
            topics: request.topics.iter().map(answer).collect(),
            ..Default::default()
        };
        let write = if staged.is_empty() {
            None
        } else {
            let records = staged.iter().map(|(key, value)| offset_record(key, value)).collect();
            Some(env.write(records, Vec::new()))
        };
        env.reply_after(write, context.waiter(), Response::OffsetCommit(response));
        if let Some(write) = write {
            self.stage(write, staged.into_iter().map(|(key, value)| (key, Some(value))).collect());
        }
        fx
    }
}

/// Who may commit, by Kafka's rules.
fn check_commit(
    group: Option<&Group>,
    context: &RequestContext,
    request: &OffsetCommitRequest,
) -> Result<(), ErrorCode> {
    let generation = request.generation_id_or_member_epoch;
    let Some(group) = group else {
        return if generation < 0 {
            tracing::info!(
                group = request.group_id,
                "a group without members begins with a committed offset"
            );
            Ok(())
        } else if context.api_version >= GROUP_NOT_FOUND_VERSION {
            Err(ErrorCode::GroupIdNotFound)
        } else {
            Err(ErrorCode::IllegalGeneration)
        };
    };
    if generation < 0 && group.is(State::Empty) {
        return Ok(());
    }
    if generation >= 0 || !request.member_id.is_empty() || request.group_instance_id.is_some() {
        group.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
        if generation != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
    } else if !group.is(State::Empty) {
        return Err(ErrorCode::UnknownMemberId);
    }
    if group.is(State::CompletingRebalance) {
        // It has heard of the new generation but owns nothing in it yet.
        return Err(ErrorCode::RebalanceInProgress);
    }
    Ok(())
}

/// Committing is a sign of life.
fn refresh_committer(group: &Group, env: &mut Env<'_>, request: &OffsetCommitRequest) {
    if matches!(group.state(), State::Stable | State::PreparingRebalance) {
        group.refresh_session(env, &request.member_id);
    }
}

fn expire_timestamp(now: Now, retention_time_ms: i64) -> Option<TimestampMs> {
    (retention_time_ms != -1).then(|| TimestampMs(now.wall.get().saturating_add(retention_time_ms)))
}

fn refuse_topic(topic: &OffsetCommitRequestTopic, error: ErrorCode) -> OffsetCommitResponseTopic {
    let partition = |partition: &OffsetCommitRequestPartition| OffsetCommitResponsePartition {
        partition_index: partition.partition_index,
        error_code: error.code(),
    };
    OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}

/// One commit that is allowed to its group.
struct Commit<'a> {
    group: Arc<str>,
    now: Now,
    expire_timestamp: Option<TimestampMs>,
    metadata_max: usize,
    by_id: bool,
    topics: &'a dyn Topics,
}

impl Commit<'_> {
    fn topic(
        &self,
        topic: &OffsetCommitRequestTopic,
        staged: &mut Vec<(OffsetKey, CommittedOffset)>,
    ) -> OffsetCommitResponseTopic {
        let name: Arc<str> = if self.by_id {
            match self.topics.name_of(topic.topic_id) {
                Some(name) => name,
                None => return refuse_topic(topic, ErrorCode::UnknownTopicId),
            }
        } else {
            topic.name.as_str().into()
        };
        let partition_count = self.topics.partition_count(&name);
        let partition = |partition: &OffsetCommitRequestPartition| {
            let error = if !(0..partition_count).contains(&partition.partition_index) {
                ErrorCode::UnknownTopicOrPartition
            } else if self.is_too_long(partition.committed_metadata.as_deref()) {
                ErrorCode::OffsetMetadataTooLarge
            } else {
                staged.push(self.offset(&name, topic, partition));
                ErrorCode::None
            };
            OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error.code(),
            }
        };
        OffsetCommitResponseTopic {
            partitions: topic.partitions.iter().map(partition).collect(),
            topic_id: topic.topic_id,
            name: topic.name.clone(),
        }
    }

    fn is_too_long(&self, metadata: Option<&str>) -> bool {
        metadata.is_some_and(|metadata| metadata.encode_utf16().count() > self.metadata_max)
    }

    fn offset(
        &self,
        name: &Arc<str>,
        topic: &OffsetCommitRequestTopic,
        partition: &OffsetCommitRequestPartition,
    ) -> (OffsetKey, CommittedOffset) {
        let key = OffsetKey {
            group: Arc::clone(&self.group),
            topic: Arc::clone(name),
            partition: partition.partition_index,
        };
        let committed = CommittedOffset {
            offset: partition.committed_offset,
            // Anything below 0 says that there is none.
            leader_epoch: partition.committed_leader_epoch.max(-1),
            metadata: partition.committed_metadata.as_deref().unwrap_or_default().into(),
            commit_timestamp: self.now.wall,
            expire_timestamp: self.expire_timestamp,
            topic_id: if self.by_id { topic.topic_id } else { TopicId::ZERO },
        };
        (key, committed)
    }
}
