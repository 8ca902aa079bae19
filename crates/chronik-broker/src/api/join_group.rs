//! `JoinGroup` (key 11, versions 0–9): a member enters its group. The answer waits for the rebalance.

use std::sync::Arc;

use chronik_protocol::messages::JoinGroupRequest;

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: JoinGroupRequest) {
    broker.run_group_request(context, &request.group_id, |coordinator, now, asked| {
        coordinator.join_group(now, asked, &request)
    });
}
