//! `DescribeGroups` (key 15, versions 0–6): state, members and assignments of groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};
use chronik_types::ErrorCode;

use crate::broker::Broker;
use crate::context::RequestContext;

use super::authorized_operations::{GROUP_OPERATIONS, OPERATIONS_UNKNOWN};

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DescribeGroupsRequest) {
    let version = context.version();
    let mut named = BTreeSet::new();
    let groups = request
        .groups
        .iter()
        // A group that is named again is answered once: names cost a client little, and members a lot.
        .filter(|group_id| named.insert(group_id.as_str()))
        .map(|group_id| {
            let shard = broker.group_shard(context.now, group_id);
            let mut group =
                shard.read(context.now, |coordinator| coordinator.describe_group(version, group_id));
            let is_asked =
                request.include_authorized_operations && group.error_code == ErrorCode::None.code();
            group.authorized_operations = if is_asked { GROUP_OPERATIONS } else { OPERATIONS_UNKNOWN };
            group
        })
        .collect();
    context.reply(&DescribeGroupsResponse { groups, ..Default::default() });
}
