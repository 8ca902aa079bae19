//! `ListGroups` (key 16, versions 0–5): every group that this broker coordinates, by state (KIP-518) and type.

use std::sync::Arc;

use chronik_protocol::messages::{ListGroupsRequest, ListGroupsResponse};

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: ListGroupsRequest) {
    let mut response = ListGroupsResponse::default();
    for shard in broker.group_shards(context.now) {
        let listed = shard.read(context.now, |coordinator| {
            coordinator.list_groups(&request.states_filter, &request.types_filter)
        });
        match listed {
            Ok(groups) => response.groups.extend(groups),
            // A list that lacks a shard's groups says so, and gives no others, as Kafka's.
            Err(error) => {
                response = ListGroupsResponse { error_code: error.code(), ..Default::default() };
                break;
            }
        }
    }
    context.reply(&response);
}
