//! `DeleteGroups` (42), versions 0–2: ends groups that have no members, with all of their offsets.
//!
//! A request may name groups of several shards; the broker takes it apart and puts the answers together.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_protocol::messages::delete_groups_response::DeletableGroupResult;
use chronik_types::{ErrorCode, Now};

use crate::WriteId;
use crate::coordinator::{GroupCoordinator, env};
use crate::effects::{Effects, RequestContext, Response};
use crate::env::Change;
use crate::group::State;
use crate::offsets::OffsetKey;
use crate::records::{group_tombstone, offset_tombstone};

impl GroupCoordinator {
    /// Handles this shard's share of a `DeleteGroups`.
    pub fn delete_groups(&mut self, now: Now, context: &RequestContext, group_ids: &[String]) -> Effects {
        let mut fx = Effects::default();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut results = Vec::with_capacity(group_ids.len());
        let mut deleted: Vec<Arc<str>> = Vec::new();
        for id in group_ids.iter().filter(|id| seen.insert(id)) {
            let error = match self.check_delete(id) {
                Ok(id) => {
                    deleted.push(id);
                    ErrorCode::None
                }
                Err(error) => error,
            };
            results.push(DeletableGroupResult { group_id: id.clone(), error_code: error.code() });
        }
        let offsets: Vec<OffsetKey> = deleted.iter().flat_map(|id| self.offset_keys(id)).collect();
        if !deleted.is_empty() {
            tracing::info!(groups = ?deleted, offsets = offsets.len(), "deleting groups");
        }
        let write = self.write_tombstones(now, offsets, deleted, &mut fx);
        env!(self, now, fx).reply_after(write, context.waiter(), Response::DeleteGroups(results));
        fx
    }

    fn check_delete(&self, id: &str) -> Result<Arc<str>, ErrorCode> {
        self.check_writing()?;
        let group = self.groups.get(id).ok_or(ErrorCode::GroupIdNotFound)?;
        if group.is(State::Empty) { Ok(Arc::clone(&group.id)) } else { Err(ErrorCode::NonEmptyGroup) }
    }

    /// Every offset that the group has or is about to have.
    pub(crate) fn offset_keys(&self, id: &Arc<str>) -> Vec<OffsetKey> {
        let slots = self.offsets.of_group(id);
        slots
            .map(|(topic, partition, ..)| OffsetKey {
                group: Arc::clone(id),
                topic: Arc::clone(topic),
                partition,
            })
            .collect()
    }

    /// Sends tombstones of offsets and then of groups to the log, as one batch. Nothing changes until they are
    /// committed; a group that is used again before lives on.
    pub(crate) fn write_tombstones(
        &mut self,
        now: Now,
        offsets: Vec<OffsetKey>,
        groups: Vec<Arc<str>>,
        fx: &mut Effects,
    ) -> Option<WriteId> {
        let mut records: Vec<_> = offsets.iter().map(offset_tombstone).collect();
        records.extend(groups.iter().map(|id| group_tombstone(id)));
        if records.is_empty() {
            return None;
        }
        let changes = groups.iter().map(|id| Change::Deleted { group: Arc::clone(id) }).collect();
        let write = env!(self, now, *fx).write(records, changes);
        for id in groups {
            if let Some(group) = self.groups.get_mut(&id) {
                group.tombstone_write = Some(write);
            }
        }
        self.stage(write, offsets.into_iter().map(|key| (key, None)).collect());
        Some(write)
    }
}
