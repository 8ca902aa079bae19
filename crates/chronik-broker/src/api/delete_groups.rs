//! `DeleteGroups` (key 42, versions 0–2): groups without members, with their offsets. The groups of one shard are one
//! write; the answer comes when all shards have answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_coordinator::Response;
use chronik_protocol::messages::delete_groups_response::DeletableGroupResult;
use chronik_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};
use chronik_types::ErrorCode;

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::groups::Shard;

use super::outcomes::Outcomes;

/// The most that the answer waits for its shards, in milliseconds. Each gives up its writes before.
const WAIT_MS_MAX: i32 = 30_000;

struct Share {
    shard: Arc<Shard>,
    group_ids: Vec<String>,
}

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DeleteGroupsRequest) {
    // By the address of the shard, which is the same for all groups in it. Groups that are coordinated elsewhere have
    // one each.
    let mut by_shard: BTreeMap<usize, Share> = BTreeMap::new();
    for group_id in request.groups_names {
        let shard = broker.group_shard(context.now, &group_id);
        let portion = by_shard
            .entry(Arc::as_ptr(&shard).addr())
            .or_insert_with(|| Share { shard, group_ids: Vec::new() });
        portion.group_ids.push(group_id);
    }
    let shares: Vec<Share> = by_shard.into_values().collect();
    if shares.is_empty() {
        context.reply(&DeleteGroupsResponse::default());
        return;
    }
    let (now, connection) = (context.now, Arc::clone(&context.connection));
    let contexts: Vec<_> = shares.iter().map(|_| broker.group_context(&context)).collect();
    let asked: Vec<Vec<String>> = shares.iter().map(|share| share.group_ids.clone()).collect();
    let outcomes = Outcomes::new(
        broker,
        context,
        shares.len(),
        Box::new(move |context, outcomes: Vec<Option<Vec<DeletableGroupResult>>>| {
            let results = outcomes
                .into_iter()
                .zip(asked)
                .flat_map(|(outcome, group_ids)| outcome.unwrap_or_else(|| late(group_ids)))
                .collect();
            context.reply(&DeleteGroupsResponse { results, ..Default::default() });
        }),
    );
    for (position, (share, asked)) in shares.into_iter().zip(contexts).enumerate() {
        let Share { shard, group_ids } = share;
        let outcomes = Arc::clone(&outcomes);
        let answer = Box::new(move |response| {
            if let Response::DeleteGroups(results) = response {
                outcomes.set(position, results);
            }
        });
        shard.submit(now, &asked, &connection, answer, |coordinator| {
            coordinator.delete_groups(now, &asked, &group_ids)
        });
    }
    outcomes.wait(WAIT_MS_MAX);
}

/// What is said of groups whose shard has not answered in time.
fn late(group_ids: Vec<String>) -> Vec<DeletableGroupResult> {
    let error_code = ErrorCode::CoordinatorNotAvailable.code();
    group_ids.into_iter().map(|group_id| DeletableGroupResult { group_id, error_code }).collect()
}
