//! `OffsetDelete` (47), version 0 (KIP-496): deletes committed offsets of topics that the group does not consume.

use chronik_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use chronik_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use chronik_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use chronik_types::{ErrorCode, Now};

use crate::coordinator::{GroupCoordinator, env};
use crate::effects::{Effects, RequestContext, Response, Topics};
use crate::group::{Group, State};
use crate::offsets::OffsetKey;

impl GroupCoordinator {
    /// Handles an `OffsetDelete`.
    pub fn offset_delete(
        &mut self,
        now: Now,
        context: &RequestContext,
        request: &OffsetDeleteRequest,
        topics: &dyn Topics,
    ) -> Effects {
        let mut fx = Effects::default();
        let group = match self.check_offset_delete(request) {
            Ok(group) => group,
            Err(error) => {
                let response = OffsetDeleteResponse { error_code: error.code(), ..Default::default() };
                fx.complete(context.waiter(), Response::OffsetDelete(response));
                return fx;
            }
        };
        let mut deleted: Vec<OffsetKey> = Vec::new();
        let mut answer = |topic: &OffsetDeleteRequestTopic| {
            let partition_count = topics.partition_count(&topic.name);
            let is_used = group.is_subscribed_to(&topic.name);
            let partition = |partition: &OffsetDeleteRequestPartition| {
                let index = partition.partition_index;
                let error = if !(0..partition_count).contains(&index) {
                    ErrorCode::UnknownTopicOrPartition
                } else if is_used {
                    ErrorCode::GroupSubscribedToTopic
                } else {
                    if self.offsets.is_known(&group.id, &topic.name, index) {
                        let topic = topic.name.as_str().into();
                        deleted.push(OffsetKey { group: group.id.clone(), topic, partition: index });
                    }
                    ErrorCode::None
                };
                OffsetDeleteResponsePartition { partition_index: index, error_code: error.code() }
            };
            OffsetDeleteResponseTopic {
                name: topic.name.clone(),
                partitions: topic.partitions.iter().map(partition).collect(),
            }
        };
        let topics = request.topics.iter().map(&mut answer).collect();
        let response = OffsetDeleteResponse { topics, ..Default::default() };
        let write = self.write_tombstones(now, deleted, Vec::new(), &mut fx);
        env!(self, now, fx).reply_after(write, context.waiter(), Response::OffsetDelete(response));
        fx
    }

    fn check_offset_delete(&self, request: &OffsetDeleteRequest) -> Result<&Group, ErrorCode> {
        self.check_writing()?;
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let group = self.groups.get(request.group_id.as_str()).ok_or(ErrorCode::GroupIdNotFound)?;
        // Only of consumers does the coordinator know which topics they use.
        if group.is(State::Empty) || group.uses_consumer_protocol() {
            Ok(group)
        } else {
            Err(ErrorCode::NonEmptyGroup)
        }
    }
}
